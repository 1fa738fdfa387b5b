"""How far the caller's own job is, and stopping it; those of others are not its business."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flask import Response

from app.api.a1111 import schemas, translate
from app.api.a1111.blueprint import NAME, blueprint, null
from app.api.door import caller, fleet
from app.api.webui.info import timestamp_of
from app.core import callers, jobs, service
from app.core.lifecycle import JobState
from app.core.live import Progress, Skipped
from app.core.tables import Job


@blueprint.get("/progress")
@blueprint.arguments(schemas.A1111ProgressQuerySchema, location="query")
@blueprint.response(200, schemas.A1111ProgressSchema)
def progress(query: Mapping[str, Any]) -> dict[str, Any]:
    """Show how far the caller's job is, and what is to be seen of it by now."""
    known, why = fleet(), None
    with known.reading() as session:
        job = next(iter(callers.unended(session, caller(), NAME)), None)
        if job and job.state == JobState.QUEUED:
            ahead = jobs.ahead_of(session, job)
            why = service.why_waiting(session, job, ahead, known.limits, known.clock())
    if job is None:
        return _to_json(None, None, None, known.clock())
    preview = None if query["skip_current_image"] else known.live.preview(job.id)
    shown = known.live.progress(job.id)
    found = _to_json(job, shown, why, known.clock())
    if shown and known.live.skipped(job.id) == Skipped(job.attempt, shown.image):
        found["state"]["skipped"] = True
    return found | {"current_image": translate.to_base64(preview) if preview else None}


@blueprint.post("/interrupt")
@blueprint.response(200)
def interrupt() -> dict[str, Any]:
    """Cancel what is being drawn for the caller; its txt2img answers at once, with what was drawn by then."""
    with fleet().transaction() as tx:
        callers.interrupt(tx, caller(), NAME, fleet())
    return {}


@blueprint.post("/skip")
@blueprint.response(200)
def skip() -> Response:
    """Leave what is being drawn for the caller as it is, and go on with the next picture of its order."""
    known = fleet()
    with known.reading() as session:
        job = next(iter(callers.unended(session, caller(), NAME)), None)
    shown = known.live.progress(job.id) if job else None
    # Like there it does nothing between two pictures: the wish would meet one that nobody has seen yet.
    if job and shown and shown.attempt == job.attempt and shown.phase == "denoising":
        known.live.ask_to_skip(job.id, shown)
    return null()


def _to_json(job: Job | None, progress: Progress | None, waiting_for: str | None, now: datetime) -> dict[str, Any]:
    """Show how far a job is; None where the caller waits for nothing."""
    known = progress if job and progress and progress.attempt == job.attempt else None
    fraction = known.fraction if known else 0.0
    return {
        "progress": round(fraction, 4),
        "eta_relative": round(_seconds_left(job, fraction, now), 2),
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": _task_of(job),
            "job_count": int(job.spec["n"]) if job else 0,
            "job_timestamp": timestamp_of(job.created_at) if job else "0",
            "job_no": known.image if known else 0,
            "sampling_step": known.step if known else 0,
            "sampling_steps": known.steps if known else 0,
        },
        "current_image": None,
        "textinfo": waiting_for,
    }


def _seconds_left(job: Job | None, fraction: float, now: datetime) -> float:
    """Estimate when a job ends: by what was done of it, or else by what was promised."""
    if job and job.started_at and fraction:
        spent = (now - job.started_at).total_seconds()
        return spent / fraction - spent
    return max(0.0, (job.promised_at - now).total_seconds()) if job and job.promised_at else 0.0


def _task_of(job: Job | None) -> str:
    if job is None:
        return ""
    if job.spec.get("upscale") and job.spec.get("strength") == 0:
        return "extras"
    return "scripts_img2img" if job.spec.get("image") else "scripts_txt2img"
