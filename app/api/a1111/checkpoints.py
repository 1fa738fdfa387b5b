"""Which model a client means. Automatic1111 has one at a time for everybody; here each caller has its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session
from werkzeug.exceptions import ServiceUnavailable

from app.api.a1111 import titles
from app.api.door import Refused
from app.core import machines, models
from app.core.fleet import Fleet
from app.core.tables import Model

RETRY_SECONDS = 10


def listing(session: Session, fleet: Fleet) -> Sequence[Model]:
    """Return what can be drawn with: models that live machines are ready for, then those that are on their way."""
    outlooks = machines.outlooks(session, fleet.limits, fleet.clock())
    found = [model for model in models.listing(session, kind=models.DRAWABLE) if model.id in outlooks]
    ready = [model for model in found if outlooks[model.id].ready]
    return ready + [model for model in found if model not in ready and outlooks[model.id].coming]


def named(session: Session, name: str) -> Model:
    """Find a model by any of the names that Automatic1111 has for one; raises Refused."""
    found = titles.match(models.listing(session, kind=models.DRAWABLE), name)
    if found is None:
        raise Refused(404, "model_not_found", f"model {name!r} not found; GET sd-models lists what there is")
    return found


def current(session: Session, options: Mapping[str, Any], fleet: Fleet) -> Model | None:
    """Return the model that the caller has chosen, else the first that can be drawn with; None when there is none."""
    if chosen := options.get("sd_model_checkpoint"):
        return named(session, chosen)
    return next(iter(listing(session, fleet)), None)


def to_draw_with(session: Session, order: Mapping[str, Any], options: Mapping[str, Any], fleet: Fleet) -> Model:
    """Choose an order's model: its own, the caller's, or the first there is.

    Raises Refused for an unknown one, and ServiceUnavailable for one that no live machine has or is about to have: a
    client that waits would wait in vain.
    """
    wanted = (order["override_settings"] or {}).get("sd_model_checkpoint")
    model = named(session, str(wanted)) if wanted else current(session, options, fleet)
    if model is None:
        raise ServiceUnavailable("no live machine has a model to draw with yet", retry_after=RETRY_SECONDS)
    outlook = machines.outlook(session, model.id, fleet.limits, fleet.clock())
    if not outlook.ready and not outlook.coming:
        raise ServiceUnavailable(machines.why_waiting(outlook, model.id, 0), retry_after=RETRY_SECONDS)
    return model
