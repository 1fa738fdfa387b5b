"""Callers: what is kept for one client between its requests, where a dialect's clients expect to be remembered.

A caller is a name that the door makes, out of a token or an address; what it was made of cannot be read from it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, selectinload

from app.core import jobs
from app.core.errors import JobEnded
from app.core.fleet import Fleet, Transaction
from app.core.lifecycle import ENDED, JobState
from app.core.tables import Caller, Job


def options_of(session: Session, caller: str) -> Mapping[str, Any]:
    """Return what a caller has set; nothing for one that never set anything."""
    known = session.get(Caller, caller)
    return known.options if known else {}


def remember(tx: Transaction, caller: str, options: Mapping[str, Any]) -> None:
    """Keep what a caller sets, beside what it set before."""
    known = tx.session.get(Caller, caller, with_for_update=True) or _first_met(tx, caller)
    known.options = {**known.options, **options}
    known.updated_at = tx.now


def _first_met(tx: Transaction, caller: str) -> Caller:
    try:
        with tx.session.begin_nested():
            known = Caller(id=caller, options={}, updated_at=tx.now)
            tx.session.add(known)
    except IntegrityError:  # another request of the same caller was faster
        known = tx.session.get_one(Caller, caller, with_for_update=True)
    return known


def unended(session: Session, caller: str, dialect: str) -> Sequence[Job]:
    """Return what a caller still waits for in one dialect: what is being drawn first, then by age."""
    query = (
        select(Job)
        .options(selectinload(Job.images))
        .where(Job.caller == caller, Job.state.not_in(ENDED), Job.dialect == dialect)
        .order_by(Job.created_at, Job.id)
    )
    return sorted(session.scalars(query), key=lambda job: job.state != JobState.PROCESSING)


def interrupt(tx: Transaction, caller: str, dialect: str, fleet: Fleet) -> Sequence[Job]:
    """Cancel what is being drawn for a caller, or the job that would be next, and what was ordered with it.

    Returns what was cancelled.
    """
    waiting = unended(tx.session, caller, dialect)
    meant = [job for job in waiting if job.state == JobState.PROCESSING] or waiting[:1]
    batches = {job.batch_id for job in meant if job.batch_id}
    cancelled = []
    for job in [each for each in waiting if each in meant or each.batch_id in batches]:
        with suppress(JobEnded):  # it was faster
            cancelled.append(jobs.cancel(tx, job.id, fleet))
    return cancelled
