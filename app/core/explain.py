"""Explaining: for each machine why it has or has not taken a job, and what would help."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.core import attempts, deadlines, engine_jobs, forecasts, jobs, machines, paces, presence
from app.core.durations import in_words
from app.core.fleet import Fleet, Limits
from app.core.lifecycle import AttemptState, EngineState, HoldingState, JobState
from app.core.machines import Outlook
from app.core.tables import Attempt, Engine, Holding, Job, Machine
from app.core.turns import KEPT_FOR_OTHERS_SECONDS


class Reason(StrEnum):
    """Why a machine has or has not taken a job."""

    DREW_IT = "drew_it"
    DRAWS_IT = "draws_it"
    TRIED_IT = "tried_it"
    SILENT = "silent"
    DRAINED = "drained"
    SICK = "sick"
    NO_RECEIPT = "no_receipt"
    NO_ENGINE = "no_engine"
    STARTING = "starting"
    WANTED = "wanted"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    MODEL_ERROR = "model_error"
    NO_MEMORY = "no_memory"
    FAILED_BEFORE = "failed_before"
    NOT_YET = "not_yet"
    BUSY = "busy"
    OTHERS_FIRST = "others_first"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What keeps one machine from a job, or ties it to it."""

    machine_id: str
    reason: Reason
    told: str
    remedy: str | None = None
    """What would help; None where time does, or nothing is needed."""
    seconds: float | None = None
    """About how long it will take until this no longer holds, where that can be known."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job is where it is."""

    summary: str
    remedy: str | None
    verdicts: Sequence[Verdict]


@dataclass(frozen=True, slots=True)
class Facts:
    """What an explanation rests on."""

    job: Job
    machines: Sequence[Machine]
    holdings: Mapping[str, Holding]
    """Of the job's model, by machine."""
    running: Mapping[str, Attempt]
    """What each machine draws."""
    left: Mapping[str, float]
    """For about how many seconds still."""
    ahead: int
    limits: Limits
    now: datetime
    engine: Engine | None = None
    """That is to draw the job; None: any machine that is ready for its model."""

    def is_alive(self, machine: Machine) -> bool:
        """Say whether a machine has checked in lately."""
        return machines.is_alive(machine, self.limits, self.now)

    @property
    def outlook(self) -> Outlook:
        """Return what live machines say about the job's model."""
        alive = {machine.id for machine in self.machines if self.is_alive(machine)}
        return Outlook([holding for holding in self.holdings.values() if holding.machine_id in alive])


def gather(fleet: Fleet, session: Session, job_id: UUID) -> Facts:
    """Load what is needed to explain a job; raises JobNotFound."""
    job, now = deadlines.look(fleet, session, job_id), fleet.clock()
    known = session.scalars(select(Machine).order_by(Machine.id)).all()
    of_model = select(Holding).where(Holding.model_id == job.model_id).options(joinedload(Holding.machine))
    holdings = session.scalars(of_model.order_by(Holding.machine_id))
    ids = [machine.id for machine in known]
    return Facts(
        job=job,
        machines=known,
        holdings={holding.machine_id: holding for holding in holdings},
        running={attempt.machine_id: attempt for attempt in attempts.running_on(session, *ids)},
        left=forecasts.left_on(session, ids, paces.known_of(session, [job.model_id]), now),
        ahead=jobs.ahead_of(session, job) if job.state == JobState.QUEUED else 0,
        limits=fleet.limits,
        now=now,
        engine=session.get(Engine, job.engine_id) if job.engine_id else None,
    )


def explain(facts: Facts) -> Explanation:
    """Say for each machine why it has or has not taken the job, and in one sentence how the job stands."""
    if facts.job.state != JobState.QUEUED:
        return Explanation(_story(facts), None, [_of_attempt(attempt) for attempt in facts.job.attempts])
    verdicts = [_why_not(facts, machine) for machine in facts.machines]
    summary = (
        engine_jobs.why_waiting(facts.engine, facts.ahead)
        if facts.engine
        else machines.why_waiting(facts.outlook, facts.job.model_id, facts.ahead)
    )
    if not_before := _not_before(facts):
        summary = f"{_not_yet(not_before, facts.now)}; then: {summary}"
    return Explanation(summary, _remedy(facts, verdicts), verdicts)


