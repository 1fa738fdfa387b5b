"""Attempts: giving a job to one machine at a time, taking what it brings, and taking the job back from the lost."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session, joinedload

from app.core import bells, engine_jobs, heartbeats, jobs, machines, paces, presence, replay, sickness, turns, webhooks
from app.core.errors import Conflict, NotClaimable, StaleAttempt
from app.core.fleet import Transaction
from app.core.lifecycle import AttemptState, JobState, move_to
from app.core.measures import ATTEMPTS, OTHER, PHASE, PHASES, RUN, WAIT
from app.core.spec import GenerationSpec
from app.core.tables import Attempt, Image, Job, Machine

log = logging.getLogger(__name__)

MOST_LOST_AT_ONCE = 500
"""How many attempts of silent machines one round takes back: a round must stay short."""


MACHINE_LOST = "machine_lost"
"""The error code of an attempt that was taken from its machine."""

POISON = "failed_on_two_machines"
"""The error code of a job that no third machine should be bothered with."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, as its machine tells it."""

    state: AttemptState
    error_code: str | None = None
    error: str | None = None
    permanent: bool = False
    """Trying again cannot help."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase."""
    receipts: Sequence[Mapping[str, Any]] = ()
    """What drew each picture, in their order."""

    @property
    def is_cut_short(self) -> bool:
        """Say whether somebody skipped a picture: then it took less time than it would have."""
        return any("skipped_after" in receipt for receipt in self.receipts)


def claim(tx: Transaction, job_id: UUID, machine_id: str, boot_id: str, claim_id: UUID | None = None) -> Attempt:
    """Give a machine the next job of the queue that a bell was rung for; the bell's own job may come later.

    Asked again with the same `claim_id` it gives the same attempt: its first answer was lost on the way.
    Raises NotClaimable when the machine gets no jobs or none waits, and JobNotFound.
    """
    machine = _at_work(tx, machine_id, boot_id)
    if claim_id is not None and (again := _given_before(tx, machine, claim_id)):
        return again
    line = turns.line_of(tx.session, job_id)
    if line.engine_id is not None:
        engine_jobs.require_held(tx, line.engine_id, machine)
    chosen = turns.take_next(tx, line, machine_id)
    attempt = give(tx, chosen, machine, claim_id) if chosen else None
    if attempt is None:
        state = jobs.state_of(tx.session, job_id)
        raise NotClaimable(_why_nothing(job_id, state, line.model_id), state=str(state))
    engine_jobs.settle(tx, line.engine_id)
    return attempt


def give(tx: Transaction, job_id: UUID, machine: Machine, claim_id: UUID | None) -> Attempt | None:
    """Make a locked job a machine's, as its next attempt; None when it does not wait any more."""
    began = _not_before_the_last(tx, job_id)
    taken = tx.session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state == JobState.QUEUED)
        .values(
            state=JobState.PROCESSING,
            attempt=Job.attempt + 1,
            machine_id=machine.id,
            started_at=began,
            changed_at=began,
        )
        .returning(Job.attempt, Job.model_id, Job.queued_at)
        .execution_options(synchronize_session=False),
    ).one_or_none()
    if taken is None:
        return None
    number, model_id, queued_at = taken
    waited = (began - queued_at).total_seconds()
    tx.observe(WAIT, waited, model_id)
    tx.observe(PHASE, waited, "queued")
    attempt = Attempt(job_id=job_id, number=number, machine_id=machine.id, boot_id=machine.boot_id, started_at=began)
    attempt.claim_id = claim_id
    attempt.device = str(machine.device.get("name", ""))[:200]
    tx.session.add(attempt)
    webhooks.owe_begun(tx, job_id)
    return attempt


def _not_before_the_last(tx: Transaction, job_id: UUID) -> datetime:
    """Return now, and never a moment before the job's last attempt ended.

    A claim may have waited for its machine's lock while a later transaction, or one of a server whose clock is ahead,
    took the job back; told as it is, the story would have the job on two machines at once.
    """
    ended = tx.session.scalar(select(func.max(Attempt.ended_at)).where(Attempt.job_id == job_id))
    return max(tx.now, ended) if ended else tx.now


