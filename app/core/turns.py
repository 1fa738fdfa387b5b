"""Turns: which job of a queue is next: of those that wait for a model, or for an engine.

Owners (API tokens) with waiting jobs take turns: the one who was served longest ago comes first, so that ten thousand
jobs of one client do not stand before the single job of another. Within an owner the priority decides, then the age.

Nothing here waits for another claim: on PostgreSQL what somebody else has locked is passed over (`SKIP LOCKED`), and
every step is one look into the index `ix_jobs_waiting`, however many jobs wait.

Whose turn it is, is kept for each model: an owner who was served by one of its engines was served.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from app.core import machines
from app.core.errors import JobNotFound
from app.core.fleet import Transaction
from app.core.leaps import leap, read_by_index
from app.core.lifecycle import AttemptState, HoldingState, JobState
from app.core.tables import Attempt, Holding, Job, Machine, Turn

KEPT_FOR_OTHERS_SECONDS = 15.0
"""How long a job that a machine has failed is kept for another one. Then it may have it again: better than never."""

AS_INDEXED = (Job.owner, Job.rank, Job.queued_at, Job.id)
"""The order of `ix_jobs_waiting` within a queue: who asks for it reads that index and no other."""

FIRST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Line:
    """Jobs that wait for the same."""

    queue: str
    """As `Job.queue`."""
    model_id: str
    engine_id: UUID | None = None
    """None: any machine that is ready for the model draws them."""

    @classmethod
    def of(cls, job: Job) -> "Line":
        """Return where a job waits."""
        return cls(job.queue, job.model_id, job.engine_id)


def line_of(session: Session, job_id: UUID) -> Line:
    """Find where a job waits, or waited; raises JobNotFound."""
    found = session.execute(select(Job.queue, Job.model_id, Job.engine_id).where(Job.id == job_id)).one_or_none()
    if found is None:
        raise JobNotFound(f"there is no job {job_id}", job_id=str(job_id))
    return Line(*found)


def take_next(tx: Transaction, line: Line, machine_id: str) -> UUID | None:
    """Lock the job of a line that this machine should draw next, and note whose turn it was; None when none waits."""
    model_id = line.model_id
    untried = set(waiting_owners(tx.session, line.queue))
    latest = _last_served(tx.session, model_id) if untried else None
    while untried and (turn := _next_turn(tx.session, model_id, untried)):
        untried.discard(turn.owner)
        if job_id := _best_of(tx, line, turn.owner, machine_id):
            _serve(tx, turn, latest)
            return job_id
    # The others are being served by somebody at this very moment, who takes the note.
    found = (_best_of(tx, line, owner, machine_id) for owner in sorted(untried))
    return next((job_id for job_id in found if job_id), None)


def note_served(tx: Transaction, model_id: str, owners: Sequence[str]) -> None:
    """Note that owners were served, in this order; who is being served by somebody else is noted there."""
    for owner in owners:
        query = select(Turn).where(Turn.model_id == model_id, Turn.owner == owner)
        turn = tx.session.scalars(query.with_for_update(skip_locked=True)).one_or_none()
        if turn is not None:
            _serve(tx, turn, _last_served(tx.session, model_id))


def _serve(tx: Transaction, turn: Turn, latest: datetime | None) -> None:
    """Note a turn, later than every other one, also where clocks differ or stand still."""
    turn.served_at = max(tx.now, latest + timedelta(microseconds=1)) if latest else tx.now


def enter(tx: Transaction, model_id: str, owner: str) -> None:
    """Give an owner its place among the turns of a model, before its first job waits there.

    It is done here and not at the claim, so that claims never wait for each other's new rows.
    """
    known: set[tuple[str, str]] = tx.session.info.setdefault("imagefleet.turns", set())
    if (model_id, owner) in known:
        return
    known.add((model_id, owner))
    if tx.session.get(Turn, (model_id, owner)) is not None:
        return
    try:
        with tx.session.begin_nested():
            tx.session.add(Turn(model_id=model_id, owner=owner))
    except IntegrityError:  # another order was faster
        return


def waiting_owners(session: Session, queue: str) -> Sequence[str]:
    """Name the owners of the jobs that wait in a queue."""
    read_by_index(session)
    owners = leap(Job.owner, Job.state == JobState.QUEUED, Job.queue == queue, then=AS_INDEXED[1:])
    return session.scalars(select(owners.c.value).where(owners.c.value.is_not(None))).all()


def order_of(session: Session, line: Line) -> Sequence[str]:
    """Name the owners of a line's jobs in the order of their turns, as `take_next` would find them."""
    owners = waiting_owners(session, line.queue)
    query = select(Turn.owner, Turn.served_at).where(Turn.model_id == line.model_id, Turn.owner.in_(owners))
    served = {owner: served_at for owner, served_at in session.execute(query)}  # noqa: C416  # rows are no pairs to mypy
    return sorted(owners, key=lambda owner: (served.get(owner) or FIRST, owner))


