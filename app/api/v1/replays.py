"""v1: drawing a completed job again, how far that is from the first time, and the receipts of pictures."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Response

from app.api import ordering
from app.api.door import fleet
from app.api.hooks import hook_of
from app.api.v1 import job_schemas, order_schemas, replay_schemas, translate
from app.api.v1.blueprint import blueprint
from app.api.v1.jobs import accepted
from app.api.v1.schemas import V1ErrorSchema
from app.api.waiting import PREFER_HEADER
from app.comparing import Incomparable, distance
from app.core import images, jobs, replay
from app.core.errors import ImageNotFound
from app.core.fleet import Transaction
from app.core.jobs import Terms
from app.core.lifecycle import JobState
from app.core.replay import Pair
from app.core.tables import Job


@blueprint.post("/jobs/<uuid:job_id>/replay")
@blueprint.arguments(order_schemas.ReplayRequestSchema, required=False)
@blueprint.response(202, job_schemas.JobSchema)
@blueprint.alt_response(200, schema=job_schemas.JobSchema, description="it was waited for, and has ended")
@blueprint.doc(parameters=[ordering.KEY_HEADER, PREFER_HEADER])
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(409, schema=V1ErrorSchema)
@blueprint.alt_response(429, schema=V1ErrorSchema)
def replay_job(order: Mapping[str, Any], job_id: UUID) -> Response:
    """Draw a completed job again, with the very same seeds; `replay` of the new job says how far it is from the first.

    409 for a job that was not completed.
    """

    def do(tx: Transaction, terms: Terms) -> list[Job]:
        return [replay.order(tx, job_id, terms)]

    return accepted(translate.to_terms(order, fleet().clock(), hook_of(order)), do)


@blueprint.get("/jobs/<uuid:job_id>/replay")
@blueprint.response(200, replay_schemas.ReplaySchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_replay(job_id: UUID) -> dict[str, Any]:
    """Say how far a replay is from the job that it replays: `compared` is false until it is completed."""
    with fleet().reading() as session:
        job = jobs.get(session, job_id)
        replay.require_replay(job)
        if job.comparison is not None or job.state != JobState.COMPLETED:
            return _shown(job, job.comparison)
        found = replay.pairs(session, job)
    # Decoding takes tens of milliseconds a picture: no transaction waits for it, and it is done once.
    comparison = {"pictures": [_compared(pair) for pair in found]}
    with fleet().transaction() as tx:
        replay.keep_comparison(tx, job_id, comparison)
    return _shown(job, comparison)


@blueprint.get("/images/<uuid:image_id>/receipt")
@blueprint.response(200, replay_schemas.ReceiptSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_receipt(image_id: UUID) -> dict[str, Any]:
    """Say what drew a picture: files with their hashes, versions, device, seed. See docs/drivers.md for its fields."""
    with fleet().reading() as session:
        return {"image_id": image_id, "receipt": images.get(session, image_id).receipt}


def _compared(pair: Pair) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "position": pair.position,
        "first_image_id": str(pair.first.id) if pair.first else None,
        "image_id": str(pair.again.id),
        "equal": None,
        "largest_difference": None,
        "mean_difference": None,
        "psnr": None,
        "problem": None,
        "differs": pair.differs,
    }
    if pair.first is None:
        return shown | {"problem": "the job that it replays has no such picture any more"}
    try:
        found = distance(images.read(fleet(), pair.first), images.read(fleet(), pair.again))
    except (Incomparable, ImageNotFound) as exc:
        return shown | {"problem": str(exc)}
    numbers = {"largest_difference": found.largest, "mean_difference": found.mean, "psnr": found.psnr}
    return shown | numbers | {"equal": found.is_equal}


def _shown(job: Job, comparison: Mapping[str, Any] | None) -> dict[str, Any]:
    pictures = list(comparison["pictures"]) if comparison else []
    return {
        "job_id": job.id,
        "replay_of": job.origin_id,
        "status": job.state.value,
        "compared": comparison is not None,
        "equal": all(picture["equal"] for picture in pictures) if pictures else None,
        "pictures": pictures,
    }
