"""Machines without a GPU, a disk or a worker: their calls are those of real ones, and so is what they bring."""

import heapq
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from typing import TypeVar
from uuid import UUID

from PIL import Image

from app.core.protocol import CHECK_IN_SECONDS
from tasks.machine.client import FleetClient
from tasks.machine.errors import FleetAway, Refused

T = TypeVar("T")

HANDS = 16
"""So many calls of all machines are on their way at once; what is due meanwhile waits, and is late."""

DEVICE = {"kind": "cuda", "name": "light", "memory_total": 24_000_000_000, "memory_free": 20_000_000_000}


def _a_picture() -> bytes:
    content = BytesIO()
    Image.new("RGB", (64, 64), "red").save(content, "PNG")
    return content.getvalue()


PICTURE = _a_picture()


@dataclass(slots=True)
class Watch:
    """How long each kind of call took, in seconds; safe for threads."""

    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def measure(self, what: str, call: Callable[[], T]) -> T:
        """Call, and note how long it took; raises what it raises."""
        began = time.perf_counter()
        try:
            found = call()
        except (FleetAway, Refused):
            with self._lock:
                self.failed[what] += 1
            raise
        with self._lock:
            self.took[what].append(time.perf_counter() - began)
        return found


class LightMachine:
    """One machine that is ready for its models."""

    def __init__(
        self, url: str, number: int, model_ids: Sequence[str], watch: Watch, *, is_patient: bool = True
    ) -> None:
        self.pause = CHECK_IN_SECONDS
        """Seconds until its next check-in, as the server last told it."""
        self._is_patient = is_patient
        self.machine_id = f"light-{number}"
        self._client = FleetClient(url, "", self.machine_id, f"boot-{number}")
        self._models = model_ids
        self._watch = watch
        self._running: set[tuple[UUID, int]] = set()

    def check_in(self) -> None:
        """Say that it lives, and what it holds."""
        report = {
            "device": DEVICE,
            "needed": list(self._models),
            "holdings": [{"model_id": model_id, "state": "ready"} for model_id in self._models],
            "attempts": [{"job_id": str(job_id), "number": number} for job_id, number in list(self._running)],
            "idle": self._is_patient and not self._running,
        }
        self.pause = self._watch.measure("check-in", lambda: self._client.check_in(report))["pause_seconds"]

    def draw(self, rung_for: UUID) -> None:
        """Take a job of the queue in which this one waits, bring its picture, end it; Refused where none waits."""
        claim = self._watch.measure("claim", lambda: self._client.claim(rung_for))
        key = claim.job_id, claim.attempt
        self._running.add(key)
        about = {"seed": 1, "width": 64, "height": 64, "sha256": sha256(PICTURE).hexdigest(), "media_type": "image/png"}
        self._watch.measure("picture", lambda: self._client.deliver(*key, 0, about, PICTURE))
        outcome = {"state": "completed", "timings": {"denoising": 0.5}, "receipts": [{}]}
        self._watch.measure("finish", lambda: self._client.finish(*key, outcome))
        self._running.discard(key)


def machines_at(url: str, count: int, models: int, watch: Watch, *, is_patient: bool = True) -> list[LightMachine]:
    """Make so many machines; each holds one of so many models, in turn.

    Patient ones come as often as the server says, as idle machines do; others every three seconds, as those that draw.
    """
    return [
        LightMachine(url, number, [f"bench-{number % models}"], watch, is_patient=is_patient) for number in range(count)
    ]


@contextmanager
def checking_in(machines: Sequence[LightMachine], late: list[float]) -> Iterator[None]:
    """Let machines check in at a real one's pace as long as the block lasts; `late` is told how late each one was.

    The first time each comes at a moment of its own, as if all had done so for long.
    """
    stop = threading.Event()
    began = time.monotonic()

    def hand(first: int) -> None:
        places = range(first, len(machines), HANDS)
        due_at = [(began + machines[place].pause * place / len(machines), place) for place in places]
        heapq.heapify(due_at)
        while True:
            due, place = heapq.heappop(due_at)
            if stop.wait(max(0.0, due - time.monotonic())):
                return
            late.append(time.monotonic() - due)
            with suppress(FleetAway):  # it is counted, and comes again as a real one does
                machines[place].check_in()
            heapq.heappush(due_at, (due + machines[place].pause, place))

    with ThreadPoolExecutor(HANDS) as hands:
        for first in range(min(HANDS, len(machines))):
            hands.submit(hand, first)
        try:
            yield
        finally:
            stop.set()


def all_at_once(count: int, what: Callable[[int], object]) -> float:
    """Do something so many times with all hands; returns the seconds it took."""
    began = time.monotonic()
    with ThreadPoolExecutor(HANDS) as hands:
        list(hands.map(what, range(count)))
    return time.monotonic() - began
