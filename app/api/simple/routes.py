"""Routes of the simple dialect: seed 001. /health is the watchers', see app.api.ops."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from uuid import UUID

from flask import Response, jsonify, request
from flask_smorest import Blueprint
from werkzeug.wrappers import Response as BaseResponse

from app.api import ordering, serving
from app.api.door import Auth, Dialect, Refused, absolute, fleet, settings
from app.api.hooks import hook_of
from app.api.simple import schemas, translate
from app.api.waiting import PREFER_HEADER, preferred_seconds, tell_applied, waiting_room
from app.core import attempts, images, jobs, listing, machines
from app.core.jobs import Terms
from app.core.lifecycle import ENDED, JobState
from app.core.spec import IMAGE_FORMATS
from app.core.tables import Job

NAME = "simple"

JSON = "application/json"

PICTURE = serving.PICTURE["responses"]["200"]["content"]

blueprint = Blueprint(NAME, __name__, description="TinyIMGserver's API (seed 001).")
dialect = Dialect(
    NAME,
    ("/generate", "/models", "/status"),
    Auth.CLIENT,
    translate.say,
    (blueprint,),
    error=schemas.SimpleErrorSchema,
    title="simple, one request and one picture",
    about="TinyIMGserver's API: POST /generate waits for the picture and answers with it. For scripts and first tries.",
)


@blueprint.post("/generate")
@blueprint.arguments(schemas.SimpleOrderSchema)
@blueprint.response(200, schemas.SimpleDrawnSchema)
@blueprint.doc(parameters=[ordering.KEY_HEADER, PREFER_HEADER], responses={200: {"content": PICTURE}})
@blueprint.alt_response(202, schema=schemas.SimpleDrawnSchema, description="it is not drawn yet: ask at `url`")
@blueprint.alt_response(404, schema=schemas.SimpleErrorSchema)
@blueprint.alt_response(409, schema=schemas.SimpleErrorSchema)
@blueprint.alt_response(429, schema=schemas.SimpleErrorSchema)
@blueprint.alt_response(500, schema=schemas.SimpleErrorSchema)
@blueprint.alt_response(503, schema=schemas.SimpleErrorSchema)
def generate(order: Mapping[str, Any]) -> BaseResponse:
    """Draw pictures, and answer with them.

    `Accept: image/png` (or image/jpeg, image/webp, image/*) gives the bytes of the first one; JSON gives all, as base64
    or as addresses. After `wait` seconds, or `Prefer: wait=N`, and at the latest after the server's limit, 202 says
    where to ask for the job, which goes on.
    """
    spec = translate.to_spec({"image_format": _format_accepted(), **order})
    terms = Terms(dialect=NAME, hook=hook_of(order))
    seconds = min(order.get("wait", preferred_seconds(settings().wait_seconds)), settings().wait_seconds)
    if "Prefer" in request.headers and "wait" not in order:
        tell_applied(seconds)
    if not seconds:
        return _told(_place(terms, spec), order["response"])
    with waiting_room().seat("send `wait: 0` and ask for the job instead, or try again later"):
        job_id = _place(terms, spec)
        waiting_room().wait(fleet(), job_id, seconds)
    return _told(job_id, order["response"])


def _format_accepted() -> str:
    kinds = {f"image/{name}": name for name in IMAGE_FORMATS}
    return kinds.get(request.accept_mimetypes.best_match([JSON, *kinds]) or JSON, IMAGE_FORMATS[0])


def _place(terms: Terms, spec: Any) -> UUID:
    with ordering.placed(terms, lambda tx, terms: [jobs.submit(tx, spec, terms)]) as (job,):
        return job.id


def _told(job_id: UUID, how: str) -> BaseResponse:
    """Answer with what a job has become by now."""
    with fleet().reading() as session:
        job = jobs.get(session, job_id)
        _refuse_failed(job)
        shown = jobs.shown_images(job)
        wanted = shown and request.accept_mimetypes.best_match([JSON, shown[0].media_type])
        if wanted and wanted != JSON:
            response = serving.picture(shown[0].id)
            response.headers["Content-Location"] = absolute(f"/v1/images/{shown[0].id}")
            return response
        read = (lambda image: images.read(fleet(), image)) if how == "base64" else None
        body = translate.job_to_json(job, shown, absolute, read)
    answer: Response = jsonify(schemas.SimpleDrawnSchema().dump(body))
    if job.state not in ENDED:
        answer.status_code = 202
        answer.headers["Location"] = body["url"]
    return answer


def _refuse_failed(job: Job) -> None:
    if job.state == JobState.ERROR:
        raise Refused(500, job.error_code or "error", f"job {job.id}: {job.error or 'no reason was given'}")
    if job.state == JobState.CANCELLED:
        raise Refused(409, "cancelled", f"job {job.id} was cancelled: {job.error or 'somebody asked for that'}")


@blueprint.get("/models")
@blueprint.response(200, schemas.SimpleModelsSchema)
def list_models() -> dict[str, Any]:
    """List the models that pictures can be drawn with."""
    with fleet().reading() as session:
        found = machines.drawable(session, fleet().limits, fleet().clock())
        return {"models": [translate.model_to_json(model, ready=ready) for model, ready in found]}


@blueprint.get("/status")
@blueprint.response(200, schemas.SimpleStatusSchema)
def show_status() -> dict[str, Any]:
    """Show the server's machines with their GPUs and memory, and how many jobs wait and run."""
    with fleet().reading() as session:
        found = machines.listing(session)
        running = attempts.running_on(session, *(machine.id for machine in found))
        shown = translate.status_to_json(found, running, fleet().limits, fleet().clock())
        counts = listing.count_by_state(session, JobState.QUEUED, JobState.PROCESSING)
    return shown | {
        "version": version("imagefleet"),
        "jobs": {state.value: count for state, count in counts.items()},
    }
