"""Listing jobs: by what they are, newest first, page by page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Uuid, func, literal, select, tuple_
from sqlalchemy.orm import Session, selectinload

from app.core import models
from app.core.lifecycle import JobState
from app.core.tables import Job, UtcDateTime


@dataclass(frozen=True, slots=True)
class Place:
    """A place between two jobs of a listing: jobs of one moment are told apart by their ids."""

    created_at: datetime
    job_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which jobs to list."""

    states: Sequence[JobState] = ()
    """Empty: all."""
    model_id: str | None = None
    batch_id: UUID | None = None
    engine_id: UUID | None = None
    before: datetime | None = None
    after: Place | None = None
    """Only jobs behind this place, older ones."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first."""

    jobs: Sequence[Job]
    next: Place | None
    """Where the next page begins; None when there is none."""


def page(session: Session, query: Query) -> Page:
    """Return the jobs of one page."""
    if query.model_id is not None and not models.can_be_stored(query.model_id):
        return Page([], None)
    # One more than asked for: it says whether there is a next page.
    chosen = select(Job).options(selectinload(Job.images)).limit(query.limit + 1)
    if query.states:
        chosen = chosen.where(Job.state.in_(query.states))
    if query.model_id is not None:
        chosen = chosen.where(Job.model_id == query.model_id)
    if query.batch_id is not None:
        chosen = chosen.where(Job.batch_id == query.batch_id)
    if query.engine_id is not None:
        chosen = chosen.where(Job.engine_id == query.engine_id)
    if query.before is not None:
        chosen = chosen.where(Job.created_at < query.before)
    if query.after is not None:
        place = tuple_(literal(query.after.created_at, UtcDateTime), literal(query.after.job_id, Uuid))
        chosen = chosen.where(tuple_(Job.created_at, Job.id) < place)
    found = session.scalars(chosen.order_by(Job.created_at.desc(), Job.id.desc())).all()
    shown = found[: query.limit]
    more = len(found) > query.limit
    return Page(shown, Place(shown[-1].created_at, shown[-1].id) if more else None)


def oldest(session: Session, states: Sequence[JobState], limit: int) -> Sequence[Job]:
    """Return the jobs in these states that came first, `limit` at most."""
    chosen = select(Job).options(selectinload(Job.images)).where(Job.state.in_(states))
    return session.scalars(chosen.order_by(Job.created_at, Job.id).limit(limit)).all()


def count_by_state(session: Session, *states: JobState) -> Mapping[JobState, int]:
    """Count the jobs in each of these states."""
    query = select(Job.state, func.count()).where(Job.state.in_(states)).group_by(Job.state)
    found = {state: count for state, count in session.execute(query)}  # noqa: C416  # rows are no pairs to mypy
    return {state: found.get(state, 0) for state in states}


def ids_of_batch(session: Session, batch_id: UUID) -> Sequence[UUID]:
    """Return the ids of the jobs that were ordered in one request, in their order."""
    return session.scalars(select(Job.id).where(Job.batch_id == batch_id).order_by(Job.created_at, Job.id)).all()