def _at_work(tx: Transaction, machine_id: str, boot_id: str) -> Machine:
    """Lock a machine that may be given jobs: its claims come one after another, so that none is given two for one."""
    machine = tx.session.get(Machine, machine_id, with_for_update={"key_share": True})
    if machine is None or machine.boot_id != boot_id:
        raise NotClaimable(f"machine {machine_id!r} has not checked in since it started")
    if reason := machines.why_idle(machine):
        raise NotClaimable(reason, turned_away=True)  # so the machine leaves its queues at once
    presence.note_claim(tx, machine)
    return machine


def _given_before(tx: Transaction, machine: Machine, claim_id: UUID) -> Attempt | None:
    query = select(Attempt).where(Attempt.machine_id == machine.id, Attempt.state == AttemptState.RUNNING)
    query = query.where(Attempt.boot_id == machine.boot_id, Attempt.claim_id == claim_id)
    # One that is locked is being ended or lost; to wait for it with the machine locked could be waiting for ever.
    query = query.order_by(Attempt.job_id).limit(1)  # of a batch, one; `batches` gives the others
    attempt = tx.session.scalars(query.with_for_update(skip_locked=True)).one_or_none()
    if attempt is not None:
        # It begins now: the machine's next check-in may still not name it.
        attempt.started_at = max(attempt.started_at, tx.now)
    return attempt


def _why_nothing(job_id: UUID, state: JobState, model_id: str) -> str:
    if state != JobState.QUEUED:
        return f"job {job_id} is {state}, and no other one waits for {model_id!r}"
    return (
        f"job {job_id} is not for this machine now: another one should try it first, its time has not come or has "
        "passed, or somebody else is changing it"
    )


def holding(session: Session, job_id: UUID, number: int, machine_id: str) -> tuple[Job, Attempt]:
    """Lock a job for the attempt that holds it; raises StaleAttempt for any older or ended one."""
    job = jobs.locked(session, job_id)
    attempt = session.get(Attempt, (job_id, number)) if 0 < number <= job.attempt else None
    if attempt is None or attempt.machine_id != machine_id:
        raise StaleAttempt(f"job {job_id} has no attempt {number} of machine {machine_id!r}")
    if job.state != JobState.PROCESSING or job.attempt != number:
        raise StaleAttempt(f"attempt {number} no longer holds job {job_id}, which is {job.state}", state=str(job.state))
    return job, attempt


def finish(tx: Transaction, job_id: UUID, number: int, machine_id: str, outcome: Outcome) -> Job:
    """End an attempt, and with it the job, or send the job back for another try.

    Raises StaleAttempt when the attempt no longer holds the job, and Conflict when pictures are missing.
    """
    job, attempt = holding(tx.session, job_id, number, machine_id)
    if outcome.state == AttemptState.COMPLETED:
        wanted, brought = GenerationSpec.from_json(job.spec).n, _images_of(tx.session, attempt)
        if brought != wanted:
            raise Conflict(
                f"job {job_id} wants {wanted} pictures, and {brought} were delivered; deliver the others first"
            )
        replay.keep_receipts(tx.session, attempt, outcome.receipts)
        jobs.end(tx, job, JobState.COMPLETED)
    elif outcome.state == AttemptState.LOST:  # handed back by a machine that stops: nobody's fault, never the end
        jobs.send_back(tx, job, keeps_place=True)
    else:
        _fail(tx, job, attempt, outcome)
    _end_attempt(tx, job, attempt, outcome)
    engine_jobs.settle(tx, job.engine_id)
    if outcome.state == AttemptState.COMPLETED:
        if not outcome.is_cut_short:
            paces.learn(tx, job, attempt)
        sickness.judge_those_who_failed(tx, job)
    return job


def _fail(tx: Transaction, job: Job, attempt: Attempt, outcome: Outcome) -> None:
    """End a job that failed for good, everywhere or too often; let another machine try what may yet be drawn."""
    before = _failed_elsewhere(tx.session, job, attempt.machine_id)
    if outcome.permanent:
        jobs.end(tx, job, JobState.ERROR, outcome.error_code, outcome.error)
    elif before:
        tries = [
            (before.number, before.machine_id, before.error_code, before.error),
            (attempt.number, attempt.machine_id, outcome.error_code, outcome.error),
        ]
        told = "; ".join(f"attempt {n} on {where}: {code}: {sickness.shorten(e)}" for n, where, code, e in tries)
        jobs.end(tx, job, JobState.ERROR, POISON, f"it failed on two machines and is not tried again: {told}")
    elif _tries(tx.session, job) >= job.max_attempts:
        jobs.end(tx, job, JobState.ERROR, outcome.error_code, outcome.error)
    else:
        jobs.send_back(tx, job, keeps_place=False)
        bells.ring_elsewhere(tx, job, attempt.machine_id)


