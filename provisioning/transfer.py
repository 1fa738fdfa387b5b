"""Bringing the bytes of one file into its part: in parallel ranges where the origin can, else in one stream."""

import logging
import random
import statistics
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from provisioning import disk
from provisioning.addresses import site_of
from provisioning.errors import OriginBroken, OriginBusy, ProvisioningError, Stopped, TooSlow, Truncated
from provisioning.frontier import Frontier
from provisioning.journal import Journal
from provisioning.lanes import Lanes
from provisioning.origin import Offer, Route, content_range, strong_etag
from provisioning.segments import Segment, Segments
from provisioning.transport import Reply

log = logging.getLogger(__name__)

READ_LEAST, READ_MOST = 8 << 10, 1 << 20
READ_SECONDS = 0.25
"""A read returns when it is full: its size follows the speed, or stalls and stragglers would not be seen."""
RECORD_BYTES = 4 << 20
"""A journal record at least every so many bytes of a segment: what a kill can cost each connection."""
WORTH_BYTES = 16 << 10
"""What a connection must bring to count as progress: an origin that drops every one after a few bytes is broken."""
STRIKES = 6
"""Rounds of failure without progress in between, before the file is given up for now (about 20 s)."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 20.0
STRAGGLER_SECONDS = 2.0
STRAGGLER_SHARE = 1 / 8
WATCH_SECONDS = 0.1


class ContentChanged(Exception):
    """The origin's content is not what it was when the transfer began: begin again."""


@dataclass(slots=True, eq=False)
class Passage:
    """One connection at work."""

    segment: Segment
    reply: Reply
    began: float = field(default_factory=time.monotonic)
    moved_at: float = field(default_factory=time.monotonic)
    bytes: int = 0
    severed: str = ""

    def rate(self, now: float) -> float:
        """Bytes per second since it began."""
        return self.bytes / max(now - self.began, 0.001)


def pause_before(strike: int) -> float:
    """Return how long to wait after so many failures: doubling, with full jitter so that a fleet does not march."""
    return random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2**strike)  # noqa: S311 - no secret


