"""sdapi: orders, and the jobs that they become."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Response, jsonify
from marshmallow import RAISE
from sqlalchemy.orm import Session

from app.api import ordering, paging
from app.api.auth import require_own
from app.api.door import absolute, fleet, settings
from app.api.refusals import Refused
from app.api.sdapi import schemas, translate
from app.api.sdapi.blueprint import blueprint
from app.api.sdapi.placing import place
from app.api.sdapi.translate import Moment
from app.api.waiting import preferred_seconds, waiting_room
from app.api.webui import orders
from app.core import deadlines, forecasts, images, jobs, listing, service
from app.core.lifecycle import ENDED, JobState
from app.core.live import Progress
from app.core.tables import Job


@blueprint.post("/txt2img")
@blueprint.arguments(orders.Txt2ImgSchema, required=False)
@blueprint.response(202, schemas.SdapiJobSchema)
@blueprint.alt_response(200, schema=schemas.SdapiJobDetailSchema, success=True, description="it ended while you waited")
@blueprint.doc(parameters=[ordering.KEY_HEADER])
@blueprint.alt_response(404, schema=schemas.SdapiErrorSchema)
@blueprint.alt_response(409, schema=schemas.SdapiErrorSchema)
@blueprint.alt_response(503, schema=schemas.SdapiErrorSchema)
def txt2img(order: Mapping[str, Any]) -> Response:
    """Order pictures from words; answers at once with the job's UUID, or waits as `Prefer: wait=N` says.

    `webhook_url` and `webhook_key` (or `webhookUrl`, `webhookKey`) beside the other fields say whom to tell of the end.
    """
    return _placed(order)


@blueprint.post("/img2img")
@blueprint.arguments(orders.Img2ImgSchema)
@blueprint.response(202, schemas.SdapiJobSchema)
@blueprint.alt_response(200, schema=schemas.SdapiJobDetailSchema, success=True, description="it ended while you waited")
@blueprint.doc(parameters=[ordering.KEY_HEADER])
@blueprint.alt_response(404, schema=schemas.SdapiErrorSchema)
@blueprint.alt_response(409, schema=schemas.SdapiErrorSchema)
@blueprint.alt_response(503, schema=schemas.SdapiErrorSchema)
def img2img(order: Mapping[str, Any]) -> Response:
    """Order pictures from a picture, or over what its mask shows; answers as txt2img does."""
    if not order["init_images"]:
        raise Refused(404, "init_image_not_found", "Init image not found: send one in `init_images`, in base64")
    return _placed(order)


def _placed(order: Mapping[str, Any]) -> Response:
    seconds = min(preferred_seconds(0), settings().wait_seconds)
    if not seconds:
        return _told(place(order))
    with waiting_room().seat("leave `Prefer: wait` out and ask for the job instead, or try again later"):
        job_id = place(order)
        waiting_room().wait(fleet(), job_id, seconds)
    return _told(job_id)


def _told(job_id: UUID) -> Response:
    """Answer with what a job has become by now."""
    with fleet().reading() as session:
        job = jobs.get(session, job_id)
        has_ended = job.state in ENDED
        if has_ended:
            body = schemas.SdapiJobDetailSchema().dump(_detail(session, job, {}))
        else:
            body = schemas.SdapiJobSchema().dump(translate.job_to_json(job, _progress(job), absolute))
    response = jsonify(body)
    if not has_ended:
        response.status_code = 202
        response.headers["Location"] = body["url"]
    return response


@blueprint.get("/jobs")
@blueprint.arguments(schemas.SdapiJobQuerySchema, location="query", unknown=RAISE)
@blueprint.response(200, schemas.SdapiJobListSchema)
def list_jobs(query: Mapping[str, Any]) -> dict[str, Any]:
    """List jobs with their progress by pages, the newest first, and count those that wait and run."""
    wanted = translate.to_query(query, paging.part_of(query, listing.JOBS))
    with fleet().reading() as session:
        page = listing.page(session, wanted)
        while deadlines.expire_seen(fleet(), page.rows):
            session.rollback()  # to see what has just been done
            page = listing.page(session, wanted)
        shown = [translate.job_to_json(job, _progress(job), absolute) for job in page.rows]
        counts = listing.count_by_state(session, JobState.QUEUED, JobState.PROCESSING)
    summary = {state.value: count for state, count in counts.items()}
    return {"jobs": shown, "summary": summary, "next": paging.to_text(page.next)}


@blueprint.get("/jobs/<uuid:job_id>")
@blueprint.arguments(schemas.SdapiDetailQuerySchema, location="query")
@blueprint.response(200, schemas.SdapiJobDetailSchema)
@blueprint.alt_response(404, schema=schemas.SdapiErrorSchema)
def show_job(query: Mapping[str, Any], job_id: UUID) -> dict[str, Any]:
    """Show how far a job is, and when it is completed its pictures in base64."""
    with fleet().reading() as session:
        return _detail(session, deadlines.look(fleet(), session, job_id), query)


def _detail(session: Session, job: Job, query: Mapping[str, Any]) -> dict[str, Any]:
    shown = () if query.get("skip_images") else jobs.shown_images(job)
    pictures = [images.read(fleet(), image) for image in shown]
    moment = _moment(session, job, with_preview=not query.get("skip_current_image"))
    return translate.detail_to_json(job, jobs.model_of(session, job), moment, absolute, pictures)


def _moment(session: Session, job: Job, *, with_preview: bool) -> Moment:
    """Find what is true of a job only now."""
    known, now, progress = fleet(), fleet().clock(), _progress(job)
    ahead = jobs.ahead_of(session, job) if job.state == JobState.QUEUED else None
    forecast = forecasts.of_job(session, job, ahead, progress, known.limits, now)
    is_drawn = with_preview and job.state == JobState.PROCESSING
    return Moment(
        progress=progress,
        seconds_left=forecast.seconds if forecast else None,
        position=None if ahead is None else ahead + 1,
        waiting_for=None if ahead is None else service.why_waiting(session, job, ahead, known.limits, now),
        preview=known.live.preview(job.id) if is_drawn else None,
    )


def _progress(job: Job) -> Progress | None:
    return fleet().live.progress(job.id) if job.state == JobState.PROCESSING else None


@blueprint.post("/jobs/<uuid:job_id>/cancel")
@blueprint.response(200, schemas.SdapiJobSchema)
@blueprint.alt_response(403, schema=schemas.SdapiErrorSchema)
@blueprint.alt_response(409, schema=schemas.SdapiErrorSchema)
def cancel_job(job_id: UUID) -> dict[str, Any]:
    """Cancel a job that is queued or running; 409 when it has ended already."""
    return _cancelled(job_id)


@blueprint.delete("/jobs/<uuid:job_id>")
@blueprint.response(200, schemas.SdapiJobSchema)
@blueprint.alt_response(403, schema=schemas.SdapiErrorSchema)
@blueprint.alt_response(409, schema=schemas.SdapiErrorSchema)
def delete_job(job_id: UUID) -> dict[str, Any]:
    """Cancel a job, as POST cancel does. What has ended is not deleted: 409."""
    return _cancelled(job_id)


def _cancelled(job_id: UUID) -> dict[str, Any]:
    with fleet().transaction() as tx:
        require_own(tx.session, job_id)
        return translate.job_to_json(jobs.cancel(tx, job_id, fleet()), None, absolute)
