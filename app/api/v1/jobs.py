"""v1: jobs."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from flask import Response, jsonify
from marshmallow import RAISE

from app.api import ordering, paging
from app.api.door import absolute, fleet, require_own
from app.api.hooks import hook_of
from app.api.ordering import Do
from app.api.v1 import job_schemas, order_schemas, prospects, translate
from app.api.v1.blueprint import blueprint
from app.api.v1.inputs import kept
from app.api.v1.schemas import V1ErrorSchema
from app.api.waiting import PREFER_HEADER, wait_as_preferred
from app.core import deadlines, jobs, listing, service
from app.core.errors import JobNotFound
from app.core.fleet import Transaction
from app.core.jobs import Terms
from app.core.lifecycle import ENDED, JobState
from app.core.live import Progress
from app.core.tables import Job

ACCEPTED = {"oneOf": [job_schemas.JobSchema, job_schemas.JobBatchSchema]}
"""A job, or the jobs of a list."""


@blueprint.post("/jobs")
@blueprint.arguments(order_schemas.JobRequestSchema)
@blueprint.response(202, ACCEPTED)
@blueprint.alt_response(200, schema=ACCEPTED, description="it was waited for, and has ended")
@blueprint.doc(parameters=[ordering.KEY_HEADER, PREFER_HEADER])
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
@blueprint.alt_response(413, schema=V1ErrorSchema)
@blueprint.alt_response(429, schema=V1ErrorSchema)
def submit_job(order: Mapping[str, Any]) -> Response:
    """Order pictures. The job is kept when this answers, and drawn as soon as a machine holds its model.

    `Prefer: wait=30` answers with 200 when it has ended by then, and with 202 otherwise. With `prompts` in place of
    `prompt` one request orders a job for each of them, all or none.
    """
    order = kept(order)
    terms = translate.to_terms(order, fleet().clock(), hook_of(order))
    if "prompts" in order:
        specs = translate.to_specs(order)
        return _accepted_list(terms, lambda tx, terms: jobs.submit_list(tx, specs, terms))
    spec = translate.to_spec(order)
    return accepted(terms, lambda tx, terms: [jobs.submit(tx, spec, terms)])


def accepted(terms: Terms, do: Do) -> Response:
    """Place an order for one job, and show the job: at once, or when it has ended where that is preferred."""
    with ordering.placed(terms, do) as (job,):
        shown, is_done = [_in_short(job)], False
    if wait_as_preferred(shown[0]["job_id"]):
        shown, is_done = _seen_again(shown)
    return _told(job_schemas.JobSchema().dump(shown[0]), shown[0]["url"], is_done=is_done)


def _accepted_list(terms: Terms, do: Do) -> Response:
    with ordering.placed(terms, do) as found:
        shown, is_done = [_in_short(job) for job in found], False
    if wait_as_preferred(*(each["job_id"] for each in shown)):
        shown, is_done = _seen_again(shown)
    batch_id = shown[0]["batch_id"]
    body = job_schemas.JobBatchSchema().dump({"batch_id": batch_id, "jobs": shown})
    return _told(body, absolute(f"/v1/jobs?batch_id={batch_id}"), is_done=is_done)


def _in_short(job: Job) -> dict[str, Any]:
    return translate.job_to_json(job, _progress(job.id, job.state), absolute)


def _seen_again(shown: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """Look at jobs anew; says also whether all of them have ended."""
    with fleet().reading() as session:
        found = jobs.get_each(session, [each["job_id"] for each in shown])
        return [_in_short(job) for job in found], all(job.state in ENDED for job in found)


def _told(body: Any, location: str, *, is_done: bool) -> Response:
    response = jsonify(body)
    response.status_code = 200 if is_done else 202
    response.headers["Location"] = location
    return response


@blueprint.post("/jobs/<uuid:job_id>/retry")
@blueprint.arguments(order_schemas.RetryRequestSchema, required=False)
@blueprint.response(202, job_schemas.JobSchema)
@blueprint.alt_response(200, schema=job_schemas.JobSchema, description="it was waited for, and has ended")
@blueprint.doc(parameters=[ordering.KEY_HEADER, PREFER_HEADER])
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
@blueprint.alt_response(429, schema=V1ErrorSchema)
def retry_job(order: Mapping[str, Any], job_id: UUID) -> Response:
    """Order once more what an ended job was to draw, as a new job; 409 while it has not ended."""

    def do(tx: Transaction, terms: Terms) -> list[Job]:
        deadlines.expire_one(tx, jobs.locked(tx.session, job_id))
        return [jobs.again(tx, job_id, terms, new_seed=order["new_seed"])]

    return accepted(translate.to_terms(order, fleet().clock(), hook_of(order)), do)


@blueprint.get("/jobs")
@blueprint.arguments(order_schemas.JobQuerySchema, location="query", unknown=RAISE)
@blueprint.response(200, job_schemas.JobListSchema)
def list_jobs(query: Mapping[str, Any]) -> dict[str, Any]:
    """List jobs by pages, the newest first where nothing else is asked for."""
    wanted = translate.to_query(query)
    with fleet().reading() as session:
        page = listing.page(session, wanted)
        while deadlines.expire_seen(fleet(), page.rows):
            session.rollback()  # to see what has just been done
            page = listing.page(session, wanted)
        shown = [_in_short(job) for job in page.rows]
    return {"jobs": shown, "next": paging.to_text(page.next)}


@blueprint.get("/jobs/<uuid:job_id>")
@blueprint.response(200, job_schemas.JobDetailSchema)
@blueprint.doc(parameters=[PREFER_HEADER])
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_job(job_id: UUID) -> dict[str, Any]:
    """Show one job: its state, its pictures, and what it waits for; with `Prefer: wait=30` once it has ended."""
    wait_as_preferred(job_id)
    with fleet().reading() as session:
        job = deadlines.look(fleet(), session, job_id)
        ahead, waiting_for = None, None
        if job.state == JobState.QUEUED:
            ahead = jobs.ahead_of(session, job)
            waiting_for = service.why_waiting(session, job, ahead, fleet().limits, fleet().clock())
        position = None if ahead is None else ahead + 1
        progress = _progress(job.id, job.state)
        shown = translate.job_detail_to_json(job, progress, waiting_for, absolute)
        expected = prospects.of_job(session, job, ahead, progress, fleet().limits, fleet().clock())
        return shown | expected | {"queue_position": position, "preview_url": prospects.preview_url(job, absolute)}


def _progress(job_id: UUID, state: JobState) -> Progress | None:
    return fleet().live.progress(job_id) if state == JobState.PROCESSING else None


@blueprint.post("/jobs/<uuid:job_id>/cancel")
@blueprint.response(200, job_schemas.JobSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
def cancel_job(job_id: UUID) -> dict[str, Any]:
    """Cancel a job that is queued or running; 409 with its state when it has ended already."""
    with fleet().transaction() as tx:
        require_own(tx.session, job_id)
        job = jobs.cancel(tx, job_id, fleet())
        return translate.job_to_json(job, None, absolute)


@blueprint.post("/jobs/cancel")
@blueprint.arguments(order_schemas.CancelRequestSchema)
@blueprint.response(200, job_schemas.CancelledListSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def cancel_jobs(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Cancel several jobs, or those of one list of prompts; says of each what became of it."""
    with fleet().transaction() as tx:
        job_ids = wanted["job_ids"] if "job_ids" in wanted else listing.ids_of_batch(tx.session, wanted["batch_id"])
        if not job_ids:
            raise JobNotFound(f"there is no batch {wanted['batch_id']}", batch_id=str(wanted["batch_id"]))
        require_own(tx.session, *job_ids)
        found = jobs.cancel_each(tx, job_ids, fleet())
        return {"jobs": [translate.cancelled_to_json(job_id, found[job_id]) for job_id in dict.fromkeys(job_ids)]}
