"""v1: engines, as seed 000 has them."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from marshmallow import RAISE

from app.api import ordering, paging
from app.api.door import absolute, fleet
from app.api.v1 import engine_schemas
from app.api.v1.blueprint import blueprint
from app.api.v1.schemas import V1ErrorSchema
from app.core import engines
from app.core.engines import EngineSpec
from app.core.extras import Lora
from app.core.lifecycle import EngineState
from app.core.tables import Engine

DEFAULTS = {
    "default_scheduler": "scheduler",
    "default_steps": "steps",
    "default_cfg": "guidance_scale",
    "default_width": "width",
    "default_height": "height",
}
"""Seed 000's names of what jobs may leave out."""


@blueprint.post("/engines")
@blueprint.arguments(engine_schemas.EngineRequestSchema)
@blueprint.response(201, engine_schemas.EngineSchema)
@blueprint.doc(parameters=[ordering.KEY_HEADER])
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
def create_engine(body: Mapping[str, Any]) -> dict[str, Any]:
    """Make an engine of a checkpoint and what goes along with it; it is Closed until it is started."""
    with fleet().transaction() as tx:
        (engine_id,) = ordering.made_once(tx, lambda: [str(engines.create(tx, to_spec(body)).id)])
        return to_json(engines.get(tx.session, UUID(engine_id)))


@blueprint.get("/engines")
@blueprint.arguments(engine_schemas.EngineQuerySchema, location="query", unknown=RAISE)
@blueprint.response(200, engine_schemas.EngineListSchema)
def list_engines(query: Mapping[str, Any]) -> dict[str, Any]:
    """List engines by pages, the oldest first where nothing else is asked for."""
    wanted = engines.Query(
        states=[EngineState(status) for status in query["status"]],
        checkpoint_id=query["checkpoint"],
        part=paging.part_of(query, engines.LISTING),
    )
    with fleet().reading() as session:
        page, total = engines.page(session, wanted)
        return {"engines": [to_json(each) for each in page.rows], "total": total, "next": paging.to_text(page.next)}


@blueprint.get("/engines/<uuid:engine_id>")
@blueprint.response(200, engine_schemas.EngineSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_engine(engine_id: UUID) -> dict[str, Any]:
    """Show one engine."""
    with fleet().reading() as session:
        return to_json(engines.get(session, engine_id))


# Seed 000 starts and stops with PATCH; a client that cannot send that may POST.
@blueprint.route("/engines/<uuid:engine_id>/start", methods=["PATCH", "POST"])
@blueprint.response(200, engine_schemas.EngineSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
@blueprint.alt_response(503, schema=V1ErrorSchema)
def start_engine(engine_id: UUID) -> dict[str, Any]:
    """Bring an engine into the memory of a machine with room for it; it is Starting, then Ready."""
    with fleet().transaction() as tx:
        return to_json(engines.start(tx, engine_id))


@blueprint.route("/engines/<uuid:engine_id>/stop", methods=["PATCH", "POST"])
@blueprint.response(200, engine_schemas.EngineSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def stop_engine(engine_id: UUID) -> dict[str, Any]:
    """Free an engine's memory; the job that it draws ends first, and those that wait stay until it is started again."""
    with fleet().transaction() as tx:
        return to_json(engines.stop(tx, engine_id))


@blueprint.delete("/engines/<uuid:engine_id>")
@blueprint.response(204)
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
def delete_engine(engine_id: UUID) -> None:
    """Delete an engine and all of its jobs with their pictures; 409 while it is running."""
    with fleet().transaction() as tx:
        engines.remove(tx, engine_id, fleet())


def to_spec(body: Mapping[str, Any]) -> EngineSpec:
    """Read an engine that the schema has accepted."""
    return EngineSpec(
        checkpoint_id=body["checkpoint"],
        vae_id=body["vae"],
        loras=tuple(Lora(**lora) for lora in body["loras"]),
        embeddings=tuple(dict.fromkeys(body["embeddings"])),
        prompt_weighter=body["prompt_weighter"],
        controlnets=tuple(dict.fromkeys(body["controlnet"])),
        defaults={ours: body[name] for name, ours in DEFAULTS.items() if body[name] is not None},
    )


def to_json(engine: Engine) -> dict[str, Any]:
    """Show an engine."""
    error = {"code": engine.error_code or "error", "message": engine.error} if engine.error else None
    return {
        "engine_id": engine.id,
        "status": engine.state.value,
        "stopping": engine.state != EngineState.CLOSED and not engine.is_wanted,
        "checkpoint": engine.checkpoint_id,
        "vae": engine.vae_id,
        "loras": [lora["model_id"] for lora in engine.loras],
        "lora_weights": {lora["model_id"]: lora["weight"] for lora in engine.loras},
        "embeddings": engine.embeddings,
        "prompt_weighter": engine.prompt_weighter or engines.WEIGHTERS[0],
        "controlnet": engine.controlnets,
        **{name: engine.defaults.get(ours) for name, ours in DEFAULTS.items()},
        "machine_id": engine.machine_id,
        "bytes_estimated": engine.bytes_estimated,
        "bytes_measured": engine.bytes_measured,
        "error": error,
        "created_at": engine.created_at,
        "updated_at": engine.updated_at,
        "started_at": engine.started_at,
        "url": absolute(f"/v1/engines/{engine.id}"),
    }
