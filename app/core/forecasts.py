"""Forecasts: when a job will be done, from paces that were measured and from what stands before it.

The forecast plays the queue through: each machine takes the next job as soon as it is free. It does not know of the
queues of other models and engines on the same machines; how far that leads it astray is what `paces.record_of` tells.
"""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, func, select
from sqlalchemy.orm import Session

from app.core import machines, paces
from app.core.fleet import Limits, Transaction
from app.core.lifecycle import AttemptState, EngineState, HoldingState, JobState
from app.core.live import Progress
from app.core.paces import Known, Work
from app.core.tables import Attempt, Engine, Holding, Job, Machine, UtcDateTime

MOST_COUNTED = 1000
"""Whoever is accepted behind more jobs than that gets no promise: counting them would slow accepting down."""

MOST_PLAYED = 500
"""So many jobs are played through one by one; of a longer queue the rest goes by throughput."""

LEAST_LEFT = 0.05
"""A running job that is over its time is given this part of it still."""

HASHING = 5e8
"""Bytes a second at which a machine proves a file that it holds."""


@dataclass(frozen=True, slots=True)
class Drawer:
    """A machine as a forecast sees it. Seconds."""

    free_in: float
    """Until it can begin with the first job of this model, loading included."""
    known: Known


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a job will be done, and what that rests on."""

    seconds: float | None
    """From now; None: nobody can know, and `basis` says why."""
    basis: str


def promise(tx: Transaction, job: Job) -> datetime | None:
    """Estimate when a job that is accepted now will be done; None where that cannot be known or cheaply counted.

    What is true of all jobs of a request is read once: an order of many prompts asks many times.
    """
    key = ("imagefleet.forecasts", job.queue)
    view = tx.session.info.get(key)
    if view is None:
        view = tx.session.info[key] = _View.of(tx, job)
    before = view.before(job)
    view.waiting[job.owner, job.rank] += 1
    if view.is_crowded or not view.drawers:
        return None
    seconds = play(view.drawers, before, Work.of(job.spec))
    return None if seconds is None else tx.now + timedelta(seconds=seconds)


@dataclass(slots=True)
class _View:
    """What a transaction sees of a queue."""

    drawers: Sequence[Drawer]
    waiting: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How many wait, by owner and rank."""
    is_crowded: bool = False

    @classmethod
    def of(cls, tx: Transaction, job: Job) -> "_View":
        drawers = drawers_of_job(tx.session, job, tx.limits, tx.now)
        if not drawers:
            return cls(drawers)
        found: Counter[tuple[str, int]] = Counter()
        for owner, rank, count in tx.session.execute(_WAITING, {"queue": job.queue, "but": job.id}):
            found[owner, rank] = count
        return cls(drawers, found, found.total() > MOST_COUNTED)

    def before(self, job: Job) -> int:
        """Count those that will be drawn earlier: the owner's own, and one of each other owner between them."""
        own = sum(count for (owner, rank), count in self.waiting.items() if owner == job.owner and rank <= job.rank)
        others: Counter[str] = Counter()
        for (owner, _), count in self.waiting.items():
            if owner != job.owner:
                others[owner] += count
        return own + sum(min(count, own + 1) for count in others.values())


def of_job(
    session: Session, job: Job, ahead: int | None, progress: Progress | None, limits: Limits, now: datetime
) -> Forecast | None:
    """Say when a job will be done, as `of_queued` or `of_running` do; None for one that is neither."""
    running = [attempt for attempt in job.attempts if attempt.number == job.attempt]
    if job.state == JobState.QUEUED:
        return of_queued(session, job, ahead or 0, limits, now)
    if job.state == JobState.PROCESSING and running:
        return of_running(session, job, running[0], progress, now)
    return None


def of_queued(session: Session, job: Job, ahead: int, limits: Limits, now: datetime) -> Forecast:
    """Estimate when a job that waits will be done, behind `ahead` others."""
    known = paces.known_of(session, [job.model_id])
    if not known:
        return Forecast(None, f"no job of {job.model_id} was completed yet, so its pace is not known")
    drawers = drawers_of_job(session, job, limits, now)
    if not drawers and job.engine_id is not None:
        return Forecast(None, f"engine {job.engine_id} is in no machine's memory; nobody knows when it will be started")
    if not drawers:
        return Forecast(None, f"no live machine is ready for {job.model_id}, or known to be ready soon")
    wait = max(0.0, (job.next_attempt_at - now).total_seconds()) if job.next_attempt_at else 0.0
    seconds = play(drawers, ahead, Work.of(job.spec), not_before=wait)
    samples = known[job.model_id, ""].samples
    machines = "1 machine" if len(drawers) == 1 else f"{len(drawers)} machines"
    before = "1 job is before it" if ahead == 1 else f"{ahead} jobs are before it"
    return Forecast(seconds, f"{before}, {machines} can draw it, paces measured with {samples} completed jobs")


