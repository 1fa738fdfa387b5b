"""Capacity: for each model what waits, who can draw it, and what one more machine would change.

All times rest on what was measured (`app.core.paces`, the machines' downloads). Where nothing was measured yet the
answer is None: an autoscaler should then go by the numbers of jobs.

Everything is read by a handful of questions, however many models there are: each reads an index and no table, but for
machines, their holdings and the catalogue.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core import forecasts, paces, roster
from app.core.dispatch import model_queue
from app.core.fleet import Limits
from app.core.lifecycle import HoldingState, JobState
from app.core.models import DRAWABLE
from app.core.paces import Known
from app.core.roster import Hold, Post, Roster, Standing
from app.core.tables import Job, Model

SHORTEST_JOB = 1e-3
"""Seconds; a pace of nothing would make a machine infinitely fast."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What waits for a model, and what is drawn with it."""

    waiting: int = 0
    for_engines: int = 0
    """How many of them wait for an engine of the model, which only its own machine draws."""
    oldest: datetime | None = None
    running: int = 0


@dataclass(frozen=True, slots=True)
class Drawer:
    """A machine that draws a model, or will soon."""

    free_in: float
    """Seconds until it can begin, loading included."""
    job_seconds: float
    share: float = 1.0
    """The part of its time that this model gets: it takes turns with others that wait for the same machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCapacity:
    """How demand for one model and the machines for it go together. Seconds and bytes; None: nothing was measured."""

    model_id: str
    jobs_waiting: int
    jobs_waiting_for_engines: int
    jobs_running: int
    oldest_waiting_seconds: float | None
    job_seconds: float | None
    work_waiting_seconds: float | None
    machines_ready: int
    machines_downloading: int
    machines_verifying: int
    machines_wanted: int
    machines_coming: int
    next_ready_in_seconds: float | None
    machines_drained: int
    machines_sick: int
    machines_silent: int
    machines_failed: int
    clear_seconds: float | None
    clear_seconds_with_one_more: float | None
    new_machine_ready_seconds: float | None
    new_machine_bytes: int | None
    download_bytes_per_second: float | None
    load_seconds: float | None

    @property
    def seconds_saved_by_one_more(self) -> float | None:
        """Return by how much earlier the waiting jobs are done with one more machine; None where now is never."""
        if self.clear_seconds is None or self.clear_seconds_with_one_more is None:
            return None
        return round(self.clear_seconds - self.clear_seconds_with_one_more, 1)

    @property
    def jobs_unended(self) -> int:
        """Return the jobs that wait or run: who scales down to nothing by it takes no machine from a running job."""
        return self.jobs_waiting + self.jobs_running


def measure(session: Session, limits: Limits, now: datetime) -> list[ModelCapacity]:
    """Measure every model that pictures can be drawn with: those with the most work waiting first, then by id."""
    demands = demand_of(session)
    found = roster.read(session, limits, now)
    drawable = session.scalars(select(Model.id).where(Model.kind == DRAWABLE))
    model_ids = sorted({*drawable, *demands})
    known = {key: pace for part in roster.parts(model_ids) for key, pace in paces.known_of(session, part).items()}
    totals = roster.sizes_of(session, model_ids, found).totals()
    wanting = _wanting(found, demands)
    left = forecasts.left_on(session, sorted(wanting), known, now)
    view = _View(demands, found, known, totals, left, wanting, found.speed(), now)
    measured = [view.capacity_of(model_id) for model_id in model_ids]
    return sorted(measured, key=lambda each: (-(each.work_waiting_seconds or 0), -each.jobs_waiting, each.model_id))


def demand_of(session: Session) -> dict[str, Demand]:
    """Count what waits and what is drawn, by model; read from indexes alone."""
    waiting = (
        # A queue is of one model: grouped by it, the index is read from one end to the other and nothing is sorted.
        select(Job.queue, func.max(Job.model_id), func.count(), func.min(Job.queued_at))
        .where(Job.state == JobState.QUEUED)
        .group_by(Job.queue)
    )
    running = select(Job.model_id, func.count()).where(Job.state == JobState.PROCESSING).group_by(Job.model_id)
    drawn: dict[str, int] = {model_id: count for model_id, count in session.execute(running)}  # noqa: C416  # rows are no pairs to mypy
    found = {model_id: Demand(running=count) for model_id, count in drawn.items()}
    for queue, model_id, count, oldest in session.execute(waiting):
        so_far = found.get(model_id, Demand())
        found[model_id] = Demand(
            waiting=so_far.waiting + count,
            for_engines=so_far.for_engines + (0 if queue == model_queue(model_id) else count),
            oldest=min(filter(None, (so_far.oldest, oldest))),
            running=so_far.running,
        )
    return found


def _wanting(found: Roster, demands: Mapping[str, Demand]) -> Mapping[str, int]:
    """Count, by machine, the models it holds or fetches for which something waits."""
    waiting = (model_id for model_id, demand in demands.items() if demand.waiting)
    return Counter(hold.machine_id for model_id in waiting for hold in found.holds.get(model_id, ()))


@dataclass(frozen=True, slots=True)
class _View:
    """All that was read, to be put together model by model."""

    demands: Mapping[str, Demand]
    roster: Roster
    known: Mapping[tuple[str, str], Known]
    totals: Mapping[str, int | None]
    """Bytes of each model with all that it depends on."""
    left: Mapping[str, float]
    """For how many seconds each machine still draws what it draws."""
    wanting: Mapping[str, int]
    """Among how many models each machine's time is shared."""
    speed: float | None
    now: datetime

    def capacity_of(self, model_id: str) -> ModelCapacity:
        demand = self.demands.get(model_id, Demand())
        holds = self.roster.holds.get(model_id, ())
        by_standing = {each: [h for h in holds if self._post(h).standing == each] for each in Standing}
        working = by_standing[Standing.WORKING]
        coming = [hold for hold in working if hold.state not in {HoldingState.READY, HoldingState.ERROR}]
        pace = self.known.get((model_id, ""))
        job_seconds = (pace.job or None) if pace else None
        size = self.totals.get(model_id)
        arrival = self._arrival(size, pace)
        drawers = self._drawers(model_id, working) if demand.waiting else []
        one_more = [Drawer(arrival, job_seconds)] if arrival is not None and job_seconds is not None else []
        return ModelCapacity(
            model_id=model_id,
            jobs_waiting=demand.waiting,
            jobs_waiting_for_engines=demand.for_engines,
            jobs_running=demand.running,
            oldest_waiting_seconds=_rounded(self._since(demand.oldest)),
            job_seconds=_rounded(job_seconds),
            work_waiting_seconds=0.0 if not demand.waiting else _rounded(job_seconds and demand.waiting * job_seconds),
            machines_ready=_count(working, HoldingState.READY),
            machines_downloading=_count(working, HoldingState.DOWNLOADING),
            machines_verifying=_count(working, HoldingState.VERIFYING),
            machines_wanted=_count(working, HoldingState.WANTED),
            machines_coming=len(coming),
            next_ready_in_seconds=_rounded(min((h.ready_in for h in coming if h.ready_in is not None), default=None)),
            machines_drained=len(by_standing[Standing.DRAINED]),
            machines_sick=len(by_standing[Standing.SICK]),
            machines_silent=len(by_standing[Standing.SILENT]),
            machines_failed=_count(working, HoldingState.ERROR),
            clear_seconds=_rounded(time_to_clear(drawers, demand.waiting)),
            clear_seconds_with_one_more=_rounded(
                time_to_clear([*drawers, *one_more], demand.waiting) if one_more else None
            ),
            new_machine_ready_seconds=_rounded(arrival),
            new_machine_bytes=size,
            download_bytes_per_second=_rounded(self.speed),
            load_seconds=_rounded(pace.loading if pace else None),
        )

    def _post(self, hold: Hold) -> Post:
        return self.roster.posts[hold.machine_id]

    def _since(self, moment: datetime | None) -> float | None:
        return None if moment is None else max(0.0, (self.now - moment).total_seconds())

    def _arrival(self, size: int | None, pace: Known | None) -> float | None:
        """Estimate in how many seconds a machine that starts now with an empty disk could begin with a job."""
        if size is None or self.speed is None:
            return None
        return size / self.speed + (pace.loading if pace else 0.0)

    def _drawers(self, model_id: str, working: Iterable[Hold]) -> list[Drawer]:
        found = []
        for hold in working:
            post = self._post(hold)
            pace = self.known.get((model_id, post.device_name)) or self.known.get((model_id, ""))
            if pace is None or hold.ready_in is None:
                continue
            loads = 0.0 if model_id in (post.device.get("loaded") or ()) else pace.loading
            free_in = max(self.left.get(hold.machine_id, 0.0), hold.ready_in) + loads
            found.append(Drawer(free_in, pace.job, 1 / self.wanting[hold.machine_id]))
        return found


def _count(holds: Iterable[Hold], state: HoldingState) -> int:
    return sum(hold.state == state for hold in holds)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def time_to_clear(drawers: Sequence[Drawer], jobs: int) -> float | None:
    """Estimate in how many seconds so many jobs are drawn by all these machines together; None: never.

    Jobs are poured over machines like water, each machine from the moment it is free: so a thousand machines and a
    hundred thousand jobs cost no more than sorting the machines. No job is done sooner than one machine can do one.
    """
    if not jobs:
        return 0.0
    if not drawers:
        return None
    rate = done_before = 0.0
    seconds = float("inf")
    for drawer in sorted(drawers, key=lambda each: each.free_in):
        if drawer.free_in >= seconds:
            break
        own = drawer.share / max(drawer.job_seconds, SHORTEST_JOB)
        rate += own
        done_before += own * drawer.free_in
        seconds = (jobs + done_before) / rate
    return max(seconds, min(drawer.free_in + drawer.job_seconds for drawer in drawers))
