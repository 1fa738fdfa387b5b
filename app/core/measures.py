"""Measures: what is counted and timed, and the tally that a process keeps of it until it is written down.

A measure only ever grows. A process adds to its own tally, which costs no question to the database; every few seconds
`counters.write` adds the tally to the rows that all processes of the server share. So any of them tells the same, no
row is fought for by transactions that do real work, and what retention deletes does not make a number smaller.
"""

import json
import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SUM = "sum"
"""The part of a histogram that adds up what was observed; its other parts are the upper bounds of its buckets."""

BEYOND = "+Inf"
"""The upper bound of the last bucket, as Prometheus writes it."""

SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LONG = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Upper bounds of buckets, seconds: what a request takes, and what a job does."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A counter, or, with buckets, a histogram of seconds."""

    name: str
    """Without the prefix `imagefleet_` and the ending `_total`."""
    about: str
    labels: tuple[str, ...] = ()
    """The first one is replaced where there would be too many series."""
    buckets: tuple[float, ...] = ()


JOBS_ACCEPTED = Measure("jobs_accepted", "Jobs that were accepted.", ("model", "dialect"))
JOBS_ENDED = Measure("jobs_ended", "Jobs that have ended, by how.", ("model", "dialect", "state"))
ATTEMPTS = Measure("attempts", "Attempts that have ended, by how.", ("model", "state"))
WAIT = Measure("job_wait_seconds", "From the queue to the beginning of an attempt.", ("model",), LONG)
RUN = Measure("job_run_seconds", "From beginning to end of an attempt that completed its job.", ("model",), LONG)
PHASE = Measure("phase_seconds", "What each phase of a completed job took.", ("phase",), LONG)
STALE_RESULTS = Measure(
    "stale_results_refused", "Pictures and endings refused because their attempt no longer held the job."
)
BATCHED_JOBS = Measure("batched_jobs", "Jobs that were given to a machine to be drawn in the same pass as another one.")
WEBHOOK_TRIES = Measure("webhook_tries", "Tries to deliver an event to a webhook, by how they ended.", ("outcome",))
WEBHOOK_DELIVERIES = Measure("webhook_deliveries", "Events owed to webhooks that are settled, by how.", ("state",))
DOWNLOADED = Measure("downloaded_bytes", "Bytes of models that machines have fetched.")
VERIFICATION_FAILURES = Measure(
    "verification_failures", "Files that came, or lay there, and were not what the catalogue says."
)
PIPELINE_SWAPS = Measure("pipeline_swaps", "Pipelines that left a machine's memory for another one.")
CACHE_LOOKUPS = Measure(
    "pipeline_lookups", "Drawings that found their pipeline in memory (hit), or had to load it (miss).", ("result",)
)
LOOKUP = Measure("batch_lookup_seconds", "What POST /api/models/batch took.", (), SHORT)

ALL = (
    JOBS_ACCEPTED,
    JOBS_ENDED,
    ATTEMPTS,
    WAIT,
    RUN,
    PHASE,
    STALE_RESULTS,
    BATCHED_JOBS,
    WEBHOOK_TRIES,
    WEBHOOK_DELIVERIES,
    DOWNLOADED,
    VERIFICATION_FAILURES,
    PIPELINE_SWAPS,
    CACHE_LOOKUPS,
    LOOKUP,
)

PHASES = frozenset(
    {
        *("queued", "starting", "fetching", "provisioning", "loading"),
        *("denoising", "upscaling", "encoding", "uploading"),
    }
)
"""Those that have series of their own; what a machine calls otherwise is `other`."""

OTHER = "other"


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One number of a measure: which series, and which bucket of it."""

    name: str
    labels: str
    """The values of its labels, as a JSON list."""
    part: str = ""
    """Of a histogram: a bucket's upper bound, or SUM."""


def parts_of(measure: Measure, amount: float, labels: Iterable[str]) -> Mapping[Part, float]:
    """Return what one event adds: `amount` to a counter; to a histogram one observation of so many seconds."""
    told = json.dumps([str(label) for label in labels])
    if not measure.buckets:
        return {Part(measure.name, told): amount}
    place = bisect_left(measure.buckets, amount)
    bound = str(measure.buckets[place]) if place < len(measure.buckets) else BEYOND
    return {Part(measure.name, told, bound): 1, Part(measure.name, told, SUM): max(0.0, amount)}


@dataclass(slots=True)
class Tally:
    """What a process has measured and not written down yet. Every thread of it may add."""

    _grown: dict[Part, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, measure: Measure, *labels: str, more: float = 1) -> None:
        """Let a counter grow."""
        self.add(parts_of(measure, more, labels))

    def observe(self, measure: Measure, seconds: float, *labels: str) -> None:
        """Note how long something took."""
        self.add(parts_of(measure, seconds, labels))

    def add(self, grown: Mapping[Part, float]) -> None:
        """Add what was measured elsewhere, or could not be written down."""
        with self._lock:
            for part, amount in grown.items():
                self._grown[part] = self._grown.get(part, 0.0) + amount

    def take(self) -> dict[Part, float]:
        """Return everything, and begin anew."""
        with self._lock:
            taken, self._grown = self._grown, {}
        return taken
