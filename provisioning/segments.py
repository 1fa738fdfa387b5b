"""The stretches that a file is fetched in, in order, so that the hash can follow close behind.

They are small where a file begins, so that the hash has work at once and not only when a large one is whole; large in
between, since each costs a request; and small where it ends, so that the last connections finish together (guided
self-scheduling: Polychronopoulos and Kuck 1987, each takes its share of what is left).
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SMALLEST = 1 << 20
LARGEST = 16 << 20
"""16 MiB are 0.4 s of a connection that is limited to 40 MB/s: a request's round trip weighs little beside it."""
PARTS = 16
"""A segment is at most this part of what lies before it, and of what is left: the usual number of connections."""


def stretches(total: int) -> Iterator[tuple[int, int]]:
    """Yield start and length of each segment of a file; lengths are powers of two, but for the last."""
    start = 0
    while start < total:
        length, wanted = SMALLEST, min(LARGEST, start // PARTS, (total - start) // PARTS)
        while length * 2 <= wanted:
            length *= 2
        yield start, min(length, total - start)
        start += length


@dataclass(slots=True)
class Segment:
    """A stretch of the file, of which the first `have` bytes are written, with their checksum so far."""

    index: int
    start: int
    length: int
    have: int = 0
    checksum: int = 0
    recorded: int = 0

    @property
    def position(self) -> int:
        """Where in the file the next byte goes."""
        return self.start + self.have

    @property
    def end(self) -> int:
        """The first byte after the segment."""
        return self.start + self.length

    @property
    def complete(self) -> bool:
        """Whether every byte is written."""
        return self.have >= self.length


class Segments:
    """All segments of a file: who may work on which, and how far the unbroken beginning reaches."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.all = [Segment(number, *stretch) for number, stretch in enumerate(stretches(total))]
        self._starts = [segment.start for segment in self.all]
        self._pending: list[Segment] = []
        self._front = 0
        self._busy = 0
        self._change = threading.Condition()

    def begin(self) -> None:
        """Put everything that is incomplete up for work; the last one first in the list is taken last."""
        self._pending = [segment for segment in reversed(self.all) if not segment.complete]
        self.advance()

    def take(self, prefer: Callable[[Segment], bool] | None = None) -> Segment | None:
        """Return the earliest segment that nobody works on, of those preferred if there are any; None for none."""
        with self._change:
            if not self._pending:
                return None
            self._busy += 1
            for place in range(len(self._pending) - 1, -1, -1) if prefer else ():
                if prefer and prefer(self._pending[place]):
                    return self._pending.pop(place)
            return self._pending.pop()

    def give_back(self, segment: Segment) -> None:
        """End work on a segment; if it is incomplete it is next."""
        with self._change:
            self._busy -= 1
            if not segment.complete:
                self._pending.append(segment)
                self._pending.sort(key=lambda each: -each.index)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do and nobody works."""
        with self._change:
            return not self._pending and self._busy == 0

    @property
    def written(self) -> int:
        """Bytes written in all."""
        return sum(segment.have for segment in self.all)

    def await_range(self, start: int, end: int, seconds: float) -> bool:
        """Wait until the bytes from start to end (exclusive) are written; False when they did not come in time."""
        concerned = self.all[bisect_right(self._starts, start) - 1 : bisect_left(self._starts, end)]
        with self._change:
            return self._change.wait_for(
                lambda: all(each.position >= min(end, each.end) for each in concerned),
                seconds,
            )

    @property
    def front(self) -> int:
        """How far the file is written without a hole."""
        return self.all[self._front].position if self._front < len(self.all) else self.total

    def advance(self) -> int:
        """Return how far the file is written without a hole, and wake who waits for a range."""
        with self._change:
            self._change.notify_all()
            while self._front < len(self.all) and self.all[self._front].complete:
                self._front += 1
            return self.front
