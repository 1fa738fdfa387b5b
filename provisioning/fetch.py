"""One file from its address into its part: asked for, considered before the first byte, brought, and hashed."""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from provisioning import disk, layout, local
from provisioning.addresses import site_of
from provisioning.errors import (
    HashMismatch,
    NeedsToken,
    NoHash,
    OriginBusy,
    ProvisioningError,
    Stopped,
    UpstreamChanged,
    WrongSize,
)
from provisioning.frontier import Frontier
from provisioning.hub import Hub, Repository, Snapshot
from provisioning.journal import Journal, checksum_of
from provisioning.lanes import Lanes
from provisioning.origin import Offer, Route, offer_of
from provisioning.segments import Segments
from provisioning.settings import Settings
from provisioning.sharing import Sharing
from provisioning.stream import StreamTransfer
from provisioning.transfer import STRIKES, ContentChanged, Haul, RangedTransfer, pause_before
from provisioning.transport import Reply, Transport, without_query
from provisioning.wish import Arrival, Watcher, Wish

T = TypeVar("T")
log = logging.getLogger(__name__)

RESTARTS = 3
"""How often a file may change at the origin while we fetch it."""
SHARED_BYTES = 4 << 20
"""Smaller files are not worth meeting neighbours for."""
PROBE = {"Range": "bytes=0-0"}


