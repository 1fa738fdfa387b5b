"""Connections at work: how much each reads at a time, and which of them stand still or crawl."""

import logging
import statistics
import threading
import time
from dataclasses import dataclass, field

from provisioning.segments import Segment
from provisioning.transport import Reply

log = logging.getLogger(__name__)

READ_LEAST, READ_FIRST, READ_MOST = 8 << 10, 64 << 10, 512 << 10
"""Sixteen connections hold as many blocks in memory: half a MiB is where larger ones gain nothing (measured)."""
READ_SECONDS = 0.1
"""A read returns when it is full: its size follows the speed, or stalls and stragglers would not be seen."""
STRAGGLER_SECONDS = 2.0
STRAGGLER_SHARE = 1 / 8
REMEMBERED = 32
"""Finished passages whose speed says what is usual."""


def read_size(rate: float) -> int:
    """Return how many bytes to read at once from a connection that brings so many a second."""
    return max(READ_LEAST, min(READ_MOST, int(rate * READ_SECONDS)))


@dataclass(slots=True, eq=False)
class Passage:
    """One connection that brings the rest of one segment."""

    segment: Segment
    reply: Reply
    began: float = field(default_factory=time.monotonic)
    moved_at: float = field(default_factory=time.monotonic)
    recorded_at: float = field(default_factory=time.monotonic)
    brought: int = 0
    severed: str = ""

    def rate(self, now: float) -> float:
        """Bytes per second since it began."""
        elapsed: float = max(now - self.began, 0.001)
        return self.brought / elapsed

    def moved(self, count: int, now: float) -> None:
        """Note that so many bytes have come."""
        self.brought += count
        self.moved_at = now


class Passages:
    """All connections that are at work on one file."""

    def __init__(self, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        self._open: set[Passage] = set()
        self._rates: list[float] = []
        self._lock = threading.Lock()

    def begin(self, passage: Passage) -> None:
        """Watch over a connection from now on."""
        with self._lock:
            self._open.add(passage)

    def end(self, passage: Passage) -> None:
        """Watch over it no longer; if it has brought its segment, its speed is a measure for the others."""
        with self._lock:
            self._open.discard(passage)
            if passage.segment.complete:
                self._rates = [*self._rates[1 - REMEMBERED :], passage.rate(time.monotonic())]

    @property
    def first_read(self) -> int:
        """How much a new connection should read at first: as much as the last one did at last."""
        return read_size(self._rates[-1]) if self._rates else READ_FIRST

    def sever_all(self) -> None:
        """End every read that is going on."""
        with self._lock:
            for passage in self._open:
                passage.reply.sever()

    def watch(self) -> None:
        """Drop connections that stand still, and those that crawl while their siblings run."""
        now = time.monotonic()
        with self._lock:
            passages, rates = list(self._open), list(self._rates)
        rates.extend(each.rate(now) for each in passages if now - each.began > STRAGGLER_SECONDS)
        usual = statistics.median(rates) if len(rates) >= 4 else 0.0
        for passage in passages:
            stalled = now - passage.moved_at > self.stall_seconds
            crawls = now - passage.began > STRAGGLER_SECONDS and passage.rate(now) < usual * STRAGGLER_SHARE
            if (stalled or crawls) and not passage.severed:
                passage.severed = "stood still" if stalled else "crawled"
                log.debug("dropping a connection that %s", passage.severed)
                passage.reply.sever()
