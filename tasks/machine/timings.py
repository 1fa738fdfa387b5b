"""Where the time of an attempt goes, by phases without a gap between them."""

import time
from collections.abc import Mapping


class Stopwatch:
    """One phase lasts until the next one begins, so that all of them add up to the whole."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self._since = time.monotonic()
        self._seconds: dict[str, float] = {}

    def enter(self, phase: str) -> None:
        """Begin another phase; the same one goes on."""
        if phase == self.phase:
            return
        now = time.monotonic()
        self._seconds[self.phase] = self._seconds.get(self.phase, 0.0) + now - self._since
        self.phase, self._since = phase, now

    def lend(self, seconds: float, phase: str) -> None:
        """Count some of the present phase as another one's."""
        if seconds > 0:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds
            self._since += seconds

    def seconds(self) -> Mapping[str, float]:
        """Return the seconds of all phases so far, the present one included."""
        passed = self._seconds.get(self.phase, 0.0) + time.monotonic() - self._since
        return {phase: round(value, 4) for phase, value in {**self._seconds, self.phase: passed}.items()}