class RangedTransfer:
    """Several connections fetch segments in order; whoever fails gives its segment back to the others."""

    def __init__(  # noqa: PLR0913 - the parts that make one transfer; a bundle of them would have one user
        self,
        route: Route,
        offer: Offer,
        segments: Segments,
        descriptor: int,
        journal: Journal,
        frontier: Frontier,
        lanes: Lanes,
        priority: int,
        stall_seconds: float,
    ) -> None:
        self.route = route
        self.offer = offer
        self.segments = segments
        self.descriptor = descriptor
        self.journal = journal
        self.frontier = frontier
        self.lanes = lanes
        self.priority = priority
        self.stall_seconds = stall_seconds
        self.host = site_of(route.url).host
        self.over = threading.Event()
        self.passages: set[Passage] = set()
        self.trouble: Exception | None = None
        self.strikes = 0
        self.gate = 0.0
        self.lock = threading.Lock()
        self.rates: list[float] = []

    def run(self, progress: Callable[[int], None]) -> None:
        """Fetch everything that is missing. Raises `ContentChanged`, `Stopped`, and what cannot be survived."""
        width = min(self.lanes.width, sum(1 for each in self.segments.all if not each.complete))
        threads = [threading.Thread(target=self._work, name=f"range {n}", daemon=True) for n in range(width)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and not self.over.is_set():
                self.over.wait(WATCH_SECONDS)
                self._watch()
                progress(self.segments.written)
                if self.lanes.stop.is_set():
                    raise Stopped
            if self.trouble is not None:
                raise self.trouble
            progress(self.segments.written)
        finally:
            self.over.set()
            for passage in list(self.passages):
                passage.reply.sever()
            for thread in threads:
                # A thread may hang in connect(); it holds nothing but its socket and ends by its own timeout.
                thread.join(1.0)
            self._record_all()

    def _record_all(self) -> None:
        for segment in self.segments.all:
            if segment.have > segment.recorded:
                self._record(segment)

    def _record(self, segment: Segment) -> None:
        self.journal.record(segment.index, segment.have, segment.checksum)
        segment.recorded = segment.have

    def _work(self) -> None:
        while not self.over.is_set() and self.trouble is None:
            self.over.wait(max(0.0, self.gate - time.monotonic()))
            segment = self.segments.take()
            if segment is None:
                if self.segments.finished or self.over.wait(0.02):
                    return
                continue
            began = time.monotonic()
            before = segment.have
            try:
                with self.lanes.taken(self.host, self.priority, self.over):
                    began = time.monotonic()
                    self._carry(segment)
                self.lanes.praise(self.host)
            except (ProvisioningError, ContentChanged, OSError) as error:
                self._failed(error, began, moved=segment.complete or segment.have - before >= WORTH_BYTES)
            finally:
                self.segments.give_back(segment)

    def _carry(self, segment: Segment) -> None:
        """Fetch the rest of a segment."""
        headers = {"Range": f"bytes={segment.position}-{segment.end - 1}"}
        if self.offer.etag:
            headers["If-Range"] = self.offer.etag
        reply = self.route.open(headers)
        passage = Passage(segment, reply)
        with self.lock:
            self.passages.add(passage)
        try:
            self._check(reply, segment)
            self._pour(passage)
            self.rates = [*self.rates[-31:], passage.rate(time.monotonic())]
        except (Truncated, OriginBroken) as error:
            if passage.severed:
                raise TooSlow(f"a connection to {self.host} {passage.severed}") from error
            raise
        finally:
            with self.lock:
                self.passages.discard(passage)
            reply.close(keep=segment.complete)

    def _check(self, reply: Reply, segment: Segment) -> None:
        """Make sure that these are the bytes that were asked for, of the content that was promised."""
        etag = strong_etag(reply)
        first, total = content_range(reply)
        if etag and self.offer.etag and etag != self.offer.etag:
            raise ContentChanged(f"its ETag was {self.offer.etag} and is {etag}")
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
        segment, reply, amount = passage.segment, passage.reply, READ_LEAST * 8
        while not segment.complete:
            data = reply.read(min(amount, segment.end - segment.position))
            if self.over.is_set():
                raise Stopped
            if not data:
                raise Truncated(f"{self.host} ended a range early")
            disk.write_all(self.descriptor, data, segment.position)
            segment.checksum = zlib.crc32(data, segment.checksum)
            segment.have += len(data)
            if segment.complete or segment.have - segment.recorded >= RECORD_BYTES:
                self._record(segment)
            self.frontier.advance(self.segments.advance())
            now = time.monotonic()
            passage.bytes += len(data)
            passage.moved_at = now
            if passage.bytes >= WORTH_BYTES:
                self.strikes = 0
            wanted = int(passage.rate(now) * READ_SECONDS)
            amount = max(READ_LEAST, min(READ_MOST, wanted))

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
            seconds = pause_before(self.strikes) if wait is None else wait
            self.gate = now + seconds
        if isinstance(error, OriginBusy):
            self.lanes.pause(self.host, seconds)

    def _watch(self) -> None:
        """Drop connections that stand still, and those that crawl while their siblings run."""
        now = time.monotonic()
        with self.lock:
            passages = list(self.passages)
        rates = [*self.rates, *(each.rate(now) for each in passages if now - each.began > STRAGGLER_SECONDS)]
        usual = statistics.median(rates) if len(rates) >= 4 else 0.0
        for passage in passages:
            stalled = now - passage.moved_at > self.stall_seconds
            crawls = now - passage.began > STRAGGLER_SECONDS and passage.rate(now) < usual * STRAGGLER_SHARE
            if (stalled or crawls) and not passage.severed:
                passage.severed = "stood still" if stalled else "crawled"
                log.debug("dropping a connection to %s that %s", self.host, passage.severed)
                passage.reply.sever()
