"""Routes of the gallery dialect: seed 004."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Response, jsonify
from flask_smorest import Blueprint
from werkzeug.wrappers import Response as BaseResponse

from app.api import ordering, serving
from app.api.door import Auth, Dialect, absolute, fleet
from app.api.gallery import schemas, translate
from app.api.hooks import hook_of
from app.api.waiting import PREFER_HEADER, wait_as_preferred
from app.core import deadlines, jobs, listing, machines
from app.core.jobs import Terms
from app.core.lifecycle import ENDED, JobState
from app.core.tables import Job

NAME = "gallery"

SHOWN_JOBS = 100
"""Of the queue."""

blueprint = Blueprint(NAME, __name__, url_prefix="/api", description="CyberImage's API (seed 004).")
dialect = Dialect(
    NAME,
    ("/api/generate", "/api/status", "/api/image", "/api/models", "/api/queue"),
    Auth.CLIENT,
    translate.say,
    (blueprint,),
    error=schemas.GalleryErrorSchema,
    title="gallery, for pages that show pictures",
    about="CyberImage's API: order at /api/generate, ask /api/status with the job's id, fetch /api/image.",
)


@blueprint.post("/generate")
@blueprint.arguments(schemas.GalleryOrderSchema)
@blueprint.response(202, schemas.GalleryAcceptedSchema)
@blueprint.alt_response(200, schema=schemas.GalleryJobSchema, description="it was waited for, and has ended")
@blueprint.doc(parameters=[ordering.KEY_HEADER, PREFER_HEADER])
@blueprint.alt_response(404, schema=schemas.GalleryErrorSchema)
@blueprint.alt_response(409, schema=schemas.GalleryErrorSchema)
@blueprint.alt_response(429, schema=schemas.GalleryErrorSchema)
def generate(order: Mapping[str, Any]) -> Response:
    """Order pictures; ask /api/status with the id that this answers.

    `Prefer: wait=30` answers as /api/status does when the job has ended by then, and as usual otherwise.
    """
    spec = translate.to_spec(order)
    terms = Terms(dialect=NAME, hook=hook_of(order))
    with ordering.placed(terms, lambda tx, terms: [jobs.submit(tx, spec, terms)]) as (job,):
        state, job_id = job.state, job.id
    location = absolute(f"/api/status/{job_id}")
    if wait_as_preferred(job_id) and (shown := _ended(job_id)):
        return _located(jsonify(schemas.GalleryJobSchema().dump(shown)), location)
    told = {"job_id": job_id, "status": translate.STATES[state], "message": "the job is kept, and drawn in its turn"}
    response = jsonify(schemas.GalleryAcceptedSchema().dump(told))
    response.status_code = 202
    return _located(response, location)


def _ended(job_id: UUID) -> dict[str, Any] | None:
    """Show a job that has ended; None for one that goes on."""
    with fleet().reading() as session:
        job = deadlines.look(fleet(), session, job_id)
        return _shown(job) if job.state in ENDED else None


def _located(response: Response, location: str) -> Response:
    response.headers["Location"] = location
    return response


@blueprint.get("/status/<uuid:job_id>")
@blueprint.response(200, schemas.GalleryJobSchema)
@blueprint.alt_response(404, schema=schemas.GalleryErrorSchema)
def show_status(job_id: UUID) -> dict[str, Any]:
    """Show how far a job is, and its pictures."""
    with fleet().reading() as session:
        return _shown(deadlines.look(fleet(), session, job_id))


def _shown(job: Job) -> dict[str, Any]:
    progress = fleet().live.progress(job.id) if job.state == JobState.PROCESSING else None
    return translate.job_to_json(job, progress, absolute)


@blueprint.get("/image/<uuid:image_id>")
@blueprint.doc(**serving.PICTURE)
@blueprint.alt_response(404, schema=schemas.GalleryErrorSchema)
def show_image(image_id: UUID) -> BaseResponse:
    """Return a picture."""
    return serving.picture(image_id)


@blueprint.get("/models")
@blueprint.response(200, schemas.GalleryModelsSchema)
def list_models() -> dict[str, Any]:
    """List the models that pictures can be drawn with, with what they say of their steps."""
    with fleet().reading() as session:
        found = machines.drawable(session, fleet().limits, fleet().clock())
        return {"models": [translate.model_to_json(model, ready=ready) for model, ready in found]}


@blueprint.get("/queue")
@blueprint.response(200, schemas.GalleryQueueSchema)
def show_queue() -> dict[str, Any]:
    """Show what waits and what is being drawn, the oldest first."""
    with fleet().reading() as session:
        counts = listing.count_by_state(session, JobState.QUEUED, JobState.PROCESSING)
        shown = [_shown(job) for job in listing.oldest(session, [JobState.QUEUED, JobState.PROCESSING], SHOWN_JOBS)]
    return {"pending": counts[JobState.QUEUED], "processing": counts[JobState.PROCESSING], "jobs": shown}
