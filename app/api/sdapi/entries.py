"""The catalogue in the sdapi dialect: models and LoRAs, with what is known of them at Civitai.

Models are listed under Automatic1111's name for them, and ours.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.api.door import fleet, settings
from app.api.sdapi import schemas, translate
from app.api.sdapi.blueprint import blueprint
from app.api.webui import titles
from app.core import enrichments, machines, models
from app.core.enrichments import Known, Rules
from app.core.errors import ModelNotFound
from app.core.tables import Model

LORA = "lora"


@blueprint.get("/sd-models")
@blueprint.get("/models")
@blueprint.response(200, schemas.SdapiModelSchema(many=True))
def list_models() -> list[dict[str, Any]]:
    """List the models that can be drawn with, those first that live machines are ready for."""
    with fleet().reading() as session:
        shown = _models_to_json(session, models.listing(session, kind=models.DRAWABLE))
    return sorted(shown, key=lambda model: not model["ready"])


@blueprint.get("/sd-models/<model_id>")
@blueprint.get("/models/<model_id>")
@blueprint.response(200, schemas.SdapiModelDetailSchema)
def show_model(model_id: str) -> dict[str, Any]:
    """Show one model, by any of the names that Automatic1111 has for it."""
    with fleet().reading() as session:
        return _models_to_json(session, [_named(session, model_id, models.DRAWABLE)])[0]


@blueprint.get("/loras")
@blueprint.response(200, schemas.SdapiLoraSchema(many=True))
def list_loras() -> list[dict[str, Any]]:
    """List the LoRAs that a prompt may name."""
    with fleet().reading() as session:
        return _loras_to_json(session, models.listing(session, kind=LORA))


@blueprint.get("/loras/<lora_id>")
@blueprint.response(200, schemas.SdapiLoraDetailSchema)
def show_lora(lora_id: str) -> dict[str, Any]:
    """Show one LoRA, by its name or its file's."""
    with fleet().reading() as session:
        return _loras_to_json(session, [_named(session, lora_id, LORA)])[0]


def _models_to_json(session: Session, found: Sequence[Model]) -> list[dict[str, Any]]:
    known, outlooks = _known(session, found), machines.outlooks(session, fleet().limits, fleet().clock())
    ready = {model_id for model_id, outlook in outlooks.items() if outlook.ready}
    return [translate.model_to_json(model, known[model.id], ready=model.id in ready) for model in found]


def _loras_to_json(session: Session, found: Sequence[Model]) -> list[dict[str, Any]]:
    known = _known(session, found)
    return [translate.lora_to_json(model, known[model.id]) for model in found]


def _known(session: Session, found: Sequence[Model]) -> dict[str, Known]:
    rules = Rules(on=settings().civitai_metadata, private=settings().private_models)
    return enrichments.look(fleet(), session, found, rules)


def _named(session: Session, name: str, kind: str) -> Model:
    found = titles.match(models.listing(session, kind=kind), name)
    if found is None:
        raise ModelNotFound(f"there is no {kind} {name!r}; GET its list to see what there is", model_id=name)
    return found