class Fetcher:
    """Fetches files; one for the whole process, so that connections are shared out among them."""

    def __init__(self, settings: Settings, transport: Transport, lanes: Lanes, stop: threading.Event) -> None:
        self.settings = settings
        self.transport = transport
        self.lanes = lanes
        self.stop = stop
        self.sharing: Sharing | None = None

    def fetch(self, wish: Wish, part: Path, priority: int, watcher: Watcher) -> Arrival:
        """Bring a file into its part, continuing what an earlier try left there.

        Nothing is compared with the expected hash here, only what the origin says before the first byte. Raises
        `OriginError`, `AccessError`, `DiskError`, `WrongBytes`, `NoHash` and `Stopped`; the part is kept.
        """
        if local.is_local(wish.url):
            return self._copy(wish, part, watcher)
        self._demand_token(wish)
        route = Route(self.transport, wish.url, wish.auth_provider)
        change: ContentChanged | None = None
        for _ in range(RESTARTS):
            try:
                return self._try(route, wish, part, priority, watcher)
            except ContentChanged as error:
                log.warning("%s: %s changed at its origin: %s", wish.model_id, without_query(wish.url), error)
                discard(part)
                change = error
            except OSError as error:
                raise disk.named(error, part) from error
        raise UpstreamChanged(
            f"{without_query(wish.url)} changed {RESTARTS} times while it was fetched: {change}; try again later, or "
            "pin the revision in download_url",
        )

    def _copy(self, wish: Wish, part: Path, watcher: Watcher) -> Arrival:
        try:
            return local.copy(wish, part, watcher, self.stop)
        except OSError as error:
            raise disk.named(error, part) from error

    def offer(self, wish: Wish, priority: int) -> Offer:
        """Ask what the origin would send, and take nothing. Raises what `fetch` raises."""
        if local.is_local(wish.url):
            return local.offer(wish)
        self._demand_token(wish)
        offer, reply = self._ask(Route(self.transport, wish.url, wish.auth_provider), wish, priority)
        reply.close()
        return offer

    def snapshot(self, wish: Wish, repository: Repository) -> Snapshot:
        """Ask the hub what a repository holds, as often as it makes sense."""
        self._demand_token(replace(wish, url=self.settings.hf_endpoint))
        hub = Hub(self.settings.hf_endpoint, self.transport)
        return self._patiently(site_of(self.settings.hf_endpoint).host, lambda: hub.snapshot(repository))

    def _demand_token(self, wish: Wish) -> None:
        tokens = self.transport.tokens
        if wish.auth_required and tokens.knows(wish.url) and tokens.of(wish.url) is None:
            variable = tokens.variable(wish.url, wish.auth_provider)
            raise NeedsToken(f"{without_query(wish.url)} needs a token: set {variable}")

    def _try(self, route: Route, wish: Wish, part: Path, priority: int, watcher: Watcher) -> Arrival:
        offer, reply = self._ask(route, wish, priority)
        try:
            self.consider(wish, offer)
            if offer.size is not None:
                disk.demand(part.parent, offer.size - disk.allocated_bytes(part), wish.path.name)
            part.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            frontier = Frontier(descriptor, self._algorithms(wish), wish.size)
            stall, pause = self.settings.stall_seconds, self.settings.pause_seconds
            sharing = self.sharing if (offer.size or 0) >= SHARED_BYTES else None
            haul = Haul(route, offer, descriptor, frontier, self.lanes, priority, stall, pause, wish.digest, sharing)
            shared = False
            try:
                if offer.ranges or offer.size == 0:
                    size, shared = offer.size or 0, self._in_ranges(haul, wish, part, watcher)
                else:
                    with self.lanes.taken(haul.host, priority, self.stop):
                        size = self._in_one(haul, reply, wish.size, watcher)
                watcher.arrived()
                # The disk and the hash finish side by side; nothing gets its name before both have.
                os.fsync(descriptor)
                self._until_hashed(frontier)
                return Arrival(size, frontier.result(), offer, shared)
            finally:
                frontier.cancel()
                os.close(descriptor)
        finally:
            reply.close()

    def _algorithms(self, wish: Wish) -> set[str]:
        # SHA-256 always: receipts name it, and equal content under two ids is known by it.
        return {"sha256", wish.digest.computed_by if wish.digest else "sha256"}

    def _until_hashed(self, frontier: Frontier) -> None:
        while not frontier.wait(0.1):
            if self.stop.is_set():
                raise Stopped

    def _ask(self, route: Route, wish: Wish, priority: int) -> tuple[Offer, Reply]:
        """Ask what the origin offers, as often as it makes sense."""
        host = site_of(wish.url).host

        def ask() -> tuple[Offer, Reply]:
            with self.lanes.taken(host, priority, self.stop):
                reply = route.open(PROBE)
                offer = offer_of(reply)
                if offer.ranges:
                    reply.read(1)
                    reply.close(keep=True)
                return offer, reply

        return self._patiently(host, ask)

    def _patiently(self, host: str, ask: Callable[[], T]) -> T:
        """Ask again after what may pass by itself."""
        for strike in range(1, STRIKES + 1):
            try:
                return ask()
            except ProvisioningError as error:
                if error.permanent or isinstance(error, Stopped) or strike == STRIKES:
                    raise
                log.debug("strike %s against %s: %s", strike, host, error)
                pause = pause_before(strike, self.settings.pause_seconds)
                seconds = pause if error.retry_after is None else error.retry_after
                if isinstance(error, OriginBusy):
                    self.lanes.pause(host, seconds)
                if self.stop.wait(seconds):
                    raise Stopped from error
        raise AssertionError("unreachable: the last strike raises")

    def consider(self, wish: Wish, offer: Offer) -> None:
        """Refuse, before the first byte, what cannot end well. Raises `WrongSize`, `NoHash`, `UpstreamChanged`."""
        where = without_query(wish.url)
        if None not in (wish.size, offer.size) and wish.size != offer.size:
            raise WrongSize(f"{where} has {offer.size} bytes, the catalogue says {wish.size}; correct size_bytes there")
        refused = wish.refused
        if refused and offer.etag and (refused.etag, refused.size) == (offer.etag, offer.size):
            raise HashMismatch(
                f"{where} still has the bytes that were refused ({refused.digests[0]}), the catalogue says "
                f"{wish.digest}; correct the hash or download_url there; they are kept at {refused.refuge}",
            )
        if wish.digest is None and offer.sha256 is None and not self.settings.allow_unverified:
            raise NoHash(
                f"nothing can prove {where}: the catalogue has no hash for it and the origin tells none; add the hash "
                "to the catalogue, or set ALLOW_UNVERIFIED=1",
            )
        if (
            wish.digest
            and offer.sha256
            and wish.digest.computed_by == "sha256"
            and not wish.digest.matches(offer.sha256)
        ):
            raise UpstreamChanged(
                f"{where} is {offer.sha256} at its origin, the catalogue says {wish.digest}; the file was changed, or "
                "the catalogue is wrong; correct the hash there or pin the revision in download_url",
            )

    def _in_ranges(self, haul: Haul, wish: Wish, part: Path, watcher: Watcher) -> bool:
        """Fetch in parallel; return whether neighbours gave some of it."""
        total = haul.offer.size or 0
        segments = Segments(total)
        journal = Journal(layout.journal_of(part), identity_of(wish, haul.offer))
        resume(segments, journal, haul.descriptor)
        try:
            disk.reserve(haul.descriptor, total)
            os.ftruncate(haul.descriptor, total)
            segments.begin()
            haul.frontier.advance(segments.advance(), total)
            watcher.progress(segments.written, total)
            if haul.sharing and wish.digest:
                haul.sharing.begin(wish.digest, part, segments)
            transfer = RangedTransfer(haul, segments, journal)
            transfer.run(lambda done: watcher.progress(done, total))
        finally:
            journal.close()
        return transfer.from_neighbours

    def _in_one(self, haul: Haul, reply: Reply, limit: int | None, watcher: Watcher) -> int:
        """Stream the file; when the connection breaks there is nothing to continue, only to begin again."""
        size = haul.offer.size
        watcher.progress(0, size)
        first = iter([reply])

        def stream() -> int:
            body = next(first, None)
            if body is None:
                haul.frontier.restart()
                body = haul.route.open({})
            return StreamTransfer(haul, body, limit).run(size, lambda done: watcher.progress(done, size))

        return self._patiently(haul.host, stream)


def identity_of(wish: Wish, offer: Offer) -> dict[str, object]:
    """Say what a journal is about: the same content may be continued from another address."""
    return {
        "version": 2,
        "size": offer.size,
        "etag": offer.etag,
        "hash": str(wish.digest or offer.sha256 or without_query(wish.url)),
    }


def resume(segments: Segments, journal: Journal, descriptor: int) -> None:
    """Take over what an earlier process wrote, as far as its checksums hold."""
    for index, (length, checksum) in journal.open().items():
        if index >= len(segments.all) or length > segments.all[index].length:
            continue
        segment = segments.all[index]
        if checksum_of(descriptor, segment.start, length) == checksum:
            segment.have = segment.recorded = length
            segment.checksum = checksum


def discard(part: Path) -> None:
    """Throw away a part and its journal."""
    part.unlink(missing_ok=True)
    layout.journal_of(part).unlink(missing_ok=True)