def _why_not(facts: Facts, machine: Machine) -> Verdict:
    """Say what keeps a machine from a job that waits; what would stop it first comes first."""
    holding = facts.holdings.get(machine.id)
    if not facts.is_alive(machine):
        since = in_words((facts.now - machine.last_seen_at).total_seconds())
        left = presence.has_left(machine.device)
        why = f"it left {since} ago: it was stopped" if left else f"it has not checked in for {since}"
        return Verdict(machine.id, Reason.SILENT, why, "start it again, or look at its network and its log")
    if told := machines.why_idle(machine):
        reason = Reason.DRAINED if machine.drained else Reason.SICK
        return Verdict(machine.id, reason, told, f"POST /v1/machines/{machine.id}/undrain, once it may work again")
    if holding is None or holding.state != HoldingState.READY:
        return _on_the_way(facts, machine, holding)
    if facts.engine is not None:
        return _without_engine(facts.engine, machine) or _in_its_queue(facts, machine)
    return _failed_here(facts, machine) or _in_its_queue(facts, machine)


def _without_engine(engine: Engine, machine: Machine) -> Verdict | None:
    """Say that a machine does not hold the job's engine ready."""
    if engine.state == EngineState.CLOSED or not engine.is_wanted:
        told = f"it could hold engine {engine.id}, which is not started"
        return Verdict(machine.id, Reason.NO_ENGINE, told, engine_jobs.how_to_start(engine))
    if engine.machine_id != machine.id:
        return Verdict(machine.id, Reason.NO_ENGINE, f"engine {engine.id} is on {engine.machine_id}")
    if engine.state == EngineState.STARTING:
        return Verdict(machine.id, Reason.STARTING, f"it is loading engine {engine.id}")
    return None


def _on_the_way(facts: Facts, machine: Machine, holding: Holding | None) -> Verdict:
    """Say how far a machine is that does not hold the model's proof."""
    model_id = facts.job.model_id
    if holding is None:
        return Verdict(
            machine.id,
            Reason.NO_RECEIPT,
            f"it does not hold {model_id}, which is not among the models it was told to hold",
            f"add {model_id} to its MACHINE_MODELS_NEEDED",
        )
    if holding.state == HoldingState.ERROR:
        told = holding.error or holding.error_code or "no reason was given"
        reason = Reason.NO_MEMORY if "memory" in (holding.error_code or "") else Reason.MODEL_ERROR
        return Verdict(machine.id, reason, f"it could not get {model_id} ready: {told}", "mend what the error names")
    rest = forecasts.arrives_in(holding, facts.now)
    if holding.state == HoldingState.DOWNLOADING:
        return Verdict(machine.id, Reason.DOWNLOADING, f"it is downloading {model_id}{_how_far(holding)}", None, rest)
    if holding.state == HoldingState.VERIFYING:
        return Verdict(machine.id, Reason.VERIFYING, holding.error or f"it is proving {model_id}", None, rest)
    return Verdict(machine.id, Reason.WANTED, f"it is going to fetch {model_id}; other downloads may come first")


def _how_far(holding: Holding) -> str:
    if not holding.bytes_total:
        return ""
    told = f", {100 * holding.bytes_done / holding.bytes_total:.0f} % of {holding.bytes_total / 1e9:.1f} GB"
    if not holding.bytes_per_second:
        return f"{told}, at the moment nothing arrives"
    rest = (holding.bytes_total - holding.bytes_done) / holding.bytes_per_second
    return f"{told} at {holding.bytes_per_second / 1e6:.1f} MB/s, about {in_words(rest)} left"


def _failed_here(facts: Facts, machine: Machine) -> Verdict | None:
    """Say that a job which failed here is kept for another machine, as long as there is one."""
    failed = [a for a in facts.job.attempts if a.machine_id == machine.id and a.state == AttemptState.ERROR]
    others = [holding for holding in facts.outlook.working if holding.machine_id != machine.id]
    kept = facts.job.queued_at + timedelta(seconds=KEPT_FOR_OTHERS_SECONDS) - facts.now
    if not failed or not others or kept <= timedelta(0):
        return None
    attempt, seconds = failed[-1], kept.total_seconds()
    told = (
        f"attempt {attempt.number} failed here ({attempt.error_code}: {attempt.error}), so another machine comes first"
    )
    reason = Reason.NO_MEMORY if "memory" in (attempt.error_code or "") else Reason.FAILED_BEFORE
    return Verdict(machine.id, reason, told, None, seconds)


