"""v1: for each model what waits, who can draw it, and what one more machine would change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import current_app
from marshmallow import RAISE

from app.api.door import fleet
from app.api.v1 import capacity_schemas
from app.api.v1.blueprint import blueprint
from app.api.v1.schemas import V1ErrorSchema
from app.core import capacity
from app.core.capacity import ModelCapacity
from app.core.errors import ModelNotFound

KEPT_SECONDS = 2.0
"""How long a measurement is good for: autoscalers ask for a thousand models one by one, and it is made once for all."""

KEPT = "imagefleet.capacity"


@dataclass(frozen=True, slots=True)
class _Measured:
    at: datetime
    models: Sequence[ModelCapacity]


@blueprint.get("/capacity")
@blueprint.arguments(capacity_schemas.CapacityQuerySchema, location="query", unknown=RAISE)
@blueprint.response(200, capacity_schemas.CapacitySchema)
def show_capacity(query: Mapping[str, Any]) -> dict[str, Any]:
    """Say for each model what waits, who can draw it, and what one more machine would change."""
    found = _measured()
    shown = [each for each in found.models if query.get("waiting") in {None, each.jobs_waiting > 0}]
    return {
        "measured_at": found.at,
        "jobs_waiting": sum(each.jobs_waiting for each in found.models),
        "jobs_running": sum(each.jobs_running for each in found.models),
        "models_total": len(found.models),
        "models": shown[: query["limit"]],
    }


@blueprint.get("/capacity/<model_id>")
@blueprint.response(200, capacity_schemas.ModelCapacitySchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_capacity_of_model(model_id: str) -> ModelCapacity:
    """Say the same of one model, in one flat object: what KEDA's scaler for metrics APIs reads."""
    found = [each for each in _measured().models if each.model_id == model_id]
    if not found:
        raise ModelNotFound(f"no model {model_id!r} that pictures are drawn with is known", model_id=model_id)
    return found[0]


def _measured() -> _Measured:
    now = fleet().clock()
    kept: _Measured | None = current_app.extensions.get(KEPT)
    if kept is None or not timedelta(0) <= now - kept.at < timedelta(seconds=KEPT_SECONDS):
        with fleet().reading() as session:
            kept = _Measured(now, capacity.measure(session, fleet().limits, now))
        current_app.extensions[KEPT] = kept
    return kept
