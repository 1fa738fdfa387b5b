"""v1: machines, and plans for new ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask import request
from marshmallow import RAISE
from sqlalchemy.orm import Session

from app import plans
from app.api import paging
from app.api.door import fleet, settings
from app.api.v1 import machine_schemas, translate
from app.api.v1.blueprint import blueprint
from app.api.v1.schemas import V1ErrorSchema
from app.core import attempts, listing, machines, presence
from app.core.tables import Machine


@blueprint.get("/machines")
@blueprint.arguments(machine_schemas.MachineQuerySchema, location="query", unknown=RAISE)
@blueprint.response(200, machine_schemas.MachineListSchema)
def list_machines(query: Mapping[str, Any]) -> dict[str, Any]:
    """List the machines by pages, and how far each is with each of its models."""
    filters = {name: query[name] for name in ("alive", "drained", "model_id") if name in query}
    wanted = listing.MachineQuery(part=paging.part_of(query, listing.MACHINES), **filters)
    with fleet().reading() as session:
        page = listing.page_of_machines(session, wanted, fleet().limits, fleet().clock())
        return {"machines": _shown(session, page.rows), "next": paging.to_text(page.next)}


@blueprint.post("/machines/plan")
@blueprint.arguments(machine_schemas.PlanRequestSchema)
@blueprint.response(200, machine_schemas.PlanSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def plan_machine(body: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a machine with these MACHINE_MODELS_NEEDED would fetch, and whether it could; nothing is fetched."""
    wanted = [model_id.strip() for model_id in body["models_needed"].split(",") if model_id.strip()]
    return plans.plan_for(fleet(), settings(), wanted, request.url_root, body.get("machine_id"))


@blueprint.get("/machines/<machine_id>")
@blueprint.response(200, machine_schemas.MachineSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_machine(machine_id: str) -> dict[str, Any]:
    """Show one machine."""
    with fleet().reading() as session:
        return _shown(session, [machines.get(session, machine_id)])[0]


@blueprint.delete("/machines/<machine_id>")
@blueprint.response(204)
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
def forget_machine(machine_id: str) -> None:
    """Forget a machine that is gone; jobs keep its name. 409 while it checks in."""
    with fleet().transaction() as tx:
        presence.forget(tx, machines.get(tx.session, machine_id))


@blueprint.post("/machines/<machine_id>/drain")
@blueprint.response(200, machine_schemas.MachineSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def drain_machine(machine_id: str) -> dict[str, Any]:
    """Let a machine finish what it draws and take no more jobs."""
    with fleet().transaction() as tx:
        return _shown(tx.session, [machines.drain(tx, machine_id)])[0]


@blueprint.post("/machines/<machine_id>/undrain")
@blueprint.response(200, machine_schemas.MachineSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def undrain_machine(machine_id: str) -> dict[str, Any]:
    """Give a machine jobs again, also one that was taken for sick."""
    with fleet().transaction() as tx:
        return _shown(tx.session, [machines.undrain(tx, machine_id)])[0]


def _shown(session: Session, found: Sequence[Machine]) -> list[dict[str, Any]]:
    now, running = fleet().clock(), attempts.running_on(session, *(machine.id for machine in found))
    moments = fleet().live.progress_of_each([attempt.job_id for attempt in running])
    return [translate.machine_to_json(machine, running, moments, fleet().limits, now) for machine in found]
