"""Listing jobs, pictures, models and machines: by what they are, page by page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    and_,
    cast,
    false,
    func,
    literal_column,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.orm import InstrumentedAttribute, Session, contains_eager, selectinload

from app.core import models, paging, presence
from app.core.fleet import Limits
from app.core.lifecycle import HoldingState, JobState
from app.core.machines import Availability, Outlook
from app.core.paging import Listing, Page, Part
from app.core.tables import Holding, Image, Job, Machine, Model

JOBS = Listing(
    key=Job.id,
    columns={
        "created_at": Job.created_at,
        "model_id": Job.model_id,
        "priority": Job.priority,
        "status": Job.state,
    },
    default="-created_at",
)

IMAGES = Listing(key=Image.id, columns={"created_at": Image.created_at}, default="-created_at")

MODELS = Listing(
    key=Model.id,
    columns={
        "id": Model.id,
        "name": Model.name,
        "kind": Model.kind,
        "created_at": Model.created_at,
        "updated_at": Model.updated_at,
    },
    default="id",
)

MACHINES = Listing(
    key=Machine.id,
    columns={"id": Machine.id, "first_seen_at": Machine.first_seen_at, "last_seen_at": Machine.last_seen_at},
    default="id",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which jobs to list."""

    states: Sequence[JobState] = ()
    """Empty: all."""
    model_id: str | None = None
    batch_id: UUID | None = None
    engine_id: UUID | None = None
    before: datetime | None = None
    part: Part = Part(sort=JOBS.default)


def page(session: Session, query: Query) -> Page[Job]:
    """Return the jobs of one page."""
    chosen = select(Job).options(selectinload(Job.images))
    if query.states:
        chosen = chosen.where(Job.state.in_(query.states))
    if query.model_id is not None:
        chosen = _of_model(chosen, query.model_id)
    if query.batch_id is not None:
        chosen = chosen.where(Job.batch_id == query.batch_id)
    if query.engine_id is not None:
        chosen = chosen.where(Job.engine_id == query.engine_id)
    if query.before is not None:
        chosen = chosen.where(Job.created_at < query.before)
    return paging.page(session, chosen, JOBS, query.part)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuery:
    """Which pictures to list."""

    model_id: str | None = None
    job_id: UUID | None = None
    search: str | None = None
    """A part of the prompt, in any case. No index helps: the pictures are read until the page is full."""
    is_favourite: bool | None = None
    since: datetime | None = None
    before: datetime | None = None
    part: Part = Part(sort=IMAGES.default)


def page_of_images(session: Session, query: ImageQuery) -> Page[Image]:
    """Return the pictures of one page, those that may be shown: of completed jobs."""
    state, model_id = (_only_read(session, column) for column in (Job.state, Job.model_id))
    chosen = (
        select(Image)
        .join(Image.job)
        .options(contains_eager(Image.job))
        .where(state == JobState.COMPLETED, Image.attempt == Job.attempt)
    )
    if query.model_id is not None:
        chosen = chosen.where(model_id == query.model_id if models.can_be_stored(query.model_id) else false())
    if query.job_id is not None:
        chosen = chosen.where(Image.job_id == query.job_id)
    if query.is_favourite is not None:
        chosen = chosen.where(Image.is_favourite.is_(query.is_favourite))
    if query.since is not None:
        chosen = chosen.where(Image.created_at >= query.since)
    if query.before is not None:
        chosen = chosen.where(Image.created_at < query.before)
    if query.search is not None:
        if not models.can_be_stored(query.search):
            return Page([], None)
        prompt = func.lower(Job.spec["prompt"].as_string())
        chosen = chosen.where(prompt.contains(query.search.lower(), autoescape=True))
    return paging.page(session, chosen, IMAGES, query.part)


def _only_read(session: Session, column: InstrumentedAttribute[Any]) -> ColumnElement[Any]:
    """Return a column of jobs by which SQLite does not search.

    It would: begin with all completed jobs, and sort all of their pictures for one page of them. The plus sign forbids
    it, and the pictures' own index gives them in their order until the page is full. PostgreSQL's planner sees that.
    Source: https://www.sqlite.org/optoverview.html, "Disqualifying WHERE Clause Terms using Unary +".
    """
    if session.get_bind().dialect.name != "sqlite":
        return column.expression
    return type_coerce(literal_column(f"+{column.expression.table.name}.{column.key}"), column.type)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuery:
    """Which models to list."""

    kind: str | None = None
    base: str | None = None
    variant: str | None = None
    tag: str | None = None
    search: str | None = None
    """A part of the id or of the name, in any case."""
    states: Sequence[Availability] = ()
    """Empty: all."""
    part: Part = Part(sort=MODELS.default)


def page_of_models(session: Session, query: ModelQuery, outlooks: Mapping[str, Outlook]) -> Page[Model]:
    """Return the models of one page; `outlooks` says how far the fleet is with each."""
    chosen = select(Model)
    asked = (query.kind, query.base, query.variant, query.tag, query.search)
    if not all(models.can_be_stored(text) for text in asked if text is not None):
        return Page([], None)
    for column, text in ((Model.kind, query.kind), (Model.base, query.base), (Model.variant, query.variant)):
        if text is not None:
            chosen = chosen.where(column == text)
    if query.tag is not None:
        # Inside of a JSON text a quotation mark is never bare: what stands between two of them is a whole tag.
        chosen = chosen.where(cast(Model.tags, Text).contains(json.dumps(query.tag), autoescape=True))
    if query.search is not None:
        text = query.search.lower()
        found = (func.lower(column).contains(text, autoescape=True) for column in (Model.id, Model.name))
        chosen = chosen.where(or_(*found))
    if query.states:
        chosen = chosen.where(_in_states(query.states, outlooks))
    return paging.page(session, chosen, MODELS, query.part)


def _in_states(states: Sequence[Availability], outlooks: Mapping[str, Outlook]) -> ColumnElement[bool]:
    wanted = [model_id for model_id, outlook in outlooks.items() if outlook.availability in states]
    held = Model.id.in_(wanted)
    return or_(held, Model.id.not_in(list(outlooks))) if Availability.ABSENT in states else held


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineQuery:
    """Which machines to list."""

    alive: bool | None = None
    drained: bool | None = None
    model_id: str | None = None
    """Those that are ready for this model."""
    part: Part = Part(sort=MACHINES.default)


def page_of_machines(session: Session, query: MachineQuery, limits: Limits, now: datetime) -> Page[Machine]:
    """Return the machines of one page, with their holdings."""
    chosen = select(Machine).options(selectinload(Machine.holdings))
    if query.alive is not None:
        moment = now - timedelta(seconds=limits.silent_after)
        chosen = chosen.where(presence.heard_since(moment) if query.alive else presence.silent_since(moment))
    if query.drained is not None:
        chosen = chosen.where(Machine.drained.is_(query.drained))
    if query.model_id is not None:
        if not models.can_be_stored(query.model_id):
            return Page([], None)
        ready = and_(Holding.model_id == query.model_id, Holding.state == HoldingState.READY)
        chosen = chosen.where(Machine.holdings.any(ready))
    return paging.page(session, chosen, MACHINES, query.part)


def _of_model(chosen: Select[Any], model_id: str) -> Select[Any]:
    return chosen.where(Job.model_id == model_id) if models.can_be_stored(model_id) else chosen.where(false())


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
