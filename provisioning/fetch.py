"""One file from its address into its part: asked for, considered before the first byte, brought, and hashed."""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from provisioning import disk, layout
from provisioning.addresses import site_of
from provisioning.digests import Digest
from provisioning.errors import (
    NeedsToken,
    NoHash,
    OriginBusy,
    ProvisioningError,
    Stopped,
    UpstreamChanged,
    WrongSize,
)
from provisioning.frontier import Frontier
from provisioning.journal import Journal, checksum_of
from provisioning.lanes import Lanes
from provisioning.origin import Offer, Route, offer_of
from provisioning.segments import Segments
from provisioning.settings import Settings
from provisioning.stream import StreamTransfer
from provisioning.transfer import STRIKES, ContentChanged, RangedTransfer, pause_before
from provisioning.transport import Reply, Transport, without_query

log = logging.getLogger(__name__)

RESTARTS = 3
"""How often a file may change at the origin while we fetch it."""
PROBE = {"Range": "bytes=0-0"}


@dataclass(frozen=True, slots=True)
class Wish:
    """One file that a model consists of. `digest` and `size` are what it must be; None where nobody said."""

    model_id: str
    url: str
    path: Path
    digest: Digest | None = None
    size: int | None = None
    auth_required: bool = False
    auth_provider: str | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came: its digests by algorithm, its size, and what the origin itself said about it."""

    size: int
    digests: dict[str, Digest]
    offer: Offer


@dataclass(frozen=True, slots=True)
class Watcher:
    """Whom a fetch keeps informed: `progress` with (bytes, total), `arrived` when only hashing is left."""

    progress: Callable[[int, int | None], None]
    arrived: Callable[[], None]


class Fetcher:
    """Fetches files; one for the whole process, so that connections are shared out among them."""

    def __init__(self, settings: Settings, transport: Transport, lanes: Lanes, stop: threading.Event) -> None:
        self.settings = settings
        self.transport = transport
        self.lanes = lanes
        self.stop = stop

    def fetch(self, wish: Wish, part: Path, priority: int, watcher: Watcher) -> Arrival:
        """Bring a file into its part, continuing what an earlier try left there.

        Nothing is compared with the expected hash here, only what the origin says before the first byte. Raises
        `OriginError`, `AccessError`, `DiskError`, `WrongBytes`, `NoHash` and `Stopped`; the part is kept.
        """
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
        raise UpstreamChanged(f"{without_query(wish.url)} changed {RESTARTS} times while it was fetched: {change}")

    def offer(self, wish: Wish, priority: int) -> Offer:
        """Ask what the origin would send, and take nothing. Raises what `fetch` raises."""
        self._demand_token(wish)
        offer, reply = self._ask(Route(self.transport, wish.url, wish.auth_provider), wish, priority)
        reply.close()
        return offer

    def _demand_token(self, wish: Wish) -> None:
        if wish.auth_required and self.transport.tokens.of(wish.url) is None:
            tokens = self.transport.tokens
            if site_of(wish.url) in tokens.by_site:
                variable = tokens.variable(wish.url, wish.auth_provider)
                raise NeedsToken(f"{without_query(wish.url)} needs a token: set {variable}")

    def _try(self, route: Route, wish: Wish, part: Path, priority: int, watcher: Watcher) -> Arrival:
        offer, reply = self._ask(route, wish, priority)
        try:
            self._consider(wish, offer)
            if offer.size is not None:
                disk.demand(part.parent, offer.size - disk.allocated_bytes(part), wish.path.name)
            part.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            frontier = Frontier(descriptor, self._algorithms(wish))
            try:
                if offer.ranges or offer.size == 0:
                    size = self._in_ranges(route, offer, wish, part, descriptor, frontier, priority, watcher)
                else:
                    with self.lanes.taken(site_of(wish.url).host, priority, self.stop):
                        size = self._in_one(route, offer, reply, descriptor, frontier, watcher)
                watcher.arrived()
                self._until_hashed(frontier)
                os.fsync(descriptor)
                return Arrival(size, frontier.result(), offer)
            finally:
                frontier.cancel()
                os.close(descriptor)
        finally:
            reply.close()

    def _algorithms(self, wish: Wish) -> set[str]:
        # SHA-256 always: receipts name it, and equal content under two ids is known by it.
        return {"sha256", wish.digest.computed_by if wish.digest else "sha256"}

    def _until_hashed(self, frontier: Frontier) -> None:
        while not frontier.settled:
            if self.stop.wait(0.02):
                raise Stopped

    def _ask(self, route: Route, wish: Wish, priority: int) -> tuple[Offer, Reply]:
        """Ask what the origin offers, as often as it makes sense."""
        host = site_of(wish.url).host
        for strike in range(1, STRIKES + 1):
            try:
                with self.lanes.taken(host, priority, self.stop):
                    reply = route.open(PROBE)
                offer = offer_of(reply)
                if offer.ranges:
                    reply.read(1)
                    reply.close(keep=True)
            except ProvisioningError as error:
                if error.permanent or isinstance(error, Stopped) or strike == STRIKES:
                    raise
                seconds = pause_before(strike) if error.retry_after is None else error.retry_after
                if isinstance(error, OriginBusy):
                    self.lanes.pause(host, seconds)
                if self.stop.wait(seconds):
                    raise Stopped from error
            else:
                return offer, reply
        raise AssertionError("unreachable: the last strike raises")

    def _consider(self, wish: Wish, offer: Offer) -> None:
        """Refuse, before the first byte, what cannot end well."""
        where = without_query(wish.url)
        if None not in (wish.size, offer.size) and wish.size != offer.size:
            raise WrongSize(f"{where} has {offer.size} bytes, the catalogue says {wish.size}; correct size_bytes there")
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

    def _in_ranges(  # noqa: PLR0913 - one place calls it
        self,
        route: Route,
        offer: Offer,
        wish: Wish,
        part: Path,
        descriptor: int,
        frontier: Frontier,
        priority: int,
        watcher: Watcher,
    ) -> int:
        total = offer.size or 0
        segments = Segments(total)
        journal = Journal(layout.journal_of(part), identity_of(wish, offer, segments.size))
        resume(segments, journal, descriptor)
        try:
            disk.reserve(descriptor, total)
            os.ftruncate(descriptor, total)
            segments.begin()
            frontier.advance(segments.advance(), total)
            watcher.progress(segments.written, total)
            transfer = RangedTransfer(
                route,
                offer,
                segments,
                descriptor,
                journal,
                frontier,
                self.lanes,
                priority,
                self.settings.stall_seconds,
            )
            transfer.run(lambda done: watcher.progress(done, total))
        finally:
            journal.close()
        return total

    def _in_one(  # noqa: PLR0913 - one place calls it
        self,
        route: Route,
        offer: Offer,
        reply: Reply,
        descriptor: int,
        frontier: Frontier,
        watcher: Watcher,
    ) -> int:
        """Stream the file; when the connection breaks there is nothing to continue, only to begin again."""
        for strike in range(1, STRIKES + 1):
            transfer = StreamTransfer(reply, descriptor, frontier, self.stop, self.settings.stall_seconds)
            try:
                return transfer.run(offer.size, lambda done: watcher.progress(done, offer.size))
            except ProvisioningError as error:
                if error.permanent or isinstance(error, Stopped) or strike == STRIKES:
                    raise
                log.debug("strike %s against %s: %s", strike, without_query(route.url), error)
                if self.stop.wait(pause_before(strike)):
                    raise Stopped from error
            frontier.restart()
            reply = route.open({})
        raise AssertionError("unreachable: the last strike raises")


def identity_of(wish: Wish, offer: Offer, segment: int) -> dict[str, object]:
    """Say what a journal is about: the same content may be continued from another address."""
    return {
        "version": 1,
        "size": offer.size,
        "segment": segment,
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
