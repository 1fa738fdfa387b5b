"""Which model a client means. Automatic1111 has one at a time for everybody; here each caller has its own."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.api.waiting import worth_waiting_for
from app.api.webui.checkpoints import listing, named
from app.core.fleet import Fleet
from app.core.tables import Model


def current(session: Session, options: Mapping[str, Any], fleet: Fleet) -> Model | None:
    """Return the model that the caller has chosen, else the first that can be drawn with; None when there is none."""
    if chosen := options.get("sd_model_checkpoint"):
        return named(session, chosen)
    return next(iter(listing(session, fleet)), None)


def to_draw_with(session: Session, wanted: object, options: Mapping[str, Any], fleet: Fleet) -> Model:
    """Choose an order's model: the one it names, where it names one, the caller's, or the first there is.

    Raises Refused for an unknown one, and what `worth_waiting_for` does.
    """
    model = named(session, str(wanted)) if wanted else current(session, options, fleet)
    return worth_waiting_for(session, model)
