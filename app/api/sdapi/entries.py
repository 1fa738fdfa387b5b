"""The catalogue in the sdapi dialect: models and LoRAs, with what is known of them at Civitai.

Models are listed under Automatic1111's name for them, and ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import request
from marshmallow import RAISE
from sqlalchemy.orm import Session

from app.api import enriching, paging
from app.api.door import absolute, fleet
from app.api.sdapi import schemas, translate
from app.api.sdapi.blueprint import blueprint
from app.api.webui import titles
from app.core import listing, machines, models
from app.core.errors import ModelNotFound
from app.core.paging import Page
from app.core.tables import Model

LORA = "lora"

ALL = 10**6
"""Models on a page that nobody asked for: more than any catalogue has."""

NEXT = {"Link": {"schema": {"type": "string"}, "description": '`<address of the next page>; rel="next"` (RFC 8288)'}}
"""An answer that is a list, as Automatic1111's clients read it, has no other place for it."""

Shown = tuple[list[dict[str, Any]], dict[str, str]]
"""The rows of an answer, and its headers."""


@blueprint.get("/sd-models")
@blueprint.get("/models")
@blueprint.arguments(schemas.SdapiEntryQuerySchema, location="query", unknown=RAISE)
@blueprint.response(200, schemas.SdapiModelSchema(many=True), headers=NEXT)
def list_models(query: Mapping[str, Any]) -> Shown:
    """List the models that can be drawn with; in whole, with those first that live machines are ready for."""
    with fleet().reading() as session:
        page = _page(session, models.DRAWABLE, query)
        shown = _models_to_json(session, page.rows)
    if not _asks_for_pages(query):
        shown.sort(key=lambda model: not model["ready"])
    return shown, _link(page)


@blueprint.get("/sd-models/<model_id>")
@blueprint.get("/models/<model_id>")
@blueprint.response(200, schemas.SdapiModelDetailSchema)
def show_model(model_id: str) -> dict[str, Any]:
    """Show one model, by any of the names that Automatic1111 has for it."""
    with fleet().reading() as session:
        return _models_to_json(session, [_named(session, model_id, models.DRAWABLE)])[0]


@blueprint.get("/loras")
@blueprint.arguments(schemas.SdapiEntryQuerySchema, location="query", unknown=RAISE)
@blueprint.response(200, schemas.SdapiLoraSchema(many=True), headers=NEXT)
def list_loras(query: Mapping[str, Any]) -> Shown:
    """List the LoRAs that a prompt may name."""
    with fleet().reading() as session:
        page = _page(session, LORA, query)
        return _loras_to_json(session, page.rows), _link(page)


@blueprint.get("/loras/<lora_id>")
@blueprint.response(200, schemas.SdapiLoraDetailSchema)
def show_lora(lora_id: str) -> dict[str, Any]:
    """Show one LoRA, by its name or its file's."""
    with fleet().reading() as session:
        return _loras_to_json(session, [_named(session, lora_id, LORA)])[0]


def _asks_for_pages(query: Mapping[str, Any]) -> bool:
    return not query.keys().isdisjoint({"limit", "after", "sort"})


def _page(session: Session, kind: str, query: Mapping[str, Any]) -> Page[Model]:
    usual = paging.MOST_OF_A_FLEET if _asks_for_pages(query) else ALL
    part = paging.part_of({"limit": usual, **query}, listing.MODELS)
    filters = {name: query[name] for name in ("base", "tag", "search") if name in query}
    return listing.page_of_models(session, listing.ModelQuery(kind=kind, part=part, **filters), {})


def _link(page: Page[Model]) -> dict[str, str]:
    after = paging.to_text(page.next)
    if after is None:
        return {}
    return {"Link": f'<{absolute(request.path)}?{urlencode({**request.args, "after": after})}>; rel="next"'}


def _models_to_json(session: Session, found: Sequence[Model]) -> list[dict[str, Any]]:
    known, outlooks = enriching.look(session, found), machines.outlooks(session, fleet().limits, fleet().clock())
    ready = {model_id for model_id, outlook in outlooks.items() if outlook.ready}
    return [translate.model_to_json(model, known[model.id], ready=model.id in ready) for model in found]


def _loras_to_json(session: Session, found: Sequence[Model]) -> list[dict[str, Any]]:
    known = enriching.look(session, found)
    return [translate.lora_to_json(model, known[model.id]) for model in found]


def _named(session: Session, name: str, kind: str) -> Model:
    found = titles.match(models.listing(session, kind=kind), name)
    if found is None:
        raise ModelNotFound(f"there is no {kind} {name!r}; GET its list to see what there is", model_id=name)
    return found
