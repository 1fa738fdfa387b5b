"""How many connections are worth it: twice as many as long as they bring more, and back again when they do not.

A content delivery network that limits each connection wants sixteen; an origin on the local network fills the line, or
this computer's cores, with two, and sixteen only get into each other's way (measured on two cores: 1 GB in 1.3 s over
two connections, in 6.2 s over sixteen).
"""

import time
from dataclasses import dataclass, field

FIRST = 2
SETTLE_SECONDS = 0.15
"""New connections begin slowly: what they bring in this time is not counted."""
MEASURE_SECONDS = 0.25
WORTH = 1.15
"""Twice the connections must bring so much more; less is noise."""
AGAIN_SECONDS = 5.0
"""After this time it is tried again: lines and origins change."""


@dataclass(slots=True)
class Ramp:
    """Decides the width of one transfer from the bytes that have arrived."""

    most: int
    first: int = FIRST
    width: int = 0
    _kept: int = 0
    _best: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _counted_from: tuple[float, int] | None = None
    _settled: bool = False

    def __post_init__(self) -> None:
        self.width = self._kept = min(self.first, self.most)
        self._settled = self.width == self.most

    def look(self, arrived: int, now: float) -> int:
        """Return how many connections there should be, given the bytes arrived by now (`time.monotonic`)."""
        age = now - self._began
        if self._settled:
            if age >= AGAIN_SECONDS and self.width < self.most:
                self._try_more(now)
            return self.width
        if self._counted_from is None:
            if age >= SETTLE_SECONDS:
                self._counted_from = (now, arrived)
            return self.width
        since, base = self._counted_from
        if now - since >= MEASURE_SECONDS:
            self._judge((arrived - base) / (now - since), now)
        return self.width

    def _judge(self, rate: float, now: float) -> None:
        if rate < self._best * WORTH:
            self.width, self._settled, self._began = self._kept, True, now
            return
        self._best, self._kept = rate, self.width
        if self.width < self.most:
            self._try_more(now)
        else:
            self._settled, self._began = True, now

    def _try_more(self, now: float) -> None:
        self.width = min(2 * self.width, self.most)
        self._began, self._counted_from, self._settled = now, None, False
