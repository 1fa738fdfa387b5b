"""What drawing took beside the weights, as it was measured: better than any estimate, the next time."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tasks.machine import learnt

log = logging.getLogger(__name__)

Key = tuple[str, int, int, int]
"""A model's id, width, height, and how many pictures were drawn together."""

MOST_KNOWN = 500


class Meter(Protocol):
    """Measures how much of a device's memory is in use at most."""

    def begin(self) -> int:
        """Begin anew; returns what is in use now, bytes."""

    def peak(self) -> int:
        """Return what was in use at most since then, bytes."""


class CudaMeter:
    """Torch's own figures of its allocator."""

    def __init__(self, cuda: object) -> None:
        self._cuda = cuda

    def begin(self) -> int:
        """Begin anew."""
        self._cuda.reset_peak_memory_stats()  # type: ignore[attr-defined]  # torch.cuda
        return int(self._cuda.memory_allocated())  # type: ignore[attr-defined]  # as above

    def peak(self) -> int:
        """Return the peak."""
        return int(self._cuda.max_memory_allocated())  # type: ignore[attr-defined]  # as above


@dataclass(slots=True)
class Peaks:
    """Remembers, over restarts if it has a file."""

    meter: Meter | None = None
    """None: nothing is measured here, and nothing is known."""
    file: Path | None = None
    _known: dict[Key, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what earlier processes have measured; a file that cannot be read is worth nothing, and no obstacle."""
        if self.file is None or not self.file.exists():
            return
        try:
            rows = json.loads(self.file.read_text(encoding="utf-8"))
            self._known = {(str(m), int(w), int(h), int(n)): int(b) for m, w, h, n, b in rows}
        except (OSError, ValueError, TypeError) as exc:
            log.warning("%s cannot be read, memory is estimated anew: %s", self.file, exc)

    def known(self, key: Key) -> int | None:
        """Return what drawing takes beside the weights, bytes; None where it was never measured."""
        return self._known.get(key)

    @contextmanager
    def measured(self, known: Key | None) -> Iterator[None]:
        """Measure what is drawn in this block, if it comes to its end; None: nothing that would be asked for again."""
        if self.meter is None or known is None:
            yield
            return
        before = self.meter.begin()
        yield
        taken = self.meter.peak() - before
        if taken > self._known.get(known, 0):
            self._known.pop(known, None)
            self._known[known] = taken
            while len(self._known) > MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._write()

    def _write(self) -> None:
        if self.file is None:
            return
        rows = [[*key, taken] for key, taken in self._known.items()]
        learnt.write(self.file, rows)
