"""Routes of the v1 dialect."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin
from uuid import UUID

from flask import Response, request
from flask_smorest import Blueprint
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response as BaseResponse

from app import plans
from app.api.door import Auth, Dialect, fleet, settings
from app.api.v1 import schemas, translate
from app.core import images, jobs, machines, models
from app.core.errors import EngineNotFound
from app.core.lifecycle import JobState
from app.core.live import Progress
from app.core.tables import Model

blueprint = Blueprint("v1", __name__, url_prefix="/v1", description="Jobs, pictures, models and machines.")
dialect = Dialect("v1", ("/v1",), Auth.CLIENT, translate.say, (blueprint,))


def _url(path: str) -> str:
    return urljoin(request.url_root, path)


@blueprint.post("/jobs")
@blueprint.arguments(schemas.JobRequestSchema)
@blueprint.response(202, schemas.JobSchema)
@blueprint.alt_response(404, schema=schemas.V1ErrorSchema)
def submit_job(order: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Order pictures. The job is kept when this answers, and drawn as soon as a machine holds its model."""
    if "engine_id" in order:
        raise EngineNotFound(engine_id=order["engine_id"])
    with fleet().transaction() as tx:
        job = jobs.submit(tx, translate.to_spec(order), priority=order["priority"])
        body = translate.job_to_json(job, None, _url)
    return body, {"Location": body["url"]}


@blueprint.get("/jobs")
@blueprint.arguments(schemas.JobQuerySchema, location="query")
@blueprint.response(200, schemas.JobListSchema)
def list_jobs(query: Mapping[str, Any]) -> dict[str, Any]:
    """List jobs, newest first."""
    wanted = {name: value for name, value in query.items() if name != "status"}
    with fleet().reading() as session:
        found = jobs.listing(session, state=JobState(query["status"]) if "status" in query else None, **wanted)
        return {"jobs": [translate.job_to_json(job, _progress(job.id, job.state), _url) for job in found]}


@blueprint.get("/jobs/<uuid:job_id>")
@blueprint.response(200, schemas.JobDetailSchema)
@blueprint.alt_response(404, schema=schemas.V1ErrorSchema)
def show_job(job_id: UUID) -> dict[str, Any]:
    """Show one job: its state, its pictures, and what it waits for."""
    with fleet().reading() as session:
        job = jobs.get(session, job_id)
        waiting_for = None
        if job.state == JobState.QUEUED:
            outlook = machines.outlook(session, job.model_id, fleet().limits, fleet().clock())
            waiting_for = machines.why_waiting(outlook, job.model_id, jobs.ahead_of(session, job))
        return translate.job_detail_to_json(job, _progress(job.id, job.state), waiting_for, _url)


def _progress(job_id: UUID, state: JobState) -> Progress | None:
    return fleet().live.progress(job_id) if state == JobState.PROCESSING else None


@blueprint.post("/jobs/<uuid:job_id>/cancel")
@blueprint.response(200, schemas.JobSchema)
@blueprint.alt_response(409, schema=schemas.V1ErrorSchema)
def cancel_job(job_id: UUID) -> dict[str, Any]:
    """Cancel a job that is queued or running; 409 with its state when it has ended already."""
    with fleet().transaction() as tx:
        job = jobs.cancel(tx, job_id, fleet())
        return translate.job_to_json(job, None, _url)


@blueprint.get("/images/<uuid:image_id>")
@blueprint.response(200, content_type="image/png")
@blueprint.alt_response(404, schema=schemas.V1ErrorSchema)
def show_image(image_id: UUID) -> BaseResponse:
    """Return a picture."""
    with fleet().reading() as session:
        image = images.get(session, image_id)
    response = Response(images.read(fleet(), image), mimetype=image.media_type)
    response.set_etag(image.sha256)
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return response.make_conditional(request)


@blueprint.get("/machines")
@blueprint.response(200, schemas.MachineListSchema)
def list_machines() -> dict[str, Any]:
    """List the machines, and how far each is with each of its models."""
    now = fleet().clock()
    with fleet().reading() as session:
        return {"machines": [translate.machine_to_json(m, fleet().limits, now) for m in machines.listing(session)]}


@blueprint.post("/machines/plan")
@blueprint.arguments(schemas.PlanRequestSchema)
@blueprint.response(200, schemas.PlanSchema)
@blueprint.alt_response(404, schema=schemas.V1ErrorSchema)
def plan_machine(body: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a machine with these MACHINE_MODELS_NEEDED would fetch, and whether it could; nothing is fetched."""
    wanted = [model_id.strip() for model_id in body["models_needed"].split(",") if model_id.strip()]
    return plans.plan_for(fleet(), settings(), wanted, request.url_root, body.get("machine_id"))


@blueprint.get("/machines/<machine_id>")
@blueprint.response(200, schemas.MachineSchema)
@blueprint.alt_response(404, schema=schemas.V1ErrorSchema)
def show_machine(machine_id: str) -> dict[str, Any]:
    """Show one machine."""
    with fleet().reading() as session:
        return translate.machine_to_json(machines.get(session, machine_id), fleet().limits, fleet().clock())


@blueprint.get("/models")
@blueprint.response(200, schemas.ModelListSchema)
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
@blueprint.response(200, schemas.ModelSchema)
@blueprint.alt_response(404, schema=schemas.V1ErrorSchema)
def show_model(model_id: str) -> dict[str, Any]:
    """Show one catalogue entry."""
    with fleet().reading() as session:
        return _model_json(session, models.get(session, model_id))


@blueprint.post("/models")
@blueprint.arguments(schemas.ModelRequestSchema)
@blueprint.response(201, schemas.ModelSchema)
def put_model(body: Mapping[str, Any]) -> dict[str, Any]:
    """Add a model to the catalogue, or replace the entry of the same id."""
    with fleet().transaction() as tx:
        model = models.put(tx, translate.to_entry(body), origin="api")
        tx.session.flush()
        return _model_json(tx.session, model)


@blueprint.delete("/models/<model_id>")
@blueprint.response(204)
@blueprint.alt_response(409, schema=schemas.V1ErrorSchema)
def delete_model(model_id: str) -> None:
    """Take a model out of the catalogue."""
    with fleet().transaction() as tx:
        models.remove(tx, model_id)


def _model_json(session: Session, model: Model) -> dict[str, Any]:
    outlook = machines.outlook(session, model.id, fleet().limits, fleet().clock())
    return translate.model_to_json(model, outlook.holdings, jobs.waiting_by_model(session).get(model.id, 0))
