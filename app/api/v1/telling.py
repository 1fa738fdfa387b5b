"""v1: how events are told, the same whether one job's are streamed, all jobs' are, or somebody polls."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app.api.streaming import KEEP_ALIVE_SECONDS, LOOK_SECONDS, GoOn
from app.api.v1 import translate
from app.api.v1.event_schemas import PROGRESS
from app.core import timeline
from app.core.live import Progress
from app.core.tables import Job
from app.core.timeline import Event, Kind

log = logging.getLogger(__name__)

RETRY_MILLISECONDS = 2000
"""After so long a client whose stream ended comes back, with the id of the last event it has seen."""


def as_text(event: Mapping[str, Any]) -> str:
    """Write an event as a stream has it; one without an id leaves the place at which a client resumes."""
    place = f"id: {event['id']}\n" if "id" in event else ""
    return f"{place}event: {event['event']}\ndata: {json.dumps(event)}\n\n"


def as_they_come(
    look: Callable[[], Iterable[Mapping[str, Any]]], go_on: GoOn, keep_alive: str, has_more: Callable[[], bool]
) -> Iterator[str]:
    """Write events as `look` finds them, and `keep_alive` where nothing happens for long, as long as `go_on` says so.

    It looks again at once where `has_more` says so, else after a moment. A database that is away ends the stream, and
    the client comes back by itself.
    """
    said_at = time.monotonic()
    try:
        while go_on():
            for event in look():
                yield as_text(event)
                said_at = time.monotonic()
            if time.monotonic() - said_at >= KEEP_ALIVE_SECONDS:
                yield keep_alive
                said_at = time.monotonic()
            if not has_more():
                time.sleep(LOOK_SECONDS)
    except SQLAlchemyError as exc:
        log.warning("a stream of events ends, its client will come back: %s", type(exc).__name__)


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
