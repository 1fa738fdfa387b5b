"""Jobs: accepting them, finding them, calling them off, and ending them."""

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Select, Uuid, func, literal, select, tuple_
from sqlalchemy.orm import Session, selectinload

from app.core import choices, companions, engine_jobs, forecasts, inputs, models, quotas, service, turns, webhooks
from app.core.dispatch import GENERATE, Message
from app.core.errors import FleetError, Invalid, InvalidSpec, JobEnded, JobNotEnded, JobNotFound
from app.core.fleet import Fleet, Transaction
from app.core.lifecycle import ENDED, AttemptState, JobState, move_to
from app.core.measures import ATTEMPTS, JOBS_ACCEPTED, JOBS_ENDED
from app.core.spec import MAX_SEED, GenerationSpec
from app.core.tables import Attempt, Image, Job, Model, UtcDateTime, queue_of
from app.core.webhooks import HookRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How an order wants to be treated: everything that does not change its pictures."""

    dialect: str = "v1"
    caller: str | None = None
    """Who ordered it, where the dialect's clients ask for "my job" without naming it."""
    owner: str = ""
    """The API token that ordered it, as its digest; empty where the server is open."""
    priority: int | None = None
    """0 to 9, 9 first; None: as its origin's, or 0."""
    deadline_at: datetime | None = None
    """Not begun by then, the job is cancelled."""
    batch_id: UUID | None = None
    origin_id: UUID | None = None
    """The ended job that this one tries again."""
    hook: HookRequest | None = None
    is_replay: bool = False
    """Draw exactly what the origin's order says, to be held against its pictures."""
    engine_id: UUID | None = None
    """The engine that is to draw it; it brings its checkpoint and more along."""


PLAIN = Terms()


def submit_list(tx: Transaction, specs: Sequence[GenerationSpec], terms: Terms = PLAIN) -> list[Job]:
    """Accept several orders that were given as one, all or none; they share a batch id.

    Raises what `submit` raises.
    """
    quotas.require_room(tx, terms.owner, len(specs))
    terms = replace(terms, batch_id=terms.batch_id or uuid4())
    return [_submit(tx, spec, terms, position) for position, spec in enumerate(specs)]


def submit(tx: Transaction, spec: GenerationSpec, terms: Terms = PLAIN) -> Job:
    """Accept an order, and ring the queue of its model once the order is safe.

    Raises ModelNotFound, EngineNotFound, InvalidSpec for what this model can never draw, Unserved where such orders are
    refused, and TooManyJobs when too many of its owner's wait already.
    """
    quotas.require_room(tx, terms.owner, 1)
    return _submit(tx, spec, terms)


def _submit(tx: Transaction, spec: GenerationSpec, terms: Terms, position: int = 0) -> Job:
    # Jobs of one list are told apart in time: by that alone they keep their order in the queue and in every listing.
    moment = tx.now + timedelta(microseconds=position)
    if terms.deadline_at is not None and terms.deadline_at <= tx.now:
        raise Invalid(f"deadline: {terms.deadline_at.isoformat()} has passed already; give a moment in the future")
    if terms.engine_id is not None:
        spec = engine_jobs.furnish(tx, terms.engine_id, spec)
    model = models.held(tx.session, spec.model_id)
    spec = _begun(tx, spec)
    if not terms.is_replay:  # what was settled the first time is drawn again, whatever the catalogue says now
        spec = choices.settle(tx, _settled(spec, model), model)
        spec = companions.settle(tx, spec, model)
    spec = choices.checked(tx, spec)
    if tx.limits.reject_unserved:
        service.require_served(tx, model.id, terms.engine_id)
    turns.enter(tx, model.id, terms.owner)
    job = Job(
        model_id=model.id,
        spec=spec.to_json(),
        priority=terms.priority or 0,
        dialect=terms.dialect,
        caller=terms.caller,
        owner=terms.owner,
        batch_id=terms.batch_id,
        origin_id=terms.origin_id,
        is_replay=terms.is_replay,
        engine_id=terms.engine_id,
        deadline_at=terms.deadline_at,
        created_at=moment,
        queued_at=moment,
        changed_at=moment,
        rung_at=tx.now,
        max_attempts=tx.limits.max_attempts,
        traceparent=tx.traceparent or None,
    )
    tx.session.add(job)
    tx.session.flush()
    job.promised_at = forecasts.promise(tx, job)
    if terms.hook is not None:
        webhooks.attach(tx, job, terms.hook)
    tx.after_commit(bell(job))
    tx.count(JOBS_ACCEPTED, job.model_id, job.dialect)
    return job


