"""Placing an order: with which model, and what becomes of it when its client is gone before the pictures come."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from flask import request
from sqlalchemy.orm import Session

from app.api import ordering
from app.api.door import Refused, fleet, owner, settings
from app.api.openai.translate import LONGEST_USER, to_spec, user_of
from app.api.waiting import worth_waiting_for
from app.core import jobs, left_behind, machines, models
from app.core.fleet import Fleet, Transaction
from app.core.jobs import Terms
from app.core.tables import Job, Model

NAME = "openai"

THEIRS = re.compile(r"(dall-e|gpt-image|chatgpt-image)[\w.-]*")
"""Models that only OpenAI has."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An order that is safe."""

    job_id: UUID
    leave: Callable[[], None]
    """Called when nobody waits for its pictures any more: the same request, sent again, waits for the same job."""


def place(order: Mapping[str, Any]) -> Placed:
    """Place an order, or take up the job of the same request that was left behind.

    Raises Refused, ServiceUnavailable where no machine could draw it, and what `jobs.submit` and `ordering.placed` do.
    """
    told = json.dumps(order, sort_keys=True, default=str).encode()
    mine = ordering.fingerprint(told)
    has_key = "Idempotency-Key" in request.headers

    def draw(tx: Transaction, terms: Terms) -> list[Job]:
        left = None if has_key else left_behind.take_up(tx, terms.owner, mine)
        return [left or jobs.submit(tx, to_spec(order, _model(tx.session, order.get("model"))), terms)]

    user = user_of(order)
    with ordering.placed(Terms(dialect=NAME, caller=user and user[:LONGEST_USER]), draw, told) as (job,):
        job_id = job.id
    leave = partial(_leave, fleet(), owner(), mine, job_id)
    return Placed(job_id, (lambda: None) if has_key else leave)


def _leave(fleet: Fleet, owner: str, fingerprint: str, job_id: UUID) -> None:
    with fleet.transaction() as tx:
        left_behind.leave(tx, owner, fingerprint, job_id)


def _model(session: Session, name: str | None) -> Model:
    """Choose what to draw with: what is named, or for OpenAI's own names and none the server's choice.

    Raises Refused for an unknown one, and what `worth_waiting_for` does.
    """
    return worth_waiting_for(session, (_named(session, name) if name else None) or _usual(session))


def _named(session: Session, name: str) -> Model | None:
    """Find a model; None stands for one that is OpenAI's own and not in the catalogue."""
    try:
        return drawable(session, name)
    except Refused:
        if THEIRS.fullmatch(name):
            return None
        raise


def drawable(session: Session, name: str) -> Model:
    """Find a model that pictures can be drawn with; raises Refused."""
    found, _ = models.find(session, [name])
    if not found or found[0].kind != models.DRAWABLE:
        raise Refused(
            404, "model_not_found", f"The model {name!r} does not exist here; GET /openai/v1/models lists those that do"
        )
    return found[0]


def _usual(session: Session) -> Model | None:
    if chosen := settings().openai_default_model:
        return drawable(session, chosen)
    return next(iter(machines.offered(session, fleet().limits, fleet().clock())), None)