def _tries(session: Session, job: Job) -> int:
    """Count the attempts that failed or were lost with their machine.

    What a machine gave back costs no try, and neither does what was lost in a batch: another job of it may have been
    what killed the machine. The next try is alone.
    """
    query = select(func.count()).select_from(Attempt).where(Attempt.job_id == job.id)
    free = query.where(
        Attempt.state == AttemptState.LOST,
        or_(Attempt.error_code.is_distinct_from(MACHINE_LOST), Attempt.together > 1),
    )
    return job.attempt - (session.scalar(free) or 0)


def _failed_elsewhere(session: Session, job: Job, machine_id: str) -> Attempt | None:
    query = select(Attempt).where(Attempt.job_id == job.id, Attempt.state == AttemptState.ERROR)
    return session.scalars(query.where(Attempt.machine_id != machine_id).order_by(Attempt.number)).first()


def _images_of(session: Session, attempt: Attempt) -> int:
    query = select(func.count()).select_from(Image)
    return session.scalar(query.where(Image.job_id == attempt.job_id, Image.attempt == attempt.number)) or 0


def lose(tx: Transaction, attempt: Attempt, reason: str) -> None:
    """Take a job away from a machine that has lost it, and let it be tried again."""
    job = jobs.locked(tx.session, attempt.job_id)
    if job.state != JobState.PROCESSING or job.attempt != attempt.number:
        return
    log.warning("job %s: attempt %d on machine %s is lost: %s", job.id, attempt.number, attempt.machine_id, reason)
    _end_attempt(tx, job, attempt, Outcome(AttemptState.LOST, MACHINE_LOST, reason))
    tries = _tries(tx.session, job)
    if tries >= job.max_attempts:
        jobs.end(tx, job, JobState.ERROR, MACHINE_LOST, f"{tries} attempts were lost or failed, the last one: {reason}")
    else:
        jobs.send_back(tx, job, keeps_place=True)  # with a backlog it would not run again for long
    engine_jobs.settle(tx, job.engine_id)


def lose_of_silent_machines(tx: Transaction) -> int:
    """Take the jobs of machines that no longer check in, though they could be heard; returns how many."""
    limit = tx.now - timedelta(seconds=tx.limits.silent_after)
    listening = heartbeats.listening_since(tx.session, heartbeats.API, tx.now)
    if listening is None or listening >= limit:
        return 0
    query = (
        select(Attempt)
        .join(Machine, Machine.id == Attempt.machine_id)
        .where(Attempt.state == AttemptState.RUNNING, presence.silent_since(limit))
        .order_by(Attempt.job_id)  # whoever locks several jobs does it in this order, or two could wait for each other
        .limit(MOST_LOST_AT_ONCE)
    )
    lost = tx.session.scalars(query).all()
    for attempt in lost:
        lose(tx, attempt, f"machine {attempt.machine_id} has been silent for {tx.limits.silent_after:g} s")
    return len(lost)


def job_of(session: Session, attempt: Attempt) -> Job:
    """Return the job an attempt belongs to, without the rest of its story."""
    return session.get_one(Job, attempt.job_id)


def running_on(session: Session, *machine_ids: str) -> Sequence[Attempt]:
    """Return what these machines are drawing, as far as the database knows."""
    query = select(Attempt).options(joinedload(Attempt.job))
    running = query.where(Attempt.machine_id.in_(machine_ids), Attempt.state == AttemptState.RUNNING)
    return session.scalars(running.order_by(Attempt.job_id)).all()


def _end_attempt(tx: Transaction, job: Job, attempt: Attempt, outcome: Outcome) -> None:
    move_to(attempt, outcome.state)
    attempt.ended_at = tx.now
    attempt.error_code, attempt.error = outcome.error_code, outcome.error
    attempt.timings = dict[str, Any](outcome.timings)
    tx.count(ATTEMPTS, job.model_id, outcome.state)
    if outcome.state == AttemptState.COMPLETED:
        tx.observe(RUN, (tx.now - attempt.started_at).total_seconds(), job.model_id)
        for phase in outcome.timings:
            if (seconds := paces.seconds_of(outcome.timings, phase)) is not None:
                tx.observe(PHASE, seconds, phase if phase in PHASES else OTHER)
