"""The v1 dialect's shapes: orders in, jobs, machines and models out. Pure."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from app.api.door import Problem
from app.api.paging import part_of
from app.core import jobs, machines, presence, timeline
from app.core.errors import EngineNotFound, FleetError
from app.core.fleet import Limits
from app.core.jobs import Terms
from app.core.lifecycle import JobState
from app.core.listing import JOBS, Query
from app.core.live import Progress
from app.core.spec import GenerationSpec, shown
from app.core.tables import Attempt, Holding, Image, Job, Machine
from app.core.webhooks import HookRequest

UrlFor = Callable[[str], str]
"""Turns a path of ours into an absolute address."""


def to_spec(order: Mapping[str, Any]) -> GenerationSpec:
    """Read an order that the schema has accepted."""
    # An order for an engine leaves the model to it.
    return GenerationSpec.from_json({"model_id": "", **order})


def to_specs(order: Mapping[str, Any]) -> list[GenerationSpec]:
    """Read an order with a list of prompts; all parameters, the seed too, are the same for each of them."""
    return [to_spec({**order, "prompt": prompt}) for prompt in order["prompts"]]


def to_terms(order: Mapping[str, Any], now: datetime, hook: HookRequest | None = None) -> Terms:
    """Read how an order that the schema has accepted wants to be treated."""
    deadline = order.get("deadline")
    if "expires_in" in order:
        deadline = now + timedelta(seconds=order["expires_in"])
    engine_id = engine_id_of(order["engine_id"]) if "engine_id" in order else None
    return Terms(priority=order.get("priority"), deadline_at=deadline, hook=hook, engine_id=engine_id)


def engine_id_of(given: str) -> UUID:
    """Read an engine's id; raises EngineNotFound for what is none, as for one that nobody has."""
    try:
        return UUID(given)
    except ValueError:
        raise EngineNotFound(engine_id=given) from None


def to_query(query: Mapping[str, Any]) -> Query:
    """Read which jobs are to be listed."""
    wanted = {name: query[name] for name in ("model_id", "batch_id", "engine_id", "before") if name in query}
    states = [JobState(status) for status in query.get("status", ())]
    return Query(states=states, part=part_of(query, JOBS), **wanted)


def job_to_json(job: Job, progress: Progress | None, url: UrlFor) -> dict[str, Any]:
    """Show a job in short."""
    return {
        "job_id": job.id,
        "status": job.state.value,
        "progress": _fraction(job, progress),
        "model_id": job.model_id,
        "engine_id": job.engine_id,
        "images": [_image_to_json(image, url) for image in jobs.shown_images(job)],
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "priority": job.priority,
        "deadline": job.deadline_at,
        "batch_id": job.batch_id,
        "retry_of": None if job.is_replay else job.origin_id,
        "replay_of": job.origin_id if job.is_replay else None,
        "parameters": shown(job.spec),
        "error": _error(job.error_code, job.error),
        "url": url(f"/v1/jobs/{job.id}"),
    }


def job_detail_to_json(job: Job, progress: Progress | None, waiting_for: str | None, url: UrlFor) -> dict[str, Any]:
    """Show a job with everything known about it."""
    running = progress if progress and progress.attempt == job.attempt and job.state == JobState.PROCESSING else None
    return job_to_json(job, progress, url) | {
        "waiting_for": waiting_for,
        "running": running and _progress_to_json(running),
        "attempts": [
            attempt_to_json(attempt, waited) for attempt, waited in zip(job.attempts, timeline.waits(job), strict=False)
        ],
    }


def cancelled_to_json(job_id: UUID, outcome: Job | FleetError) -> dict[str, Any]:
    """Show what became of one job that was to be cancelled."""
    if isinstance(outcome, FleetError):
        error = {"code": outcome.code, "message": str(outcome)}
        return {"job_id": job_id, "cancelled": False, "status": outcome.facts.get("state"), "error": error}
    return {"job_id": job_id, "cancelled": True, "status": outcome.state.value, "error": None}


