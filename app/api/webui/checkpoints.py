"""Which checkpoints there are to draw with, and which of them a client's word means."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.api.door import Refused
from app.api.webui import titles
from app.core import machines, models
from app.core.fleet import Fleet
from app.core.tables import Model


def listing(session: Session, fleet: Fleet) -> Sequence[Model]:
    """Return what can be drawn with: models that live machines are ready for, then those that are on their way."""
    return machines.offered(session, fleet.limits, fleet.clock())


def named(session: Session, name: str) -> Model:
    """Find a model by any of the names that Automatic1111 has for one; raises Refused."""
    found = titles.match(models.listing(session, kind=models.DRAWABLE), name)
    if found is None:
        raise Refused(404, "model_not_found", f"model {name!r} not found; GET sd-models lists what there is")
    return found
