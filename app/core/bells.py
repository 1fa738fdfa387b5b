"""Bells: the messages that tell the machines of a queue to look, and ringing again for those that got lost.

A bell names a queue, not a job: whoever hears it is given the best job that waits there (app.core.turns). So it is
enough that as many bells wait as there are jobs, and of a long backlog that there are always plenty.
"""

import logging
from datetime import timedelta

from sqlalchemy import exists, func, literal, or_, select, update
from sqlalchemy.orm import Session

from app.core import machines
from app.core.dispatch import GENERATE, Message, machine_queue, model_queue
from app.core.fleet import Fleet, Transaction
from app.core.leaps import leap, read_by_index
from app.core.lifecycle import AttemptState, HoldingState, JobState
from app.core.tables import Attempt, Holding, Job, Machine

log = logging.getLogger(__name__)

MOST_RUNG_AT_ONCE = 500
"""How many bells one round of the sweeper rings: the queues must not be flooded by a mistake of ours."""

PLENTY = 1000
"""So many bells in one queue are enough for any backlog until the next round."""


def ring_forgotten(fleet: Fleet) -> int:
    """Ring for queued jobs whose bells are gone; returns how many bells were rung.

    A healthy backlog costs one look into an index, that goes no further than PLENTY jobs of a model, and one question
    to the broker: a bell is missing only where fewer messages wait than jobs.
    """
    with fleet.reading() as session:
        waiting = _waiting_by_model(session)
    depths = fleet.dispatcher.depths([model_queue(model_id) for model_id in waiting]) if waiting else {}
    rung = 0
    for model_id, count in waiting.items():
        depth = depths.get(model_queue(model_id))
        missing = 0 if depth is None else min(count - depth, MOST_RUNG_AT_ONCE - rung)
        if missing > 0:
            rung += _ring(fleet, model_id, missing)
    if rung:
        log.info("rang again for %d queued jobs whose messages were gone", rung)
    return rung


def _waiting_by_model(session: Session) -> dict[str, int]:
    """Count the queued jobs of every model that has any; of a long backlog only as far as it matters."""
    read_by_index(session)
    models = leap(Job.model_id, Job.state == JobState.QUEUED)
    some = select(literal(1)).where(Job.state == JobState.QUEUED, Job.model_id == models.c.value).limit(PLENTY)
    counted = select(func.count()).select_from(some.correlate(models).subquery()).scalar_subquery()
    rows = session.execute(select(models.c.value, counted).where(models.c.value.is_not(None)))
    return {model_id: count for model_id, count in rows}  # noqa: C416  # rows are no pairs to mypy


def _ring(fleet: Fleet, model_id: str, missing: int) -> int:
    """Ring for some jobs of a model that may begin, and for which nobody rang just now; returns for how many."""
    with fleet.transaction() as tx:
        read_by_index(tx.session)
        forgotten = (
            select(Job.id, Job.priority)
            .where(Job.state == JobState.QUEUED, Job.model_id == model_id)
            .where(Job.rung_at < tx.now - timedelta(seconds=tx.limits.ring_again_after))
            .where(or_(Job.next_attempt_at.is_(None), Job.next_attempt_at <= tx.now))
            .limit(missing)
            .with_for_update(skip_locked=True)
        )
        found = tx.session.execute(forgotten).all()
        tx.session.execute(
            update(Job)
            .where(Job.id.in_([job_id for job_id, _ in found]))
            .values(rung_at=tx.now)
            .execution_options(synchronize_session=False)
        )
        for job_id, priority in found:
            tx.after_commit(Message(GENERATE, model_queue(model_id), job_id, priority))
    return len(found)


def ring_elsewhere(tx: Transaction, job: Job, failed_on: str) -> None:
    """Ring in one other machine's own queue: the bell in the model's queue may be heard by the one that failed."""
    if machine_id := _somebody_else(tx, job, failed_on):
        tx.after_commit(Message(GENERATE, machine_queue(machine_id), job.id, job.priority))


def _somebody_else(tx: Transaction, job: Job, failed_on: str) -> str | None:
    is_busy = exists().where(Attempt.machine_id == Machine.id, Attempt.state == AttemptState.RUNNING)
    query = (
        select(Machine.id)
        .join(Holding, Holding.machine_id == Machine.id)
        .where(Holding.model_id == job.model_id, Holding.state == HoldingState.READY, Machine.id != failed_on)
        .where(machines.takes_jobs(tx.limits, tx.now))
        .order_by(is_busy, Machine.id)
        .limit(1)
    )
    return tx.session.scalar(query)
