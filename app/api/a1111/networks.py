"""What Automatic1111 has beside checkpoints: LoRAs, VAEs and embeddings, as its clients list and name them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from flask import Response, jsonify
from flask_smorest import Blueprint
from sqlalchemy.orm import Session

from app.api.a1111 import titles
from app.api.door import Refused, fleet
from app.core import models
from app.core.prompt_tags import without_networks
from app.core.spec import GenerationSpec
from app.core.tables import Model

OWN_VAE = ("", "automatic", "none")
"""What `sd_vae` is called that leaves a model its own, in lower case."""


def vae_named(session: Session, name: Any) -> str | None:
    """Find the VAE that a client's word means; None: the model's own. Raises Refused for one that is not there."""
    if str(name or "").strip().lower() in OWN_VAE:
        return None
    found = titles.match(models.listing(session, kind="vae"), str(name))
    if found is None:
        raise Refused(422, "vae_not_found", f"VAE {name!r} not found; GET sd-vae lists what there is")
    return found.id


def with_networks(
    session: Session, spec: GenerationSpec, order: Mapping[str, Any], options: Mapping[str, Any]
) -> GenerationSpec:
    """Add the VAE that an order or its caller's settings name; networks that are switched off leave the prompt."""
    if order["disable_extra_networks"]:
        spec = replace(spec, prompt=without_networks(spec.prompt)[0])
    wanted = (order["override_settings"] or {}).get("sd_vae", options.get("sd_vae"))
    return replace(spec, vae_id=vae_named(session, wanted))


def lora_to_json(model: Model) -> dict[str, Any]:
    """Show a LoRA by the name that a prompt gives it; its metadata are what machines have read."""
    return {
        "name": model.id,
        "alias": _stem(model),
        "path": model.save_path,
        "metadata": {"modelspec.trigger_phrase": ", ".join(model.trigger_words)} if model.trigger_words else {},
    }


def vae_to_json(model: Model) -> dict[str, Any]:
    """Show a VAE."""
    return {"model_name": model.name, "filename": model.save_path}


def embedding_to_json(model: Model) -> dict[str, Any]:
    """Show an embedding; how many vectors it has is for its machine to know."""
    return {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": model.base, "shape": 0, "vectors": 0}


def _stem(model: Model) -> str:
    return PurePosixPath(model.save_path).stem


def add_routes(blueprint: Blueprint) -> None:
    """Add the lists of the catalogue to the dialect."""

    @blueprint.get("/loras")
    @blueprint.response(200)
    def list_loras() -> Response:
        """List the LoRAs that a prompt may name; machines fetch what an order needs."""
        with fleet().reading() as session:
            return jsonify([lora_to_json(model) for model in models.listing(session, kind="lora")])

    @blueprint.get("/sd-vae")
    @blueprint.response(200)
    def list_vaes() -> Response:
        """List the VAEs to choose from, beside each model's own."""
        with fleet().reading() as session:
            return jsonify([vae_to_json(model) for model in models.listing(session, kind="vae")])

    @blueprint.get("/embeddings")
    @blueprint.response(200)
    def list_embeddings() -> Response:
        """List the embeddings that a prompt may name, by the word that it calls them with."""
        with fleet().reading() as session:
            found = {_stem(model): embedding_to_json(model) for model in models.listing(session, kind="embedding")}
        return jsonify({"loaded": found, "skipped": {}})
