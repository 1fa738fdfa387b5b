"""Jobs: accepting them, giving them to one machine at a time, ending them, and never forgetting one."""

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session, joinedload, selectinload

from app.core import machines, models
from app.core.dispatch import GENERATE, Message, model_queue
from app.core.errors import Conflict, InvalidSpec, JobEnded, JobNotFound, NotClaimable, StaleAttempt, Unserved
from app.core.fleet import Fleet, Transaction
from app.core.lifecycle import ENDED, AttemptState, JobState, move_to
from app.core.spec import MAX_SEED, GenerationSpec
from app.core.tables import Attempt, Image, Job, Machine, Model

log = logging.getLogger(__name__)

MOST_RUNG_AT_ONCE = 500
"""How many forgotten jobs one round of the sweeper rings for: the queues must not be flooded by a mistake of ours."""


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


def submit(
    tx: Transaction, spec: GenerationSpec, *, priority: int = 0, dialect: str = "v1", caller: str | None = None
) -> Job:
    """Accept an order, and ring the queue of its model once the order is safe.

    Raises ModelNotFound, InvalidSpec for what this model can never draw, and Unserved where such orders are refused.
    """
    model = models.get(tx.session, spec.model_id)
    spec = _settled(spec, model)
    if tx.limits.reject_unserved and not machines.outlook(tx.session, model.id, tx.limits, tx.now).ready:
        raise Unserved(f"no live machine holds {model.id!r} at the moment; ask again later", model_id=model.id)
    job = Job(
        model_id=model.id,
        spec=spec.to_json(),
        priority=priority,
        dialect=dialect,
        caller=caller,
        created_at=tx.now,
        queued_at=tx.now,
        rung_at=tx.now,
        max_attempts=tx.limits.max_attempts,
    )
    tx.session.add(job)
    tx.session.flush()
    tx.after_commit(bell(job))
    return job


def _settled(spec: GenerationSpec, model: Model) -> GenerationSpec:
    """Fill in the model's defaults and a seed: a second try must draw the same picture as the first."""
    if model.kind != models.DRAWABLE:
        raise InvalidSpec(f"{model.id!r} is a {model.kind}; a job needs a checkpoint", model_id=model.id)
    fixed = model.options.get("fixed_steps")
    if fixed and spec.steps not in {None, fixed}:
        raise InvalidSpec(f"{model.id!r} draws with exactly {fixed} steps, not {spec.steps}; leave steps out")
    if spec.seed is None:
        spec = replace(spec, seed=secrets.randbelow(MAX_SEED - spec.n))
    return spec.with_defaults(model.options)


def bell(job: Job) -> Message:
    """Make the message that tells the machines of a job's model to look at it."""
    return Message(GENERATE, model_queue(job.model_id), job.id, job.priority)


def get(session: Session, job_id: UUID) -> Job:
    """Find one job with its attempts and images; raises JobNotFound."""
    job = session.get(Job, job_id, options=(selectinload(Job.attempts), selectinload(Job.images)))
    if job is None:
        raise JobNotFound(f"there is no job {job_id}", job_id=str(job_id))
    return job


def state_of(session: Session, job_id: UUID) -> JobState:
    """Return only a job's state, for those who ask often; raises JobNotFound."""
    state = session.scalar(select(Job.state).where(Job.id == job_id))
    if state is None:
        raise JobNotFound(f"there is no job {job_id}", job_id=str(job_id))
    return state


def model_of(session: Session, job: Job) -> Model:
    """Return the catalogue entry a job is drawn with."""
    return session.get_one(Model, job.model_id)


def locked(session: Session, job_id: UUID) -> Job:
    """Find one job and hold it until the transaction ends: without the lock, two endings can both succeed."""
    # A job that this session has loaded before would otherwise keep the state it had then, in spite of the lock.
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise JobNotFound(f"there is no job {job_id}", job_id=str(job_id))
    return job


