"""v1: how events are told, the same whether one job's are streamed, all jobs' are, or somebody polls."""

import json
from collections.abc import Mapping
from typing import Any

from app.api.v1 import translate
from app.api.v1.event_schemas import PROGRESS
from app.core import timeline
from app.core.live import Progress
from app.core.tables import Job
from app.core.timeline import Event, Kind

RETRY_MILLISECONDS = 2000
"""After so long a client whose stream ended comes back, with the id of the last event it has seen."""


def as_text(event: Mapping[str, Any]) -> str:
    """Write an event as a stream has it; one without an id leaves the place at which a client resumes."""
    place = f"id: {event['id']}\n" if "id" in event else ""
    return f"{place}event: {event['event']}\ndata: {json.dumps(event)}\n\n"


def progress_to_json(moment: Progress) -> dict[str, Any]:
    """Tell how far a job is."""
    return {
        "event": PROGRESS,
        "attempt": moment.attempt,
        "progress": round(moment.fraction, 4),
        "phase": moment.phase,
        "step": moment.step,
        "steps": moment.steps,
        "image": moment.image,
        "image_count": moment.images,
    }


def event_to_json(event: Event, job: Job, url: translate.UrlFor) -> dict[str, Any]:
    """Tell what happened to a job."""
    told: dict[str, Any] = {"event": event.kind.value, "at": event.at}
    if event.attempt is not None:
        told |= {
            "attempt": event.attempt.number,
            "machine_id": event.attempt.machine_id,
            "device": event.attempt.device,
        }
    if event.attempt is not None and event.kind is Kind.ATTEMPT_ENDED:
        waited = timeline.waits(job)[event.attempt.number - 1]
        shown = translate.attempt_to_json(event.attempt, waited)
        told |= {name: shown[name] for name in ("state", "error", "timings")}
    if event.kind is Kind.ENDED:
        shown = translate.job_to_json(job, None, url)
        told |= {name: shown[name] for name in ("status", "error", "images")}
    return told