def again(tx: Transaction, job_id: UUID, terms: Terms = PLAIN, *, new_seed: bool = False) -> Job:
    """Order once more what an ended job was to draw; the new job names its origin, and draws the same pictures.

    Where `terms` name no hook, the old job's is told of the new one too, if both are of one owner. Raises JobNotFound,
    JobNotEnded, and what `submit` raises.
    """
    origin = get(tx.session, job_id)
    if origin.state not in ENDED:
        raise JobNotEnded(
            f"job {job_id} is {origin.state}; cancel it first, or wait for its end", state=str(origin.state)
        )
    spec = GenerationSpec.from_json(origin.spec)
    if new_seed:
        spec = replace(spec, seed=None, subseed=None)
    terms = replace(
        terms,
        origin_id=origin.id,
        engine_id=origin.engine_id,
        priority=origin.priority if terms.priority is None else terms.priority,
        hook=terms.hook or _hook_of(tx.session, origin, terms.owner),
    )
    return submit(tx, spec, terms)


def _hook_of(session: Session, origin: Job, owner: str) -> HookRequest | None:
    """Return whom to tell of a job that is ordered again; what somebody else ordered is no news to them."""
    return webhooks.request_of(session, origin) if origin.owner == owner else None


def _begun(tx: Transaction, spec: GenerationSpec) -> GenerationSpec:
    """Find the pictures that an order needs; one that is too large to be drawn in its own size is drawn smaller."""
    found = inputs.require(tx, spec.pictures)
    if spec.image is None or spec.width or spec.height or spec.draws_nothing:
        return spec
    size = inputs.fitted((found[spec.image].width, found[spec.image].height), tx.limits.max_size)
    return spec if size is None else replace(spec, width=size[0], height=size[1])


def _settled(spec: GenerationSpec, model: Model) -> GenerationSpec:
    """Fill in the model's defaults and a seed: a second try must draw the same picture as the first."""
    if model.kind != models.DRAWABLE:
        raise InvalidSpec(f"{model.id!r} is a {model.kind}; a job needs a checkpoint", model_id=model.id)
    fixed = model.options.get("fixed_steps")
    if fixed and spec.steps not in {None, fixed}:
        raise InvalidSpec(f"{model.id!r} draws with exactly {fixed} steps, not {spec.steps}; leave steps out")
    if spec.seed is None:
        spec = replace(spec, seed=secrets.randbelow(MAX_SEED - spec.n))
    if spec.subseed is None and spec.subseed_strength:
        spec = replace(spec, subseed=secrets.randbelow(MAX_SEED - spec.n))
    return spec.with_defaults(model.options)


def bell(job: Job) -> Message:
    """Make the message that tells the machines of a job's queue to look at it."""
    return Message(GENERATE, queue_of(job.model_id, job.engine_id), job.id, job.priority)


def get(session: Session, job_id: UUID) -> Job:
    """Find one job with its attempts and images; raises JobNotFound."""
    job = session.get(Job, job_id, options=(selectinload(Job.attempts), selectinload(Job.images)))
    if job is None:
        raise JobNotFound(f"there is no job {job_id}", job_id=str(job_id))
    return job


def get_each(session: Session, job_ids: Sequence[UUID]) -> list[Job]:
    """Find several jobs with their attempts and images, in this order; raises JobNotFound."""
    query = select(Job).where(Job.id.in_(job_ids)).options(selectinload(Job.attempts), selectinload(Job.images))
    found = {job.id: job for job in session.scalars(query)}
    if missing := [job_id for job_id in job_ids if job_id not in found]:
        raise JobNotFound(f"there is no job {missing[0]}", job_id=str(missing[0]))
    return [found[job_id] for job_id in job_ids]


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


