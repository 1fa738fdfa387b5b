"""What there is to draw with: models and what goes along with them, and memory; other lists are app.api.webui.lists."""

from collections.abc import Iterable, Mapping
from typing import Any

from flask import Response, jsonify

from app.api.a1111 import schemas
from app.api.a1111.blueprint import blueprint
from app.api.door import fleet
from app.api.webui import checkpoints, lists, networks, titles
from app.core import computers, machines, models
from app.core.tables import Model
from app.core.upscaling import LATENT

lists.add_routes(blueprint)


@blueprint.get("/sd-models")
@blueprint.response(200)
def list_models() -> list[dict[str, Any]]:
    """List the models that live machines have, ready ones first."""
    with fleet().reading() as session:
        return [titles.model_to_json(model) for model in checkpoints.listing(session, fleet())]


@blueprint.get("/loras")
@blueprint.response(200)
def list_loras() -> Response:
    """List the LoRAs that a prompt may name; machines fetch what an order needs."""
    with fleet().reading() as session:
        return jsonify([networks.lora_to_json(model) for model in models.listing(session, kind="lora")])


@blueprint.get("/embeddings")
@blueprint.response(200)
def list_embeddings() -> Response:
    """List the embeddings that a prompt may name, by the word that it calls them with."""
    with fleet().reading() as session:
        known = models.listing(session, kind="embedding")
        found = {networks.stem_of(model): _embedding_to_json(model) for model in known}
    return jsonify({"loaded": found, "skipped": {}})


def _embedding_to_json(model: Model) -> dict[str, Any]:
    """Show an embedding; how many vectors it has is for its machine to know."""
    return {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": model.base, "shape": 0, "vectors": 0}


@blueprint.get("/latent-upscale-modes")
@blueprint.response(200)
def list_latent_upscale_modes() -> list[dict[str, Any]]:
    """List the hires fix's modes over latents."""
    return [{"name": name} for name in LATENT]


@blueprint.get("/memory")
@blueprint.response(200, schemas.A1111MemorySchema)
def memory() -> dict[str, Any]:
    """Add up the memory of the live machines: that of their computers, and of their GPUs; bytes."""
    with fleet().reading() as session:
        now = fleet().clock()
        alive = [each for each in machines.listing(session) if machines.is_alive(each, fleet().limits, now)]
    gpus = [each.device for each in alive if each.device.get("type") == "cuda"]
    cuda = _cuda(_with_used(gpus)) if gpus else {"error": "no machine of the fleet has a CUDA device"}
    return {"ram": _with_used(computers.of_each(alive)), "cuda": cuda}


def _with_used(found: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    known = computers.memory(found)
    return {**known, "used": known["total"] - known["free"]}


def _cuda(system: dict[str, int]) -> dict[str, Any]:
    """Fill in what torch would tell of its allocator; machines do not report that, so it is what is used."""
    used = {"current": system["used"], "peak": system["used"]}
    kinds = dict.fromkeys(("active", "allocated", "reserved", "inactive"), used)
    return {"system": system, **kinds, "events": {"retries": 0, "oom": 0}}
