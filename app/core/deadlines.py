"""Deadlines: a job that was not begun in time is of no use to anybody; it is cancelled and says so.

The sweeper cancels what is overdue round by round. Between two rounds nobody is told anything else: an overdue job
cannot be claimed, and who looks at one ends it first.
"""

import logging
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from app.core import jobs
from app.core.fleet import Fleet, Transaction
from app.core.lifecycle import JobState
from app.core.tables import Job

log = logging.getLogger(__name__)

DEADLINE_PASSED = "deadline_passed"

MOST_AT_ONCE = 500
"""How many overdue jobs one transaction ends: it must stay short."""


def overdue(now: datetime) -> ColumnElement[bool]:
    """Make the condition that a job was not begun in time, and is still waiting; a second try has begun in time."""
    return and_(Job.state == JobState.QUEUED, Job.deadline_at <= now, Job.attempt == 0)


def is_overdue(job: Job, now: datetime) -> bool:
    """Say whether a job was not begun in time, and is still waiting."""
    waits = job.state == JobState.QUEUED and job.attempt == 0
    return waits and job.deadline_at is not None and job.deadline_at <= now


def expire(tx: Transaction, limit: int = MOST_AT_ONCE) -> int:
    """Cancel jobs that were not begun in time, the oldest deadlines first; returns how many."""
    # Another sweeper, a claim or a cancel may hold some of them: they are left to whoever holds them.
    query = select(Job).where(overdue(tx.now)).order_by(Job.deadline_at).limit(limit)
    found = tx.session.scalars(query.with_for_update(skip_locked=True)).all()
    for job in found:
        _expire(tx, job)
    return len(found)


def expire_seen(fleet: Fleet, seen: Iterable[Job]) -> bool:
    """End those of the jobs somebody looks at that are overdue; returns whether there were any, to look again."""
    now = fleet.clock()
    late = sorted(job.id for job in seen if is_overdue(job, now))
    if not late:
        return False
    with fleet.transaction() as tx:
        for job_id in late:  # in the order in which everybody locks several jobs
            expire_one(tx, jobs.locked(tx.session, job_id))
    return True


def look(fleet: Fleet, session: Session, job_id: UUID) -> Job:
    """Find one job as it is at this moment, ended first if it is overdue; raises JobNotFound."""
    job = jobs.get(session, job_id)
    if expire_seen(fleet, [job]):
        session.rollback()  # a session of SQLite goes on seeing what was true at its first look
        job = jobs.get(session, job_id)
    return job


def expire_one(tx: Transaction, job: Job) -> None:
    """End a locked job if it is overdue."""
    if is_overdue(job, tx.now):
        _expire(tx, job)


def _expire(tx: Transaction, job: Job) -> None:
    due = job.deadline_at.isoformat(timespec="seconds") if job.deadline_at else "its deadline"
    jobs.end(tx, job, JobState.CANCELLED, DEADLINE_PASSED, f"the job had not begun by {due}, its deadline")
    log.info("job %s: cancelled, it had not begun by %s", job.id, due)
