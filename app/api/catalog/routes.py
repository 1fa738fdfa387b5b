"""Routes of the catalog dialect: seed 003."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from flask import Response, jsonify, request
from flask_smorest import Blueprint
from werkzeug.exceptions import TooManyRequests

from app.api import rates
from app.api.auth import gatekeeper
from app.api.catalog.schemas import BatchSchema, CatalogErrorSchema, CatalogModelSchema
from app.api.catalog.translate import model_to_json, say
from app.api.door import Auth, Dialect, Refused, fleet, settings
from app.core import models
from app.core.errors import ModelNotFound
from app.core.foreign import ORIGIN, ForeignModel
from app.core.measures import LOOKUP
from app.core.tables import Model

blueprint = Blueprint(
    "catalog", __name__, url_prefix="/api/models", description="Model lookup for machines (seed 003)."
)
dialect = Dialect(
    "catalog",
    ("/api/models/",),
    Auth.OPEN,
    say,
    (blueprint,),
    error=CatalogErrorSchema,
    # In the seed 400 is "Invalid request format", whatever is wrong with it, and 500 "Database error".
    statuses={415: 400, 503: 500},
    title="catalog, where models come from",
    about="The model registry that machines ask when they start: names to download addresses, hashes, dependencies.",
)


@blueprint.before_request
def slow_down() -> None:
    """Refuse (429) an address that asks too often. Our own machines may ask all at once: they start together."""
    gate = rates.catalog_gate()
    if gate is None or request.method == "OPTIONS" or gatekeeper().is_machine():
        return
    if seconds := gate.seconds_until_open(gatekeeper().address()):
        told = (
            f"an address may ask {gate.most} times in a minute (CATALOG_REQUESTS_PER_MINUTE); ask again in {seconds} s"
        )
        raise TooManyRequests(told, retry_after=seconds)


@blueprint.get("/<model_id>")
@blueprint.response(200, CatalogModelSchema)
@blueprint.alt_response(304, description="it is as the ETag of If-None-Match says", success=True)
@blueprint.alt_response(404, schema=CatalogErrorSchema)
@blueprint.alt_response(429, schema=CatalogErrorSchema)
def show(model_id: str) -> Response:
    """Look one model up; asked with its ETag, 304 says that nothing has changed."""
    found, _ = _look_up([model_id])
    if model_id not in found:
        raise ModelNotFound(model_id=model_id)
    response = jsonify(CatalogModelSchema().dump(model_to_json(found[model_id], request.url_root)))
    response.add_etag()
    response.headers["Cache-Control"] = "no-cache"  # keep it, and ask whether it is still so
    return cast("Response", response.make_conditional(request))


BATCH_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["model_ids"],
                "additionalProperties": False,
                "properties": {
                    "model_ids": {"type": "array", "items": {"type": "string", "minLength": 1}},
                    "near": {"type": "boolean", "description": "also name similar ids for unknown ones"},
                },
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
@blueprint.alt_response(429, schema=CatalogErrorSchema)
def batch() -> dict[str, Any]:
    """Look many models up in one query; unknown ids are named and never an error."""
    began = time.perf_counter()
    try:
        return _batch()
    finally:
        fleet().tally.observe(LOOKUP, time.perf_counter() - began)


def _batch() -> dict[str, Any]:
    body: Any = request.get_json(silent=True)
    ids = _asked_ids(body)
    found, missing = _look_up(ids)
    answer = {"models": [model_to_json(model, request.url_root) for model in found.values()], "not_found": missing}
    if body.get("near") is True:  # our own machines ask for it; the seed's clients get the seed's two fields
        with fleet().reading() as session:
            answer["near"] = models.near(session, missing)
    return answer


def _look_up(ids: Sequence[str]) -> tuple[Mapping[str, Model | ForeignModel], list[str]]:
    """Find models, in one query for each catalogue that is asked; and the ids that are unknown, in the order asked."""
    foreign = fleet().foreign
    theirs = foreign.find(ids) if foreign else {}
    rest = [each for each in ids if each not in theirs]
    with fleet().reading() as session:
        own = {model.id: model for model in models.find(session, rest)[0]}
    if foreign:  # what our copy still has and the table has no more is gone
        own = {model_id: model for model_id, model in own.items() if model.origin != ORIGIN}
    known: dict[str, Model | ForeignModel] = {**own, **theirs}
    asked = list(dict.fromkeys(ids))
    return {each: known[each] for each in asked if each in known}, [each for each in asked if each not in known]


def _asked_ids(body: Any) -> list[str]:
    """Read the ids out of a body of any kind; seed 003 answers 400 where other dialects say 422."""
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", 'the body must be JSON such as {"model_ids": ["flux-dev"]}')
    ids = body.get("model_ids")
    if not isinstance(ids, list):
        raise Refused(400, "invalid_request", "model_ids must be an array")
    if not isinstance(body.get("near", False), bool):
        raise Refused(400, "invalid_request", "near must be true or false")
    if unknown := sorted(set(body) - {"model_ids", "near"}):
        raise Refused(400, "invalid_request", f"unknown field {unknown[0]!r}; the body has model_ids")
    if wrong := [i for i in ids if not isinstance(i, str) or not i or "\x00" in i]:
        raise Refused(400, "invalid_request", f"model_ids must hold non-empty strings only, and {wrong[0]!r} is none")
    if len(ids) > settings().max_batch_ids:
        raise Refused(
            400,
            "invalid_request",
            f"model_ids holds {len(ids)} ids; {settings().max_batch_ids} are the most per request (MAX_BATCH_IDS)",
        )
    return ids
