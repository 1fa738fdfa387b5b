"""The storm: which fault comes when, and when it is taken back."""

import heapq
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.faults import FAULTS, Undo
from tests.support.system import System

SHORTEST_REST, LONGEST_REST = 1.5, 7.0
"""Seconds between two faults; several may be in force at once."""


@dataclass(slots=True)
class Storm:
    """Strikes at random, takes back in time, and keeps a diary. All of it in the main thread."""

    system: System
    dice: random.Random
    kinds: Counter[str] = field(default_factory=Counter)
    diary: list[tuple[float, str]] = field(default_factory=list)
    _due: list[tuple[float, int, Undo]] = field(default_factory=list)
    _next: float = 0.0

    def blow(self) -> None:
        """Do what is due at this moment."""
        now = time.time()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        for name in self.system.tend():
            self.diary.append((now, f"{name} had ended and was started anew"))
        if now < self._next:
            return
        if self._next:
            self._strike(now)
        self._next = now + self.dice.uniform(SHORTEST_REST, LONGEST_REST)

    def calm_down(self) -> None:
        """Take everything back."""
        while self._due:
            heapq.heappop(self._due)[2]()
        self.system.tend()

    def _strike(self, now: float) -> None:
        names = list(FAULTS)
        (name,) = self.dice.choices(names, [FAULTS[name][0] for name in names])
        struck = FAULTS[name][1](self.system, self.dice)
        if struck is None:
            return
        self.kinds[name] += 1
        self.diary.append((now, f"{name}: {struck.what}"))
        if struck.undo is not None:
            heapq.heappush(self._due, (now + struck.seconds, len(self.diary), struck.undo))
