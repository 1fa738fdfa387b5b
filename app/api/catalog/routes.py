"""Routes of the catalog dialect: seed 003."""

from typing import Any

from flask import request
from flask_smorest import Blueprint

from app.api.catalog.schemas import BatchSchema, CatalogErrorSchema, CatalogModelSchema
from app.api.catalog.translate import model_to_json, say
from app.api.door import Auth, Dialect, Refused, fleet, settings
from app.core import models

blueprint = Blueprint(
    "catalog", __name__, url_prefix="/api/models", description="Model lookup for machines (seed 003)."
)
dialect = Dialect("catalog", ("/api/models/",), Auth.OPEN, say, (blueprint,))


@blueprint.get("/<model_id>")
@blueprint.response(200, CatalogModelSchema)
@blueprint.alt_response(404, schema=CatalogErrorSchema)
def show(model_id: str) -> dict[str, Any]:
    """Look one model up."""
    with fleet().reading() as session:
        return model_to_json(models.get(session, model_id), request.url_root)


BATCH_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["model_ids"],
                "properties": {"model_ids": {"type": "array", "items": {"type": "string", "minLength": 1}}},
                "example": {"model_ids": ["flux-dev", "sdxl-base", "controlnet-canny"]},
            },
        },
    },
}
"""For the OpenAPI document only: the view reads the body itself, for the seed's own words and codes."""


@blueprint.post("/batch")
@blueprint.doc(requestBody=BATCH_BODY)
@blueprint.response(200, BatchSchema)
@blueprint.alt_response(400, schema=CatalogErrorSchema)
def batch() -> dict[str, Any]:
    """Look many models up in one query; unknown ids are named and never an error."""
    body: Any = request.get_json(silent=True)
    ids = _asked_ids(body)
    with fleet().reading() as session:
        found, missing = models.find(session, ids)
        answer = {"models": [model_to_json(model, request.url_root) for model in found], "not_found": missing}
        if body.get("near") is True:  # our own machines ask for it; the seed's clients get the seed's two fields
            answer["near"] = models.near(session, missing)
        return answer


def _asked_ids(body: Any) -> list[str]:
    """Read the ids out of a body of any kind; seed 003 answers 400 where other dialects say 422."""
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", 'the body must be JSON such as {"model_ids": ["flux-dev"]}')
    ids = body.get("model_ids")
    if not isinstance(ids, list):
        raise Refused(400, "invalid_request", "model_ids must be an array")
    if wrong := [i for i in ids if not isinstance(i, str) or not i or "\x00" in i]:
        raise Refused(400, "invalid_request", f"model_ids must hold non-empty strings only, and {wrong[0]!r} is none")
    if len(ids) > settings().max_batch_ids:
        raise Refused(
            400,
            "invalid_request",
            f"model_ids holds {len(ids)} ids; {settings().max_batch_ids} are the most per request (MAX_BATCH_IDS)",
        )
    return ids