def _in_its_queue(facts: Facts, machine: Machine) -> Verdict:
    """Say what a machine does that could draw the job."""
    if not_before := _not_before(facts):
        seconds = (not_before - facts.now).total_seconds()
        return Verdict(machine.id, Reason.NOT_YET, _not_yet(not_before, facts.now), None, seconds)
    if (attempt := facts.running.get(machine.id)) is not None:
        left = facts.left.get(machine.id) or None
        since = in_words((facts.now - attempt.started_at).total_seconds())
        still = f", and will for about {in_words(left)} still" if left else ""
        beside = f" and {attempt.together - 1} more in the same pass" if attempt.together > 1 else ""
        told = f"it has been drawing job {attempt.job_id}{beside} for {since}{still}"
        return Verdict(machine.id, Reason.BUSY, told, None, left)
    if facts.ahead:
        turn = "it is the turn of 1 other job" if facts.ahead == 1 else f"it is the turn of {facts.ahead} other jobs"
        return Verdict(machine.id, Reason.OTHERS_FIRST, f"it is free, and {turn} of {facts.job.model_id} before")
    return Verdict(
        machine.id,
        Reason.FREE,
        "it is free and should take the job within seconds",
        "if it does not, look whether the broker and the control worker run: GET /health",
    )


def _not_before(facts: Facts) -> datetime | None:
    moment = facts.job.next_attempt_at
    return moment if moment is not None and moment > facts.now else None


def _not_yet(moment: datetime, now: datetime) -> str:
    return f"its next attempt begins in {in_words((moment - now).total_seconds())} at the earliest"


def _remedy(facts: Facts, verdicts: Iterable[Verdict]) -> str | None:
    """Say what would help a job most; None where it only has to wait."""
    is_closed = facts.engine is not None and facts.engine.state == EngineState.CLOSED
    if (facts.outlook.working and not is_closed) or any(verdict.seconds is not None for verdict in verdicts):
        return None
    if is_closed and facts.outlook.working and facts.engine:
        return engine_jobs.how_to_start(facts.engine)
    first = (Reason.DRAINED, Reason.SICK, Reason.MODEL_ERROR, Reason.NO_MEMORY, Reason.NO_RECEIPT, Reason.SILENT)
    helped = sorted(
        (first.index(verdict.reason), f"{verdict.machine_id}: {verdict.remedy}")
        for verdict in verdicts
        if verdict.remedy and verdict.reason in first
    )
    return helped[0][1] if helped else f"start a machine with MACHINE_MODELS_NEEDED={facts.job.model_id}"


def _of_attempt(attempt: Attempt) -> Verdict:
    """Say what became of a machine's try."""
    if attempt.ended_at is None:
        return Verdict(attempt.machine_id, Reason.DRAWS_IT, f"it draws the job since attempt {attempt.number} began")
    took = in_words((attempt.ended_at - attempt.started_at).total_seconds())
    if attempt.state == AttemptState.COMPLETED:
        return Verdict(attempt.machine_id, Reason.DREW_IT, f"it drew the job with attempt {attempt.number} in {took}")
    why = f": {attempt.error}" if attempt.error else ""
    told = f"attempt {attempt.number} was {_WORDS[attempt.state]} after {took}{why}"
    return Verdict(attempt.machine_id, Reason.TRIED_IT, told)


_WORDS = {AttemptState.LOST: "lost", AttemptState.ERROR: "a failure", AttemptState.CANCELLED: "cancelled"}


def _story(facts: Facts) -> str:
    """Say in one sentence who draws or drew a job, or why nobody did."""
    job = facts.job
    before = "; ".join(
        f"{attempt.machine_id}: {_of_attempt(attempt).told}"
        for attempt in job.attempts
        if attempt.state in {AttemptState.LOST, AttemptState.ERROR}
    )
    beside = f" (before that, {before})" if before else ""
    if job.state == JobState.PROCESSING:
        since = in_words((facts.now - job.started_at).total_seconds()) if job.started_at else "a moment"
        tries = f"attempt {job.attempt} of {job.max_attempts}"
        return f"{job.machine_id} has been drawing it{_company(job)} for {since}, {tries}{beside}"
    if job.state == JobState.COMPLETED:
        return f"{job.machine_id} drew it{_company(job)} with attempt {job.attempt}{beside}"
    if job.state == JobState.CANCELLED:
        return f"it was cancelled: {job.error or 'its client did not want it any more'}"
    tries = "1 attempt" if job.attempt == 1 else f"{job.attempt} attempts"
    return f"it ended as an error after {tries}: {job.error or 'no reason was given'}"


def _company(job: Job) -> str:
    """Say with how many others a job is or was drawn in one pass."""
    others = next((attempt.together - 1 for attempt in job.attempts if attempt.number == job.attempt), 0)
    return f" in one pass with {others} more" if others else ""
