"""The stretches that a file is fetched in, in order, so that the hash can follow close behind."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

SMALLEST = 1 << 20
LARGEST = 16 << 20
"""8 to 16 MiB keep sixteen connections busy, and cost one request each (facts: pget's 125 MB sit in memory)."""
PIECES = 64
"""About so many segments a file, between the two limits: few requests, and an end without a long tail."""


def segment_size(total: int) -> int:
    """Return the size of a file's segments, a power of two."""
    size = SMALLEST
    while size < LARGEST and size * PIECES < total:
        size *= 2
    return size


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
        self.size = segment_size(total)
        self.all = [
            Segment(number, start, min(self.size, total - start))
            for number, start in enumerate(range(0, total, self.size))
        ]
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
        return not self._pending and self._busy == 0

    @property
    def written(self) -> int:
        """Bytes written in all."""
        return sum(segment.have for segment in self.all)

    def await_range(self, start: int, end: int, seconds: float) -> bool:
        """Wait until the bytes from start to end (exclusive) are written; False when they did not come in time."""
        concerned = self.all[start // self.size : -(-end // self.size)]
        with self._change:
            return self._change.wait_for(
                lambda: all(each.position >= min(end, each.end) for each in concerned),
                seconds,
            )

    def advance(self) -> int:
        """Return how far the file is written without a hole, and wake who waits for a range."""
        with self._change:
            self._change.notify_all()
            while self._front < len(self.all) and self.all[self._front].complete:
                self._front += 1
            return self.all[self._front].position if self._front < len(self.all) else self.total
