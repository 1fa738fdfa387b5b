"""How many pictures a machine draws in one pass, for each kind of order: measured, never guessed.

A pass of one picture is measured first. Then twice as wide is tried, and that width stays if its pictures took so much
less time each that it is worth it; and so on, up to what the operator allows. Whoever is in a pass waits for all of it:
no width is wished for, and none tried, with which the job that was next would be done later than `delay` seconds after
it would be alone.
"""

import json
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tasks.machine import learnt

log = logging.getLogger(__name__)

USUAL_MOST = 4
"""Pictures, where the operator says nothing; more gain little at the sizes that GPUs draw."""

MARGIN = 0.1
"""A picture of a wider pass must take so much less of its time: all of them wait for the last one."""

SURE_AFTER = 2
"""So many passes of a width are measured before it is judged; the first of each is not: there all is warmed up."""

LAST = 7
"""So many passes of a width count, the newest ones."""

FORGOTTEN_SECONDS = 3600.0
"""What was measured longer ago counts no more: the computer may have other work by now."""

WRITTEN_SECONDS = 60.0
"""So often what is known is written down again; what is new is at once."""

LIMITED_SECONDS = 600.0
"""For so long a width that memory had no room for is not tried again."""

MOST_KINDS = 50
"""Kinds of orders that are known at a time, those drawn last: each claim names the wide ones."""


@dataclass(slots=True)
class _Kind:
    """What is known of one kind."""

    passes: dict[int, deque[tuple[float, float]]] = field(default_factory=dict)
    """By width: when passes ended and how many seconds they took."""
    limit: tuple[float, int] | None = None
    """Until when it is drawn no wider, and than what."""


@dataclass(slots=True)
class Widths:
    """Learns from one device's passes. Asked and told from any thread."""

    most: int = 1
    """Pictures of a pass; 1: each order is drawn alone."""
    delay: float = 0.0
    """Seconds by which a job may be done later than alone; 0: each order is drawn alone."""
    file: Path | None = None
    """Where it is kept over restarts; None: nowhere."""
    clock: Callable[[], float] = time.time
    """Says the time in seconds, the same over restarts."""
    _written_at: float = 0.0
    _kinds: OrderedDict[str, _Kind] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Read what earlier processes have measured; a file that cannot be read is worth nothing, and no obstacle."""
        if self.file is None or not self.file.exists():
            return
        try:
            for kind, width, passes in json.loads(self.file.read_text(encoding="utf-8")):
                known = [(float(moment), float(seconds)) for moment, seconds in passes]
                self._known(str(kind)).passes[int(width)] = deque(known, maxlen=LAST)
        except (OSError, ValueError, TypeError) as exc:
            log.warning("%s cannot be read, the widths of passes are measured anew: %s", self.file, exc)

    def learn(self, kind: str, width: int, seconds: float) -> None:
        """Note how long a pass over so many pictures took, without loading."""
        with self._lock:
            passes = self._known(kind).passes
            if width not in passes:
                passes[width] = deque(maxlen=LAST)  # the first one is not kept
            else:
                passes[width].append((self.clock(), seconds))
            is_new = len(passes[width]) <= SURE_AFTER
            if is_new or self.clock() - self._written_at >= WRITTEN_SECONDS:
                self._write()

    def limit(self, kind: str, width: int) -> None:
        """Note that no more pictures found room in one pass."""
        with self._lock:
            self._known(kind).limit = (self.clock() + LIMITED_SECONDS, max(1, width))

    def wanted(self) -> Mapping[str, int]:
        """Return how many pictures are drawn in one pass, by kind; what is missing is drawn alone."""
        with self._lock:
            found = {kind: self._width_of(known) for kind, known in self._kinds.items()}
        return {kind: width for kind, width in found.items() if width > 1}

    def _write(self) -> None:
        if self.file is None:
            return
        self._written_at = self.clock()
        rows = [
            [kind, width, list(passes)] for kind, known in self._kinds.items() for width, passes in known.passes.items()
        ]
        learnt.write(self.file, rows)

    def _known(self, kind: str) -> _Kind:
        known = self._kinds.setdefault(kind, _Kind())
        self._kinds.move_to_end(kind)
        while len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)
        return known

    def _width_of(self, known: _Kind) -> int:
        most = self.most
        if known.limit is not None and self.clock() < known.limit[0]:
            most = min(most, known.limit[1])
        width, alone = 1, self._seconds(known, 1)
        if alone is None:
            return 1
        taken = alone
        while (wider := min(2 * width, most)) > width:
            seconds = self._seconds(known, wider)
            if seconds is None:
                # Not tried yet: at worst it takes as long as one picture after the other.
                return wider if taken * wider / width - alone <= self.delay else width
            if seconds - alone > self.delay or seconds / wider > (1 - MARGIN) * taken / width:
                return width
            width, taken = wider, seconds
        return width

    def _seconds(self, known: _Kind, width: int) -> float | None:
        """Return how long a pass of a width takes; None while too few were measured."""
        since = self.clock() - FORGOTTEN_SECONDS
        found = [seconds for moment, seconds in known.passes.get(width, ()) if moment >= since]
        return median(found) if len(found) >= SURE_AFTER else None
