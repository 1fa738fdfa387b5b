"""Staying with a model: which queue a machine asks first, so that it does not change pipelines with every job.

kombu's own order is turn by turn, which with two busy models brings a pipeline into memory for each single job. Here
the queue of the model that was drawn last comes first, until another one has not been served for `seconds`. Where
several have not, each model is stayed with for its part of those seconds, or changing pipelines would be all that is
done. So a job in another queue waits for `seconds` at most, plus the job that is running; and where more than one
model waits, plus bringing in each of those and one job of it. Jobs of a higher priority come first in whatever queue
they are: kombu asks by priority, then by queue.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from app.core.dispatch import engine_queue, model_queue

MODEL_QUEUES = model_queue("")
ENGINE_QUEUES = engine_queue("")


@dataclass(slots=True)
class Affinity:
    """Knows which model was drawn last and when each queue was last served; outlives the connections to the broker."""

    seconds: float
    """How long other queues may be kept waiting; 0: turn by turn."""
    clock: Callable[[], float] = time.monotonic
    _drawn: str | None = None
    _drawn_since: float = 0.0
    _served: dict[str, float] = field(default_factory=dict)
    """When each queue last gave a message or was known to be empty."""
    _empty: set[str] = field(default_factory=set)
    """Where nothing waited when it was last asked first."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stay_with(self, model_id: str) -> None:
        """Prefer this model's queue from now on: its pipeline is in memory. Called by the thread that draws."""
        with self._lock:
            if self._drawn != model_queue(model_id):
                self._drawn, self._drawn_since = model_queue(model_id), self.clock()

    def order(self, queues: Iterable[str]) -> list[str]:
        """Put queues into the order in which to ask them; those of neither models nor engines come first.

        They are private. Engines are in memory as the model is that was drawn last: those take turns.
        """
        asked = list(queues)
        now = self.clock()
        with self._lock:
            for queue in asked:
                self._served.setdefault(queue, now)
            others = [q for q in asked if q.startswith(MODEL_QUEUES) and q != self._drawn]
            busy = sum(queue not in self._empty for queue in others)
            # Of several that wait each has its part of the time; a single one waits for all of it.
            part_is_over = now - self._drawn_since >= self.seconds / max(1, busy)

            def rank(queue: str) -> tuple[int, float]:
                served = self._served[queue]
                if not queue.startswith((MODEL_QUEUES, ENGINE_QUEUES)):
                    return 0, 0.0
                if queue == self._drawn or queue.startswith(ENGINE_QUEUES):
                    return 2, served
                has_waited = now - served >= self.seconds or (busy > 1 and queue not in self._empty)
                return (1 if has_waited and (part_is_over or busy < 2) else 3), served

            return sorted(asked, key=rank)

    def note_served(self, queue: str, asked: Sequence[str]) -> None:
        """Note which of the queues that were asked, in that order, gave a message: those before it were empty."""
        with self._lock:
            self._served[queue] = self.clock()
            before = asked[: asked.index(queue)] if queue in asked else ()
            self._empty = (self._empty | set(before)) - {queue}

    def note_empty(self, queues: Iterable[str]) -> None:
        """Note that nothing waited in these queues."""
        now = self.clock()
        with self._lock:
            self._served.update(dict.fromkeys(queues, now))
            self._empty |= set(queues)


class AffinityCycle:
    """The order of the queues of one channel, as kombu's Redis transport asks for it.

    The contract is that of `kombu.utils.scheduling.round_robin_cycle`, kombu 5.7.
    """

    def __init__(self, affinity: Affinity) -> None:
        self._affinity = affinity
        self._queues: list[str] = []
        self._asked: list[str] = []

    def update(self, it: Iterable[str]) -> None:
        """Take the queues that are consumed now."""
        self._queues = list(it)

    def consume(self, n: int) -> list[str]:
        """Return the first `n` queues to ask."""
        # Asked again without having been given anything: all of them were empty.
        self._affinity.note_empty(self._asked)
        self._asked = self._affinity.order(self._queues)[:n]
        return self._asked

    def rotate(self, last_used: str) -> str:
        """Note which queue gave a message."""
        self._affinity.note_served(last_used, self._asked)
        self._asked = []
        return last_used


@dataclass(frozen=True, slots=True, repr=False)
class AffinityOrder:
    """Makes the order of each new channel's queues, where kombu takes a class.

    It stands among the options of the broker, which a worker tells to whoever asks for its state, such as Flower: as
    JSON, and a machine that cannot say this one as JSON answers nothing but a traceback in its log.
    """

    affinity: Affinity

    def __call__(self) -> AffinityCycle:
        """Make one."""
        return AffinityCycle(self.affinity)

    def __json__(self) -> str:  # asked for by kombu.utils.json
        """Return what is told of it."""
        return repr(self)

    def __repr__(self) -> str:
        """Return how long other queues may be kept waiting."""
        return f"affinity of {self.affinity.seconds:g} s"