def _fraction(job: Job, progress: Progress | None) -> float:
    if job.state == JobState.COMPLETED:
        return 1.0
    if job.state == JobState.PROCESSING and progress and progress.attempt == job.attempt:
        return round(progress.fraction, 4)
    return 0.0


def _progress_to_json(progress: Progress) -> dict[str, Any]:
    return {
        "phase": progress.phase,
        "step": progress.step,
        "steps": progress.steps,
        "image": progress.image,
        "images": progress.images,
    }


def _image_to_json(image: Image, url: UrlFor) -> dict[str, Any]:
    return {
        "image_id": image.id,
        "url": url(f"/v1/images/{image.id}"),
        "seed": image.seed,
        "width": image.width,
        "height": image.height,
        "media_type": image.media_type,
        "size_bytes": image.size_bytes,
        "notes": (image.receipt or {}).get("notes", []),
    }


def listed_image_to_json(image: Image, url: UrlFor) -> dict[str, Any]:
    """Show a picture by itself."""
    return _image_to_json(image, url) | {
        "job_id": image.job_id,
        "model_id": image.job.model_id,
        "created_at": image.created_at,
        "favourite": image.is_favourite,
        "thumbnail_url": url(f"/v1/images/{image.id}/thumbnail"),
        "parameters": shown(image.job.spec),
    }


def attempt_to_json(attempt: Attempt, waited: float) -> dict[str, Any]:
    """Show an attempt, before which the job waited for so many seconds."""
    return {
        "number": attempt.number,
        "machine_id": attempt.machine_id,
        "device": attempt.device,
        "state": attempt.state.value,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "error": _error(attempt.error_code, attempt.error),
        "timings": {"queued": round(waited, 3), **attempt.timings},
    }


def machine_to_json(
    machine: Machine, running: Sequence[Attempt], moments: Mapping[UUID, Progress], limits: Limits, now: datetime
) -> dict[str, Any]:
    """Show a machine with what it holds, and what it draws out of all that is `running`, how far each by `moments`."""
    mine = [attempt for attempt in running if attempt.machine_id == machine.id]
    return {
        "machine_id": machine.id,
        "alive": machines.is_alive(machine, limits, now),
        "left": presence.has_left(machine.device),
        "drained": machine.drained,
        "sick": machine.sick,
        "jobs": [_running_to_json(attempt, moments.get(attempt.job_id)) for attempt in mine],
        "version": machine.version,
        "device": machine.device,
        "models_needed": machine.needed,
        "models": [_holding_to_json(holding) for holding in machine.holdings],
        "boot": machine.boot,
        "first_seen_at": machine.first_seen_at,
        "last_seen_at": machine.last_seen_at,
    }


def _running_to_json(attempt: Attempt, progress: Progress | None) -> dict[str, Any]:
    return {
        "job_id": attempt.job_id,
        "attempt": attempt.number,
        "started_at": attempt.started_at,
        "model_id": attempt.job.model_id,
        "progress": _fraction(attempt.job, progress),
    }


def _holding_to_json(holding: Holding) -> dict[str, Any]:
    return {
        "model_id": holding.model_id,
        "state": holding.state.value,
        "bytes_done": holding.bytes_done,
        "bytes_total": holding.bytes_total,
        "bytes_per_second": holding.bytes_per_second,
        "error": _error(holding.error_code, holding.error),
    }


def _error(code: str | None, message: str | None) -> dict[str, Any] | None:
    return {"code": code or "error", "message": message or "no reason was given"} if code or message else None


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong: {"error": {"code", "message", "fields"?, ...facts}}."""
    body: dict[str, Any] = {"code": problem.code, "message": problem.message}
    if problem.fields:
        body["fields"] = problem.fields
    return {"error": body | {name: value for name, value in problem.facts.items() if name not in body}}
