"""Bringing the bytes of one file into its part: in parallel ranges where the origin can, else in one stream."""

import logging
import random
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from provisioning import disk
from provisioning.addresses import site_of
from provisioning.digests import Digest
from provisioning.errors import OriginBroken, OriginBusy, ProvisioningError, Stopped, TooSlow, Truncated
from provisioning.frontier import Frontier
from provisioning.journal import Journal
from provisioning.lanes import Lanes
from provisioning.origin import Offer, Route, content_range, strong_etag
from provisioning.passage import Passage, Passages, read_size
from provisioning.segments import Segment, Segments
from provisioning.sharing import NotYet, Sharing
from provisioning.transport import Reply

log = logging.getLogger(__name__)

RECORD_BYTES, RECORD_SECONDS = 1 << 20, 0.1
"""A journal record after so many bytes or so long, whichever is first: what a kill can cost each connection."""
WORTH_BYTES = 16 << 10
"""What a connection must bring to count as progress: an origin that drops every one after a few bytes is broken."""
STRIKES = 6
"""Rounds of failure without progress in between, before the file is given up for now (about 20 s)."""
LONGEST_PAUSE = 20.0
WATCH_SECONDS = 0.1
NOT_YET_SECONDS = 0.1
PARTING_SECONDS = 1.0
"""How long a thread is waited for whose connection has been cut: one may hang in connect(), and holds nothing then but
its socket, which ends by its own timeout."""


class ContentChanged(Exception):
    """The origin's content is not what it was when the transfer began: begin again."""


def pause_before(strike: int, first: float) -> float:
    """Return how long to wait after so many failures: doubling, with full jitter so that a fleet does not march."""
    return random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, first * 2.0**strike)  # noqa: S311 - no secret


@dataclass(frozen=True, slots=True)
class Haul:
    """What a transfer works with: where from, where to, and with whom it shares the line."""

    route: Route
    offer: Offer
    descriptor: int
    frontier: Frontier
    lanes: Lanes
    priority: int
    stall_seconds: float
    pause_seconds: float
    digest: Digest | None = None
    sharing: Sharing | None = None

    @property
    def host(self) -> str:
        """The host that is asked first."""
        return site_of(self.route.url).host