def ahead_of(session: Session, job: Job) -> int:
    """Estimate how many jobs of the same model, or of the same engine, will be begun before this one.

    Owners take turns: the one who was served longest ago is next, with the job of its own that has the highest
    priority and has waited longest. So before a job that has `own` jobs of its owner before it, every other owner
    begins `own` of its jobs, or all it has, and one more if its turn comes earlier. It is exact for this moment; who
    orders, cancels or fails later changes it.
    """
    queued = select(Job.id).where(Job.state == JobState.QUEUED, Job.queue == job.queue)
    mine = tuple_(Job.rank, Job.queued_at, Job.id) < tuple_(
        literal(job.rank), literal(job.queued_at, UtcDateTime), literal(job.id, Uuid)
    )
    own = _count(session, queued.where(Job.owner == job.owner, mine))
    order = turns.order_of(session, turns.Line.of(job))
    place = order.index(job.owner) if job.owner in order else len(order)
    others = (
        _count(session, queued.where(Job.owner == owner).limit(own + (number < place)))
        for number, owner in enumerate(order)
        if owner != job.owner
    )
    return own + sum(others)


def _count(session: Session, query: Select[UUID]) -> int:
    return session.scalar(select(func.count()).select_from(query.subquery())) or 0


def waiting_by_model(session: Session) -> Mapping[str, int]:
    """Count the queued jobs of every model that has any."""
    query = select(Job.model_id, func.count()).where(Job.state == JobState.QUEUED).group_by(Job.model_id)
    return {model_id: count for model_id, count in session.execute(query)}  # noqa: C416  # rows are no pairs to mypy


def shown_images(job: Job) -> list[Image]:
    """Return the pictures that may be seen: those of the attempt that completed the job."""
    if job.state != JobState.COMPLETED:
        return []
    return [image for image in job.images if image.attempt == job.attempt]


def cancel(tx: Transaction, job_id: UUID, fleet: Fleet) -> Job:
    """End a job that nobody wants any more; a machine that draws it stops at its next step.

    Raises JobEnded when it was too late.
    """
    job = locked(tx.session, job_id)
    if job.state in ENDED:
        raise JobEnded(f"job {job_id} is already {job.state}", state=str(job.state), job_id=str(job_id))
    if job.state == JobState.PROCESSING:
        attempt = tx.session.get_one(Attempt, (job_id, job.attempt))
        move_to(attempt, AttemptState.CANCELLED)
        attempt.ended_at = tx.now
        tx.count(ATTEMPTS, job.model_id, attempt.state)
        tx.and_then(lambda: fleet.live.ask_to_cancel(job_id))
    end(tx, job, JobState.CANCELLED)
    engine_jobs.settle(tx, job.engine_id)
    return job


def cancel_each(tx: Transaction, job_ids: Iterable[UUID], fleet: Fleet) -> Mapping[UUID, Job | FleetError]:
    """Cancel several jobs; returns what became of each, by its id: the cancelled job, or why it was not cancelled."""
    found: dict[UUID, Job | FleetError] = {}
    for job_id in sorted(set(job_ids)):  # in the order in which everybody locks several jobs
        try:
            found[job_id] = cancel(tx, job_id, fleet)
        except (JobEnded, JobNotFound) as exc:
            found[job_id] = exc
    return found


def send_back(tx: Transaction, job: Job, *, keeps_place: bool) -> None:
    """Let a running job wait for another try: in its old place, or behind those that wait already."""
    move_to(job, JobState.QUEUED)
    job.rung_at = job.changed_at = tx.now
    if not keeps_place:
        job.queued_at = tx.now
    job.machine_id = None
    webhooks.owe(tx, job, job.state.value)
    tx.after_commit(bell(job))


def end(tx: Transaction, job: Job, state: JobState, code: str | None = None, error: str | None = None) -> None:
    """Bring a job to its end, and owe the news to its webhook in the same transaction."""
    move_to(job, state)
    job.ended_at = job.changed_at = tx.now
    job.error_code, job.error = code, error
    webhooks.owe(tx, job, job.state.value)
    tx.count(JOBS_ENDED, job.model_id, job.dialect, state)
