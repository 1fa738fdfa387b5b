"""Placing orders in the sdapi dialect: which model, and what the client hears at once."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.api import ordering
from app.api.door import fleet
from app.api.hooks import hook_of, without_hook
from app.api.refusals import Refused
from app.api.sdapi.blueprint import NAME
from app.api.webui import checkpoints, placing, refusals, specs
from app.core import jobs, models
from app.core.fleet import Transaction
from app.core.jobs import Terms
from app.core.tables import Job, Model


def place(order: Mapping[str, Any]) -> UUID:
    """Accept an order that the schema has accepted; returns its job's id. Raises Refused, and what `submit` raises."""
    refusals.refuse_what_cannot_be(order)
    hook = hook_of(order)
    order = placing.with_pictures_kept(without_hook(order))

    def draw(tx: Transaction, terms: Terms) -> list[Job]:
        model = _to_draw_with(tx.session, order)
        return [jobs.submit(tx, placing.to_spec(tx.session, order, model, specs.NO_OPTIONS), terms)]

    with ordering.placed(Terms(dialect=NAME, hook=hook), draw) as (job,):
        return job.id


def _to_draw_with(session: Session, order: Mapping[str, Any]) -> Model:
    """Choose an order's model: the one it names, or the first there is, ready ones first.

    Nobody waits at this door, so a model that no machine holds yet will do. Raises Refused.
    """
    wanted = (order["override_settings"] or {}).get("sd_model_checkpoint")
    if wanted:
        return checkpoints.named(session, str(wanted))
    found = checkpoints.listing(session, fleet()) or models.listing(session, kind=models.DRAWABLE)
    if not found:
        raise Refused(
            404, "model_not_found", "there is no model to draw with in the catalogue; POST /v1/models adds one"
        )
    return found[0]
