"""What Civitai knows of models, for every dialect that shows it."""

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from app.api.door import fleet, settings
from app.core import enrichments
from app.core.enrichments import Known, Rules
from app.core.tables import Model


def look(session: Session, found: Sequence[Model]) -> Mapping[str, Known]:
    """Return what is known of each model by its id; what is not known yet is asked for, by the control worker."""
    return enrichments.look(fleet(), session, found, _rules())


def known(session: Session, model: Model) -> Known:
    """Return what is known of one model."""
    return enrichments.known(session, model, _rules())


def _rules() -> Rules:
    return Rules(on=settings().civitai_metadata, private=settings().private_models)
