"""v1: the catalogue."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from flask import request
from marshmallow import RAISE
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as BaseResponse

from app import findable
from app.api import enriching, ordering, paging, serving
from app.api.auth import Auth, gatekeeper
from app.api.door import absolute, fleet, settings
from app.api.v1 import model_schemas, model_translate
from app.api.v1.blueprint import blueprint
from app.api.v1.schemas import V1ErrorSchema
from app.api.visitors import is_here
from app.core import jobs, listing, machines, models, removal
from app.core.errors import CatalogueReadOnly
from app.core.machines import Outlook
from app.core.models import CatalogueEntry
from app.core.tables import Model

NOBODY = Outlook(())


@blueprint.get("/models")
@blueprint.arguments(model_schemas.ModelQuerySchema, location="query", unknown=RAISE)
@blueprint.response(200, model_schemas.ModelListSchema)
def list_models(query: Mapping[str, Any]) -> dict[str, Any]:
    """List the catalogue by pages, with how far the fleet is with each model."""
    words = model_translate.in_our_words(query)
    filters = {name: words[name] for name in ("kind", "base", "variant", "tag", "search") if name in words}
    wanted = listing.ModelQuery(
        states=model_translate.to_states(query), part=paging.part_of(query, listing.MODELS), **filters
    )
    with fleet().reading() as session:
        outlooks = machines.outlooks(session, fleet().limits, fleet().clock())
        waiting = jobs.waiting_by_model(session)
        page = listing.page_of_models(session, wanted, outlooks)
        known = enriching.look(session, page.rows)
        shown = [
            model_translate.model_to_json(
                model, outlooks.get(model.id, NOBODY), waiting.get(model.id, 0), known[model.id], absolute
            )
            for model in page.rows
        ]
    return {"models": shown, "next": paging.to_text(page.next)}


@blueprint.get("/models/<model_id>")
@blueprint.response(200, model_schemas.ModelSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_model(model_id: str) -> dict[str, Any]:
    """Show one catalogue entry."""
    return _shown_now(model_id)


def _shown_now(model_id: str) -> dict[str, Any]:
    with fleet().reading() as session:
        return _shown(session, models.get(session, model_id))


@blueprint.get("/models/<model_id>/picture")
@blueprint.doc(**serving.PICTURE)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_model_picture(model_id: str) -> BaseResponse:
    """Return a small picture that the model's publisher shows of it at Civitai, where it is rated for everybody."""
    with fleet().reading() as session:
        model = models.get(session, model_id)
        known = enriching.known(session, model)
    return serving.picture_of_model(model, known)


@blueprint.post("/models")
@blueprint.arguments(model_schemas.ModelRequestSchema)
@blueprint.response(201, model_schemas.ModelSchema)
@blueprint.doc(parameters=[ordering.KEY_HEADER])
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
def put_model(body: Mapping[str, Any]) -> dict[str, Any]:
    """Add a model to the catalogue, or replace the entry of the same id.

    With an Idempotency-Key a request that comes again replaces nothing: it answers with the entry as it is now, 404
    where it was deleted since.
    """
    _require_our_own()
    if again := ordering.made_before():  # its file is not looked at again, which may take minutes
        return _shown_now(again[0])
    entry = model_translate.to_entry(body)
    entry = replace(entry, **_asked_of_file(entry, body))
    is_named = bool({"id", "model_id"} & set(body))
    with fleet().transaction() as tx:
        add = partial(models.add, tx, entry, origin="api", is_named=is_named)
        (model_id,) = ordering.made_once(tx, lambda: [add().id])
        tx.session.flush()
        return _shown(tx.session, models.get(tx.session, model_id))


@blueprint.patch("/models/<model_id>")
@blueprint.arguments(model_schemas.ModelPatchSchema)
@blueprint.response(200, model_schemas.ModelSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
def change_model(body: Mapping[str, Any], model_id: str) -> dict[str, Any]:
    """Change an entry; what is left out stays. Machines that hold the model look at it again by themselves."""
    _require_our_own()
    changes = model_translate.in_our_words(body)
    if "download_url" in changes or body.get("check"):
        with fleet().reading() as session:
            entry = models.changed(models.get(session, model_id), changes)
        changes |= _asked_of_file(entry, body)
    with fleet().transaction() as tx:
        model = models.change(tx, model_id, changes)
        tx.session.flush()
        return _shown(tx.session, model)


@blueprint.delete("/models/<model_id>")
@blueprint.response(204)
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
def delete_model(model_id: str) -> None:
    """Take a model out of the catalogue; 409 while jobs, engines or other models need it."""
    _require_our_own()
    with fleet().transaction() as tx:
        removal.remove(tx, model_id)


def _require_our_own() -> None:
    """Refuse to write where the catalogue is somebody else's table."""
    if (foreign := fleet().foreign) is not None:
        raise CatalogueReadOnly(
            f"the catalogue is read from the table {foreign.name!r}; write there what is to be in it"
        )


def _asked_of_file(entry: CatalogueEntry, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse an entry whose file cannot be had, or that nobody may name; returns what the file tells of itself.

    No transaction is open meanwhile: it may take seconds.
    """
    known = settings()
    asked_here = gatekeeper().is_open(Auth.CLIENT) and is_here(known.trusted_proxies)
    findable.require_allowed(known, entry.download_url, asked_here=asked_here)
    return findable.require(known, entry, request.url_root) if body.get("check", "path" in body) else {}


def _shown(session: Session, model: Model) -> dict[str, Any]:
    outlook = machines.outlook(session, model.id, fleet().limits, fleet().clock())
    waiting = jobs.waiting_by_model(session).get(model.id, 0)
    return model_translate.model_to_json(model, outlook, waiting, enriching.known(session, model), absolute)
