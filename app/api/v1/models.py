"""v1: the catalogue."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.api.door import fleet
from app.api.v1 import model_schemas, translate
from app.api.v1.blueprint import blueprint
from app.api.v1.schemas import V1ErrorSchema
from app.core import jobs, machines, models
from app.core.tables import Model


@blueprint.get("/models")
@blueprint.response(200, model_schemas.ModelListSchema)
def list_models() -> dict[str, Any]:
    """List the catalogue, with the machines that hold each model."""
    with fleet().reading() as session:
        outlooks = machines.outlooks(session, fleet().limits, fleet().clock())
        waiting = jobs.waiting_by_model(session)
        return {
            "models": [
                translate.model_to_json(m, outlooks[m.id].holdings if m.id in outlooks else (), waiting.get(m.id, 0))
                for m in models.listing(session)
            ],
        }


@blueprint.get("/models/<model_id>")
@blueprint.response(200, model_schemas.ModelSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_model(model_id: str) -> dict[str, Any]:
    """Show one catalogue entry."""
    with fleet().reading() as session:
        return _model_json(session, models.get(session, model_id))


@blueprint.post("/models")
@blueprint.arguments(model_schemas.ModelRequestSchema)
@blueprint.response(201, model_schemas.ModelSchema)
def put_model(body: Mapping[str, Any]) -> dict[str, Any]:
    """Add a model to the catalogue, or replace the entry of the same id.

    It is a PUT by nature: sent twice it changes nothing more, so it takes no Idempotency-Key.
    """
    with fleet().transaction() as tx:
        model = models.put(tx, translate.to_entry(body), origin="api")
        tx.session.flush()
        return _model_json(tx.session, model)


@blueprint.delete("/models/<model_id>")
@blueprint.response(204)
@blueprint.alt_response(409, schema=V1ErrorSchema)
def delete_model(model_id: str) -> None:
    """Take a model out of the catalogue."""
    with fleet().transaction() as tx:
        models.remove(tx, model_id)


def _model_json(session: Session, model: Model) -> dict[str, Any]:
    outlook = machines.outlook(session, model.id, fleet().limits, fleet().clock())
    return translate.model_to_json(model, outlook.holdings, jobs.waiting_by_model(session).get(model.id, 0))