def listing(
    session: Session,
    *,
    state: JobState | None = None,
    model_id: str | None = None,
    before: datetime | None = None,
    limit: int = 50,
) -> Sequence[Job]:
    """Return jobs, newest first."""
    if model_id is not None and not models.can_be_stored(model_id):
        return []
    query = select(Job).options(selectinload(Job.images)).order_by(Job.created_at.desc(), Job.id).limit(limit)
    if state is not None:
        query = query.where(Job.state == state)
    if model_id is not None:
        query = query.where(Job.model_id == model_id)
    if before is not None:
        query = query.where(Job.created_at < before)
    return session.scalars(query).all()


def ahead_of(session: Session, job: Job) -> int:
    """Count the jobs of the same model that will be looked at before this one."""
    earlier = or_(Job.priority > job.priority, (Job.priority == job.priority) & (Job.queued_at < job.queued_at))
    query = select(func.count()).select_from(Job)
    return session.scalar(query.where(Job.state == JobState.QUEUED, Job.model_id == job.model_id, earlier)) or 0


def waiting_by_model(session: Session) -> Mapping[str, int]:
    """Count the queued jobs of every model that has any."""
    query = select(Job.model_id, func.count()).where(Job.state == JobState.QUEUED).group_by(Job.model_id)
    return {model_id: count for model_id, count in session.execute(query)}  # noqa: C416  # rows are no pairs to mypy


def shown_images(job: Job) -> list[Image]:
    """Return the pictures that may be seen: those of the attempt that completed the job."""
    if job.state != JobState.COMPLETED:
        return []
    return [image for image in job.images if image.attempt == job.attempt]


def claim(tx: Transaction, job_id: UUID, machine_id: str, boot_id: str) -> Attempt:
    """Give a queued job to one machine; of many that ask, exactly one wins.

    Raises NotClaimable for everybody else, and JobNotFound.
    """
    machine = tx.session.get(Machine, machine_id)
    if machine is None or machine.boot_id != boot_id:
        raise NotClaimable(f"machine {machine_id!r} has not checked in since it started")
    if machine.drained:
        raise NotClaimable(f"machine {machine_id!r} is drained")
    number = tx.session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.state == JobState.QUEUED)
        .where(or_(Job.next_attempt_at.is_(None), Job.next_attempt_at <= tx.now))
        .values(state=JobState.PROCESSING, attempt=Job.attempt + 1, machine_id=machine_id, started_at=tx.now)
        .returning(Job.attempt)
        .execution_options(synchronize_session=False),
    )
    if number is None:
        job = get(tx.session, job_id)
        raise NotClaimable(f"job {job_id} is {job.state}", state=str(job.state))
    attempt = Attempt(job_id=job_id, number=number, machine_id=machine_id, boot_id=boot_id, started_at=tx.now)
    tx.session.add(attempt)
    return attempt


def holding(session: Session, job_id: UUID, number: int, machine_id: str) -> tuple[Job, Attempt]:
    """Lock a job for the attempt that holds it; raises StaleAttempt for any older or ended one."""
    job = locked(session, job_id)
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
        _end(tx, job, JobState.COMPLETED)
    elif outcome.state == AttemptState.LOST:  # handed back by a machine that stops: nobody's fault, never the end
        _send_back(tx, job)
    elif outcome.permanent or job.attempt >= job.max_attempts:
        _end(tx, job, JobState.ERROR, outcome.error_code, outcome.error)
    else:
        _send_back(tx, job)
    _end_attempt(tx, attempt, outcome)
    return job


def _images_of(session: Session, attempt: Attempt) -> int:
    query = select(func.count()).select_from(Image)
    return session.scalar(query.where(Image.job_id == attempt.job_id, Image.attempt == attempt.number)) or 0


def cancel(tx: Transaction, job_id: UUID, fleet: Fleet) -> Job:
    """End a job that nobody wants any more; a machine that draws it stops at its next step.

    Raises JobEnded when it was too late.
    """
    job = locked(tx.session, job_id)
    if job.state in ENDED:
        raise JobEnded(f"job {job_id} is already {job.state}", state=str(job.state), job_id=str(job_id))
    if job.state == JobState.PROCESSING:
        attempt = tx.session.get_one(Attempt, (job_id, job.attempt))
        _end_attempt(tx, attempt, Outcome(AttemptState.CANCELLED))
        tx.and_then(lambda: fleet.live.ask_to_cancel(job_id))
    _end(tx, job, JobState.CANCELLED)
    return job