class RangedTransfer:
    """Several connections fetch segments in order; whoever fails gives its segment back to the others."""

    def __init__(self, haul: Haul, segments: Segments, journal: Journal) -> None:
        self.haul = haul
        self.segments = segments
        self.journal = journal
        self.host = haul.host
        self.over = threading.Event()
        self.done = threading.Event()
        self.passages = Passages(haul.stall_seconds)
        self.trouble: Exception | None = None
        self.strikes = 0
        self.gate = 0.0
        self.lock = threading.Lock()
        # One file is written by one thread at a time in any case; in the kernel the others would spin for it. Nobody
        # takes it up any more when the transfer is over: the file is closed then, and its number soon another one's.
        self.pen = threading.Lock()
        self.from_neighbours = False

    def run(self, progress: Callable[[int], None]) -> None:
        """Fetch everything that is missing. Raises `ContentChanged`, `Stopped`, and what cannot be survived."""
        width = min(self.haul.lanes.width, sum(1 for each in self.segments.all if not each.complete))
        threads = [
            threading.Thread(target=self._work, args=(number,), name=f"range {number}", daemon=True)
            for number in range(width)
        ]
        for thread in threads:
            thread.start()
        outflow = disk.Outflow(self.haul.descriptor)
        try:
            while any(thread.is_alive() for thread in threads) and not self.over.is_set():
                self.done.wait(WATCH_SECONDS)
                self.passages.watch()
                outflow.push(self.segments.front)
                progress(self.segments.written)
                if self.haul.lanes.stop.is_set():
                    raise Stopped
            if self.trouble is not None:
                raise self.trouble
            progress(self.segments.written)
        finally:
            self.over.set()
            self.passages.sever_all()
            for thread in threads:
                thread.join(PARTING_SECONDS)
            with self.pen:
                self._record_all()

    def _record_all(self) -> None:
        for segment in self.segments.all:
            if segment.have > segment.recorded:
                self._record(segment)

    def _record(self, segment: Segment) -> None:
        self.journal.record(segment.index, segment.have, segment.checksum)
        segment.recorded = segment.have

    def _work(self, number: int) -> None:
        # Half of the connections fetch first what neighbours wait for; the others feed the hash, in order.
        prefer = self._is_ours if self.haul.sharing and number % 2 == 0 else None
        while not self.over.is_set() and self.trouble is None:
            self.over.wait(max(0.0, self.gate - time.monotonic()))
            segment = self.segments.take(prefer)
            if segment is None:
                if self.segments.finished or self.done.wait(0.02):
                    return
                continue
            source = self._source(segment)
            host = site_of(source).host if source else self.host
            began, before = time.monotonic(), segment.have
            try:
                with self.haul.lanes.taken(host, self.haul.priority, self.over):
                    began = time.monotonic()
                    self._carry(segment, source)
                self.haul.lanes.praise(host)
            except NotYet:
                self.over.wait(NOT_YET_SECONDS)
            except (ProvisioningError, ContentChanged, OSError) as error:
                if source is not None and self.haul.sharing and not isinstance(error, Stopped | OSError):
                    self.haul.sharing.avoid(source, error)
                else:
                    self._failed(error, began, moved=segment.complete or segment.have - before >= WORTH_BYTES)
            finally:
                self.segments.give_back(segment)
                if self.segments.finished or self.over.is_set():
                    self.done.set()

    def _is_ours(self, segment: Segment) -> bool:
        return self._source(segment) is None

    def _source(self, segment: Segment) -> str | None:
        """Return the neighbour to ask; None for the origin."""
        sharing, digest = self.haul.sharing, self.haul.digest
        return sharing.source(digest, segment) if sharing and digest else None

    def _open(self, segment: Segment, source: str | None) -> Reply:
        """Ask for the rest of a segment."""
        if source is not None and self.haul.sharing and self.haul.digest:
            self.from_neighbours = True
            return self.haul.sharing.open(source, self.haul.digest, segment)
        headers = {"Range": f"bytes={segment.position}-{segment.end - 1}"}
        if self.haul.offer.etag:
            headers["If-Range"] = self.haul.offer.etag
        return self.haul.route.open(headers)

    def _carry(self, segment: Segment, source: str | None) -> None:
        """Fetch the rest of a segment."""
        reply = self._open(segment, source)
        passage = Passage(segment, reply)
        self.passages.begin(passage)
        try:
            self._check(reply, segment)
            self._pour(passage)
        except (Truncated, OriginBroken) as error:
            if passage.severed:
                raise TooSlow(f"a connection to {self.host} {passage.severed}") from error
            raise
        finally:
            self.passages.end(passage)
            reply.close(keep=segment.complete)

    def _check(self, reply: Reply, segment: Segment) -> None:
        """Make sure that these are the bytes that were asked for, of the content that was promised."""
        etag = strong_etag(reply)
        first, total = content_range(reply)
        if etag and self.haul.offer.etag and etag != self.haul.offer.etag:
            raise ContentChanged(f"its ETag was {self.haul.offer.etag} and is {etag}")
        if reply.status == 206 and total not in {None, self.segments.total}:
            raise ContentChanged(f"its size was {self.segments.total} and is {total}")
        if reply.status != 206:
            raise ContentChanged(f"a range was answered with {reply.status}")
        if first != segment.position or reply.headers.get("Content-Encoding", "identity") != "identity":
            raise OriginBroken(
                f"{self.host} answered a request for bytes from {segment.position} with "
                f"{reply.headers.get('Content-Range')!r}",
            )

    def _pour(self, passage: Passage) -> None:
        segment, reply, amount = passage.segment, passage.reply, self.passages.first_read
        while not segment.complete:
            data = reply.read(min(amount, segment.end - segment.position))
            if not data and not self.over.is_set():
                raise Truncated(f"{self.host} ended a range early")
            checksum = zlib.crc32(data, segment.checksum)
            with self.pen:
                if self.over.is_set():
                    raise Stopped
                disk.write_all(self.haul.descriptor, data, segment.position)
                segment.checksum = checksum
                segment.have += len(data)
                now = time.monotonic()
                self._keep_record(passage, now)
            self.haul.frontier.advance(self.segments.advance())
            passage.moved(len(data), now)
            if passage.brought >= WORTH_BYTES:
                self.strikes = 0
            amount = read_size(passage.rate(now))

    def _keep_record(self, passage: Passage, now: float) -> None:
        segment = passage.segment
        fresh = segment.have - segment.recorded
        if segment.complete or fresh >= RECORD_BYTES or now - passage.recorded_at >= RECORD_SECONDS:
            self._record(segment)
            passage.recorded_at = now

    def _failed(self, error: Exception, began: float, *, moved: bool) -> None:
        """Decide what a failed passage means: wait and go on, or the end of the transfer."""
        if isinstance(error, Stopped) or self.over.is_set():
            return
        if isinstance(error, OSError | ContentChanged) or (isinstance(error, ProvisioningError) and error.permanent):
            self.trouble = self.trouble or error
            self.over.set()
            return
        with self.lock:
            now = time.monotonic()
            if began < self.gate or moved:
                # Part of a round that has been counted already, or no failure but a short answer.
                return
            self.strikes += 1
            log.debug("strike %s against %s: %s", self.strikes, self.host, error)
            if self.strikes > STRIKES:
                self.trouble = self.trouble or error
                self.over.set()
                return
            wait = getattr(error, "retry_after", None)
            seconds = pause_before(self.strikes, self.haul.pause_seconds) if wait is None else wait
            self.gate = now + seconds
        if isinstance(error, OriginBusy):
            self.haul.lanes.pause(self.host, seconds)
