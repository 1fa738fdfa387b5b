"""Joining a machine to its neighbours: what it holds or fetches is handed to them, and taken from them.

The fleet's API introduces machines to each other (``POST /machines/v1/peers``). What comes from a neighbour is
checked like anything else: by the hash of the whole file; wrong once, and the origin alone is asked.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from provisioning import share
from provisioning.addresses import site_of
from provisioning.digests import Digest
from provisioning.errors import LookupFailed, OriginBroken
from provisioning.events import Listener, notice
from provisioning.neighbours import Neighbours
from provisioning.segments import Segment, Segments
from provisioning.settings import Settings
from provisioning.share import ShareServer, Shelf
from provisioning.transport import Reply, Transport

log = logging.getLogger(__name__)

PEERS_PATH = "/machines/v1/peers"
ANNOUNCE_SECONDS = 5.0
CONNECT_SECONDS = 1.0
"""Neighbours are near: one that does not answer at once is not there, and its ranges wait."""
PATIENCE_SECONDS = 20.0
"""How long neighbours may say "not yet" for a range before the origin is asked instead."""


def join(settings: Settings, stop: threading.Event, tell: Listener) -> "Sharing | None":
    """Take part in the exchange if `SHARE_URL` is set and its port is free; else go on without neighbours.

    On a machine that watches, a second run beside it finds the port taken, and that is fine.
    """
    if settings.share_url is None:
        return None
    try:
        return Sharing(settings, stop)
    except (OSError, OverflowError) as error:
        tell(notice(f"SHARE_URL={settings.share_url} cannot be listened on ({error}); going on without neighbours"))
        return None


class NotYet(Exception):
    """The neighbour whose range it is does not have it yet."""


class Sharing:
    """This machine's part in the exchange."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        assert settings.share_url is not None
        assert settings.machine_token is not None
        # Neighbours live in private networks; the fleet's API, which names them, is trusted to know them.
        self.transport = Transport(replace(settings, allow_private_addresses=True), CONNECT_SECONDS)
        self.settings = settings
        self.token = settings.machine_token
        self.shelf = Shelf(settings.models_dir)
        site = site_of(settings.share_url)
        self.server = ShareServer(self.shelf, self.token, _listen_address(site.host), site.port)
        self.neighbours = Neighbours(settings.share_url, self._announce, self.shelf.contents, stop)
        self._ends: dict[str, Callable[[], None]] = {}
        self._refused_at: dict[tuple[str, int], float] = {}

    def start(self) -> None:
        """Hand out what is here, and begin to announce it."""
        self.shelf.look()
        self.server.start()
        self.neighbours.start()

    def stop(self) -> None:
        """Hand out nothing more."""
        self.server.stop()

    def begin(self, digest: Digest, part: Path, segments: Segments) -> None:
        """Hand out a file while it arrives, and meet the neighbours that fetch it too."""
        key = str(digest)
        self._ends[key] = self.shelf.arriving(key, part, segments)
        self.neighbours.meet()

    def settle(self, digests: list[Digest]) -> None:
        """Hand out proven files as such; called when a model is proved, or is given up for now."""
        self.shelf.look()
        for digest in digests:
            end = self._ends.pop(str(digest), None)
            if end is not None:
                end()
                # Tell at once that it is whole now: who boots next can take all of it from here.
                threading.Thread(target=self.neighbours.meet, name="meet", daemon=True).start()

    def distrust(self, digest: Digest) -> None:
        """Take this file from the origin alone from now on."""
        self.neighbours.distrust(str(digest))

    def source(self, digest: Digest, segment: Segment) -> str | None:
        """Return the neighbour to ask for a segment; None when the origin is to be asked."""
        refused_at = self._refused_at.get((str(digest), segment.index))
        if refused_at is not None and time.monotonic() - refused_at > PATIENCE_SECONDS:
            return None
        return self.neighbours.source_of(str(digest), segment.index)

    def open(self, source: str, digest: Digest, segment: Segment) -> Reply:
        """Ask a neighbour for the rest of a segment. Raises `NotYet`, and what a broken connection is called."""
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Range": f"bytes={segment.position}-{segment.end - 1}",
            share.WAIT_HEADER: f"{self.settings.stall_seconds * 0.7:.1f}",
        }
        reply = self.transport.open_once(share.address(source, str(digest)), headers, direct=True)
        if reply.status == 206:
            return reply
        reply.close()
        if reply.status in {404, 503}:
            self._refused_at.setdefault((str(digest), segment.index), time.monotonic())
            raise NotYet
        raise OriginBroken(f"{source} answered {reply.status}, expected 206")

    def avoid(self, source: str, error: Exception) -> None:
        """Leave a neighbour alone for a while."""
        self.neighbours.avoid(source, error)

    def _announce(self, contents: Mapping[str, bool]) -> Mapping[str, list[tuple[str, bool]]]:
        body = {
            "url": self.settings.share_url,
            "files": [{"key": key, "complete": whole} for key, whole in contents.items()],
        }
        url = self.settings.fleet_url + PEERS_PATH
        response = self.transport.post_json(url, body, self.token, ANNOUNCE_SECONDS)
        if response.status != 200:
            raise LookupFailed(f"{url} answered {response.status}")
        peers = json.loads(response.data)["peers"]
        return {
            key: [(str(row["url"]).rstrip("/"), bool(row["complete"])) for row in rows] for key, rows in peers.items()
        }


def _listen_address(host: str) -> str:
    """Listen on loopback if neighbours are told so, else on every address: names and NAT hide the real one."""
    with suppress(ValueError):
        return host if ip_address(host).is_loopback else ""
    return "127.0.0.1" if host == "localhost" else ""