def lose(tx: Transaction, attempt: Attempt, reason: str) -> None:
    """Take a job away from a machine that has lost it, and let it be tried again."""
    job = locked(tx.session, attempt.job_id)
    if job.state != JobState.PROCESSING or job.attempt != attempt.number:
        return
    log.warning("job %s: attempt %d on %s is lost: %s", job.id, attempt.number, attempt.machine_id, reason)
    _end_attempt(tx, attempt, Outcome(AttemptState.LOST, "machine_lost", reason))
    if job.attempt >= job.max_attempts:
        tried = f"{job.attempt} attempts were lost, the last one: {reason}"
        _end(tx, job, JobState.ERROR, "machine_lost", tried)
    else:
        _send_back(tx, job)


def lose_of_silent_machines(tx: Transaction) -> int:
    """Take the jobs of machines that no longer check in; returns how many."""
    limit = tx.now - timedelta(seconds=tx.limits.silent_after)
    query = (
        select(Attempt)
        .join(Machine, Machine.id == Attempt.machine_id)
        .where(Attempt.state == AttemptState.RUNNING, Machine.last_seen_at < limit)
        .order_by(Attempt.job_id)  # whoever locks several jobs does it in this order, or two could wait for each other
        .limit(MOST_RUNG_AT_ONCE)
    )
    lost = tx.session.scalars(query).all()
    for attempt in lost:
        lose(tx, attempt, f"machine {attempt.machine_id} has been silent for {tx.limits.silent_after:g} s")
    return len(lost)


def ring_forgotten(fleet: Fleet) -> int:
    """Ring again for queued jobs whose bells are gone; returns how many were rung.

    A healthy backlog costs one count by model: a bell is missing only where fewer messages wait than jobs.
    """
    now = fleet.clock()
    due = (
        Job.state == JobState.QUEUED,
        Job.rung_at < now - timedelta(seconds=fleet.limits.ring_again_after),
        or_(Job.next_attempt_at.is_(None), Job.next_attempt_at <= now),
    )
    with fleet.reading() as session:
        waiting = session.execute(select(Job.model_id, func.count()).where(*due).group_by(Job.model_id)).all()
    rung = 0
    for model_id, count in waiting:
        depth = fleet.dispatcher.depth(model_queue(model_id))
        missing = 0 if depth is None else min(count - depth, MOST_RUNG_AT_ONCE - rung)
        if missing <= 0:
            continue
        with fleet.transaction() as tx:
            oldest = select(Job).where(*due, Job.model_id == model_id).order_by(Job.rung_at).limit(missing)
            for job in tx.session.scalars(oldest.with_for_update(skip_locked=True)):
                job.rung_at = now
                tx.after_commit(bell(job))
                rung += 1
    if rung:
        log.info("rang again for %d queued jobs whose messages were gone", rung)
    return rung


def attempts_of(session: Session, machine_id: str) -> Sequence[Attempt]:
    """Return what a machine is drawing, as far as the database knows."""
    query = select(Attempt).options(joinedload(Attempt.job))
    running = query.where(Attempt.machine_id == machine_id, Attempt.state == AttemptState.RUNNING)
    return session.scalars(running.order_by(Attempt.job_id)).all()


def _send_back(tx: Transaction, job: Job) -> None:
    move_to(job, JobState.QUEUED)
    job.queued_at = job.rung_at = tx.now
    job.machine_id = None
    tx.after_commit(bell(job))


def _end(tx: Transaction, job: Job, state: JobState, code: str | None = None, error: str | None = None) -> None:
    move_to(job, state)
    job.ended_at = tx.now
    job.error_code, job.error = code, error


def _end_attempt(tx: Transaction, attempt: Attempt, outcome: Outcome) -> None:
    move_to(attempt, outcome.state)
    attempt.ended_at = tx.now
    attempt.error_code, attempt.error = outcome.error_code, outcome.error
    attempt.timings = dict[str, Any](outcome.timings)