def is_due(now: datetime) -> ColumnElement[bool]:
    """Say whether a queued job may begin now: not too early, and not past the deadline by which it had to begin."""
    return and_(
        or_(Job.next_attempt_at.is_(None), Job.next_attempt_at <= now),
        # A job that was lost or has failed had begun in time.
        or_(Job.deadline_at.is_(None), Job.deadline_at > now, Job.attempt > 0),
    )


def _best_of(tx: Transaction, line: Line, owner: str, machine_id: str) -> UUID | None:
    query = (
        select(Job.id)
        .where(Job.state == JobState.QUEUED, Job.queue == line.queue, Job.owner == owner)
        .where(is_due(tx.now))
        .order_by(*AS_INDEXED[1:])
        .limit(1)
    )
    if line.engine_id is None:  # what an engine failed, nobody else could try
        query = query.where(_may_have(tx, line.model_id, machine_id), _may_replay(tx, line.model_id, machine_id))
    return tx.session.scalar(query.with_for_update(skip_locked=True, of=Job))


def _may_have(tx: Transaction, model_id: str, machine_id: str) -> ColumnElement[bool]:
    """Keep what this machine has failed for another one, as long as there is one and it is not too long."""
    failed_here = exists().where(
        Attempt.job_id == Job.id, Attempt.machine_id == machine_id, Attempt.state == AttemptState.ERROR
    )
    somebody_else = exists().where(
        Holding.machine_id == Machine.id,
        Holding.model_id == model_id,
        Holding.state == HoldingState.READY,
        Machine.id != machine_id,
        machines.takes_jobs(tx.limits, tx.now),
    )
    kept_since = tx.now - timedelta(seconds=KEPT_FOR_OTHERS_SECONDS)
    return or_(Job.attempt == 0, Job.queued_at <= kept_since, ~failed_here, ~somebody_else)


def _may_replay(tx: Transaction, model_id: str, machine_id: str) -> ColumnElement[bool]:
    """Keep replays for machines with the kind of device that drew the first time, as long as there is one and not long.

    Only there the pixels can be equal bit for bit.
    """
    here = tx.session.get_one(Machine, machine_id).device.get("name")
    origin = aliased(Job)
    first = (
        select(Attempt.device)
        .join(origin, and_(origin.id == Attempt.job_id, origin.attempt == Attempt.number))
        .where(origin.id == Job.origin_id)
        .correlate(Job, Machine)
        .scalar_subquery()
    )
    somebody_alike = exists().where(
        Holding.machine_id == Machine.id,
        Holding.model_id == model_id,
        Holding.state == HoldingState.READY,
        Machine.device["name"].as_string() == first,
        machines.takes_jobs(tx.limits, tx.now),
    )
    kept_since = tx.now - timedelta(seconds=KEPT_FOR_OTHERS_SECONDS)
    return or_(Job.is_replay.is_(False), Job.queued_at <= kept_since, first == (here or ""), ~somebody_alike)


def _next_turn(session: Session, model_id: str, owners: set[str]) -> Turn | None:
    query = (
        select(Turn)
        .where(Turn.model_id == model_id, Turn.owner.in_(owners))
        .order_by(Turn.served_at.nulls_first(), Turn.owner)
        .limit(1)
    )
    return session.scalars(query.with_for_update(skip_locked=True)).first()


def _last_served(session: Session, model_id: str) -> datetime | None:
    return session.scalar(select(func.max(Turn.served_at)).where(Turn.model_id == model_id))
