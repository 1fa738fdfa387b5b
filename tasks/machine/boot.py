"""How a machine comes up: from the start of its process to its first picture, phase by phase.

It is measured here and by provisioning, told with every check-in until the first picture is home, and never changed
after that: so an operator sees where the time of a rented machine goes, and what would make the next one faster.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from provisioning.status import State, Status
from tasks.machine.client import Claim, FleetClient

MOST_PHASES = 300
"""A machine may hold more models than anybody wants to see bars for."""

SAME_BOOT_SECONDS = 60.0
"""A worker that starts later than this after its host was started anew; what the host did is not its story."""

SLACK_SECONDS = 1.0
"""Moments are written as they are noticed, and clocks are read in two processes."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the time. Seconds since the start."""

    phase: str
    start: float
    seconds: float | None
    """None: it goes on."""
    model_id: str | None = None


class Boot:
    """What has happened since the start; may be told from any thread."""

    def __init__(
        self, began: float, provisioned: Callable[[], Status] = Status, clock: Callable[[], float] = time.time
    ) -> None:
        """Begin at a moment, in seconds since 1970; `provisioned` says what provisioning has noted."""
        self._began, self._provisioned, self._clock = began, provisioned, clock
        self._lock = threading.Lock()
        self._own: list[Phase] = []
        self._joined: dict[str, float] = {}
        self._claimed: tuple[float, str] | None = None
        self._story: dict[str, Any] | None = None
        """The whole, once there was a picture."""

    def note(self, phase: str) -> None:
        """Note that everything since the start, or since the last such note, was this phase."""
        with self._lock:
            start = sum(each.seconds or 0.0 for each in self._own)
            self._own.append(Phase(phase, start, self._now() - start))

    def joined(self, model_id: str) -> None:
        """Note that a model's queue is consumed from now on."""
        with self._lock:
            self._joined.setdefault(model_id, self._now())

    def claimed(self, model_id: str) -> None:
        """Note that a job was given to this machine."""
        with self._lock:
            self._claimed = self._claimed or (self._now(), model_id)

    def pictured(self, timings: Mapping[str, float]) -> None:
        """Note that a job's pictures are home, and how long each phase of it took, in their order."""
        with self._lock:
            if self._story is None and self._claimed is not None:
                last = list(self._drawn(*self._claimed, timings))
                self._story = self._told([*self._phases(), *last], first_picture=self._now())

    def report(self) -> dict[str, Any]:
        """Tell it as a check-in does."""
        with self._lock:
            return self._story or self._told(list(self._phases()), first_picture=None)

    def _now(self) -> float:
        return max(0.0, self._clock() - self._began)

    def _told(self, phases: list[Phase], first_picture: float | None) -> dict[str, Any]:
        def rounded(value: float | None) -> float | None:
            return None if value is None else round(value, 3)

        shown = sorted(phases, key=lambda each: each.start)[:MOST_PHASES]
        return {
            "started_at": datetime.fromtimestamp(self._began, UTC).isoformat(),
            "phases": [asdict(p) | {"start": rounded(p.start), "seconds": rounded(p.seconds)} for p in shown],
            "first_picture_seconds": rounded(first_picture),
        }

    def _phases(self) -> Iterator[Phase]:
        status = self._provisioned()
        yield from self._own
        yield from self._between("looking_up", status.moments.get("began"), status.moments.get("looked_up"))
        yield from self._between("planning", status.moments.get("looked_up"), status.moments.get("planned"))
        for model_id, model in status.models.items():
            seen = model.moments
            end = seen.get(State.READY, seen.get(State.ERROR))
            yield from self._between(
                "downloading", seen.get(State.DOWNLOADING), seen.get(State.VERIFYING, end), model_id
            )
            yield from self._between("verifying", seen.get(State.VERIFYING), end, model_id)
        for model_id, at in self._joined.items():
            known = status.models.get(model_id)
            proven = known.moments.get(State.READY, 0.0) - self._began if known else at
            since = max(proven, *(each.start + (each.seconds or 0.0) for each in self._own), 0.0)
            yield Phase("joining", min(since, at), max(0.0, at - since), model_id)
        if self._joined and self._claimed:
            began = min(*self._joined.values(), self._claimed[0])
            yield Phase("waiting", began, self._claimed[0] - began)

    def _between(
        self, phase: str, start: float | None, end: float | None, model_id: str | None = None
    ) -> Iterator[Phase]:
        """Make a phase of two moments, unless it was over before this start."""
        if start is None or (end is not None and end < self._began - SLACK_SECONDS):
            return
        since = max(0.0, start - self._began)
        yield Phase(phase, since, None if end is None else max(0.0, end - self._began - since), model_id)

    @staticmethod
    def _drawn(start: float, model_id: str, timings: Mapping[str, float]) -> Iterator[Phase]:
        for phase, seconds in timings.items():
            yield Phase(phase, start, seconds, model_id)
            start += seconds


class NotingClient(FleetClient):
    """A client that notes the first job it was given, and the first that came to its end."""

    def __init__(self, url: str, token: str, machine_id: str, boot_id: str, boot: Boot) -> None:
        super().__init__(url, token, machine_id, boot_id)
        self._boot = boot

    def claim(self, job_id: UUID, together: Mapping[str, int] | None = None) -> Claim:
        """Ask for a job."""
        claim = super().claim(job_id, together)
        self._boot.claimed(str(claim.spec["model_id"]))
        return claim

    def finish(self, job_id: UUID, attempt: int, outcome: Mapping[str, Any]) -> str:
        """End an attempt."""
        status = super().finish(job_id, attempt, outcome)
        if outcome["state"] == "completed":
            self._boot.pictured(outcome.get("timings") or {})
        return status


STARTED_AT = "MACHINE_STARTED_AT"
"""What a host tells its workers: when it was started, in seconds since 1970."""


def start_of(environ: Mapping[str, str]) -> float:
    """Return when this start began: with the host, where that has just been started, or else with this process."""
    own = _start_of_process()
    try:
        host = float(environ.get(STARTED_AT, ""))
    except ValueError:
        return own
    return host if 0 <= own - host < SAME_BOOT_SECONDS else own


def _start_of_process() -> float:
    """Return when this process was started, in seconds since 1970: proc(5), field 22 of /proc/self/stat."""
    now = time.time()
    try:
        after_name = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - int(after_name[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError):  # no Linux: its interpreter's start is not counted
        return now