def of_running(session: Session, job: Job, attempt: Attempt, progress: Progress | None, now: datetime) -> Forecast:
    """Estimate when a job that is being drawn will be done."""
    known = _known_on(paces.known_of(session, [job.model_id]), job.model_id, attempt.device)
    elapsed = max(0.0, (now - attempt.started_at).total_seconds())
    now_drawing = progress if progress is not None and progress.attempt == attempt.number else None
    done = now_drawing.fraction if now_drawing else 0.0
    if attempt.together > 1 and done >= LEAST_LEFT:
        return Forecast(
            elapsed * (1 - done) / done, f"from the steps so far of the {attempt.together} jobs of its pass"
        )
    if known is None:
        if done < LEAST_LEFT:
            return Forecast(None, f"no job of {job.model_id} was completed yet, and this one has just begun")
        return Forecast(elapsed * (1 - done) / done, "from its own steps so far")
    work = Work.of(job.spec)
    whole = _whole(known, job.spec, attempt.together)
    if now_drawing and done > 0:
        left = known.denoising(work) * (1 - done) + known.other * work.pictures
    else:
        loading = known.loading if now_drawing and now_drawing.phase == "loading" else 0.0
        left = whole + loading - elapsed
    basis = f"its steps so far, and the pace of {attempt.device or 'this device'}, measured with {known.samples} jobs"
    return Forecast(max(left, whole * LEAST_LEFT), basis)


def drawers_of_job(session: Session, job: Job, limits: Limits, now: datetime) -> list[Drawer]:
    """Return the machines that draw a job's queue: an engine's one, or all that hold its model."""
    if job.engine_id is None:
        return drawers_of(session, job.model_id, limits, now)
    engine = session.get(Engine, job.engine_id)
    if engine is None or not engine.is_wanted or engine.state == EngineState.CLOSED:
        return []
    return drawers_of(session, job.model_id, limits, now, only_on=engine.machine_id)


def drawers_of(
    session: Session, model_id: str, limits: Limits, now: datetime, only_on: str | None = None
) -> list[Drawer]:
    """Return the live machines that draw a model now or will soon; nothing where its pace is not known."""
    known = paces.known_of(session, [model_id])
    if not known:
        return []
    since = now - timedelta(seconds=limits.silent_after)
    rows = session.execute(_DRAWERS, {"model_id": model_id, "since": since}).all()
    rows = [row for row in rows if only_on in {None, row.machine_id}]
    busy = _left(session, [row[-len(_RUNNING) :] for row in rows], known, now)
    drawers: dict[str, Drawer] = {}
    for row in rows:
        here = _known_on(known, model_id, str(row.device.get("name", ""))[:200])
        coming = arrives_in(row, now)
        if here is not None and coming is not None:
            loads = 0.0 if model_id in (row.device.get("loaded") or ()) else here.loading
            drawers[row.machine_id] = Drawer(max(busy.get(row.machine_id, 0.0), coming) + loads, here)
    return list(drawers.values())


_COMING = (
    Holding.machine_id,
    Holding.state,
    Holding.bytes_done,
    Holding.bytes_total,
    Holding.bytes_per_second,
    Holding.updated_at,
)
_RUNNING = (
    Attempt.machine_id.label("busy_id"),
    Attempt.started_at,
    Attempt.device.label("drawn_on"),
    Job.model_id.label("drawn_with"),
    Job.spec,
    Attempt.together,
    Attempt.claim_id,
)
# Made once: it is asked for every job that is accepted, and making it takes longer than asking it.
_DRAWERS = (
    select(*_COMING, Machine.device, *_RUNNING)
    .join(Machine, Machine.id == Holding.machine_id)
    .outerjoin(Attempt, (Attempt.machine_id == Machine.id) & (Attempt.state == AttemptState.RUNNING))
    .outerjoin(Job, Job.id == Attempt.job_id)
    .where(Holding.model_id == bindparam("model_id"), Holding.state != HoldingState.ERROR)
    .where(machines.takes_jobs_since(bindparam("since", type_=UtcDateTime)))
)
_SOME_WAITING = (
    select(Job.owner, Job.rank)
    .where(Job.state == JobState.QUEUED, Job.queue == bindparam("queue"), Job.id != bindparam("but"))
    .limit(MOST_COUNTED + 1)
    .subquery()
)
_WAITING = select(_SOME_WAITING.c.owner, _SOME_WAITING.c.rank, func.count()).group_by(
    _SOME_WAITING.c.owner, _SOME_WAITING.c.rank
)


