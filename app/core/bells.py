"""Bells: the messages that tell the machines of a queue to look, and ringing again for those that got lost.

A bell names a queue, not a job: whoever hears it is given the best job that waits there (app.core.turns). So it is
enough that as many bells wait as there are jobs, and of a long backlog that there are always plenty.
"""

import logging
from datetime import timedelta

from sqlalchemy import exists, func, literal, or_, select, update
from sqlalchemy.orm import Session

from app.core import machines
from app.core.dispatch import GENERATE, Message, machine_queue
from app.core.fleet import Fleet, Transaction
from app.core.leaps import leap, read_by_index
from app.core.lifecycle import AttemptState, HoldingState, JobState
from app.core.tables import Attempt, Holding, Job, Machine
from app.core.turns import AS_INDEXED

log = logging.getLogger(__name__)

MOST_RUNG_AT_ONCE = 500
"""How many bells one round of the sweeper rings: the queues must not be flooded by a mistake of ours."""

PLENTY = 1000
"""So many bells in one queue are enough for any backlog until the next round."""


def ring_forgotten(fleet: Fleet) -> int:
    """Ring for queued jobs whose bells are gone; returns how many bells were rung.

    A healthy backlog costs one look into an index, that goes no further than PLENTY jobs of a queue, and one question
    to the broker: a bell is missing only where fewer messages wait than jobs.
    """
    with fleet.reading() as session:
        waiting = _waiting_by_queue(session)
    depths = fleet.dispatcher.depths(list(waiting)) if waiting else {}
    rung = 0
    for queue, count in waiting.items():
        depth = depths.get(queue)
        missing = 0 if depth is None else min(count - depth, MOST_RUNG_AT_ONCE - rung)
        if missing > 0:
            rung += _ring(fleet, queue, missing)
    if rung:
        log.info("rang again for %d queued jobs whose messages were gone", rung)
    return rung


def _waiting_by_queue(session: Session) -> dict[str, int]:
    """Count the jobs in every queue that has any; of a long backlog only as far as it matters."""
    read_by_index(session)
    queues = leap(Job.queue, Job.state == JobState.QUEUED, then=AS_INDEXED)
    waiting = select(literal(1)).where(Job.state == JobState.QUEUED, Job.queue == queues.c.value)
    some = waiting.order_by(*AS_INDEXED).limit(PLENTY).correlate(queues)
    counted = select(func.count()).select_from(some.subquery()).scalar_subquery()
    rows = session.execute(select(queues.c.value, counted).where(queues.c.value.is_not(None)))
    return {queue: count for queue, count in rows}  # noqa: C416  # rows are no pairs to mypy


def _ring(fleet: Fleet, queue: str, missing: int) -> int:
    """Ring for some jobs of a queue that may begin, and for which nobody rang just now; returns for how many."""
    with fleet.transaction() as tx:
        read_by_index(tx.session)
        forgotten = (
            select(Job.id, Job.priority)
            .where(Job.state == JobState.QUEUED, Job.queue == queue)
            .where(Job.rung_at < tx.now - timedelta(seconds=tx.limits.ring_again_after))
            .where(or_(Job.next_attempt_at.is_(None), Job.next_attempt_at <= tx.now))
            .order_by(*AS_INDEXED)
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
            tx.after_commit(Message(GENERATE, queue, job_id, priority))
    return len(found)


def ring_elsewhere(tx: Transaction, job: Job, failed_on: str) -> None:
    """Ring in one other machine's own queue: the bell in the model's queue may be heard by the one that failed.

    What waits for an engine has nowhere else to go.
    """
    if job.engine_id is not None:
        return
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