def arrives_in(holding: Holding | Row[Any], now: datetime) -> float | None:
    """Estimate in how many seconds a machine holds a model's proof; None where its download does not move."""
    if holding.state == HoldingState.READY:
        return 0.0
    missing = (holding.bytes_total or 0) - holding.bytes_done
    if holding.state == HoldingState.VERIFYING:
        return (holding.bytes_total or 0) / HASHING
    if holding.state == HoldingState.DOWNLOADING and holding.bytes_total and holding.bytes_per_second:
        return max(0.0, missing / holding.bytes_per_second - (now - holding.updated_at).total_seconds())
    return None


def left_on(
    session: Session, machine_ids: Sequence[str], known: Mapping[tuple[str, str], Known], now: datetime
) -> dict[str, float]:
    """Estimate for how many seconds each of these machines still draws what it draws."""
    if not machine_ids:
        return {}
    query = select(*_RUNNING).join(Job, Job.id == Attempt.job_id)
    running = query.where(Attempt.state == AttemptState.RUNNING, Attempt.machine_id.in_(machine_ids))
    return _left(session, session.execute(running).all(), known, now)


def _left(
    session: Session, running: Sequence[Sequence[Any]], known: Mapping[tuple[str, str], Known], now: datetime
) -> dict[str, float]:
    """Add up what is left of attempts, given as the columns of _RUNNING, by machine; empty ones are passed over."""
    found = [attempt for attempt in running if attempt[0] is not None]
    if others := {attempt[3] for attempt in found} - {model_id for model_id, _ in known}:
        known = {**known, **paces.known_of(session, others)}
    left: dict[str, float] = {}
    passes: set[tuple[str, Any]] = set()
    for machine_id, started_at, device, model_id, spec, together, claim_id in found:
        if together > 1 and (machine_id, claim_id) in passes:
            continue  # its pass is counted already
        passes.add((machine_id, claim_id))
        here = _known_on(known, model_id, device)
        whole = _whole(here, spec, together) if here else 0.0
        elapsed = (now - started_at).total_seconds()
        left[machine_id] = left.get(machine_id, 0.0) + max(whole - elapsed, whole * LEAST_LEFT)
    return left


def _whole(known: Known, spec: Mapping[str, Any], together: int) -> float:
    """Estimate an attempt from its beginning to its end; in a batch it lasts as long as all of its jobs."""
    alone = known.seconds(Work.of(spec))
    return alone if together == 1 else max(alone, known.job * together)


def _known_on(known: Mapping[tuple[str, str], Known], model_id: str, device: str) -> Known | None:
    """Return what is known on this device, else on all others together; what it lacks comes from them too."""
    here, others = known.get((model_id, device)), known.get((model_id, ""))
    if here is None or others is None:
        return here or others
    return here if here.loading else replace(here, loading=others.loading)


def play(drawers: Sequence[Drawer], ahead: int, work: Work, *, not_before: float = 0.0) -> float | None:
    """Play a queue through, and return in how many seconds the job behind `ahead` others is done; None: never."""
    if not drawers:
        return None
    rest = max(0, ahead - MOST_PLAYED)
    throughput = sum(1 / max(drawer.known.job, 1e-3) for drawer in drawers)
    free = [(drawer.free_in + rest / throughput, number) for number, drawer in enumerate(drawers)]
    heapq.heapify(free)
    for _ in range(ahead - rest):
        seconds, number = free[0]
        heapq.heapreplace(free, (seconds + drawers[number].known.job, number))
    seconds, number = free[0]
    return max(seconds, not_before) + drawers[number].known.seconds(work)
