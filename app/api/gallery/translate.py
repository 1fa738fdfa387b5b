"""The gallery dialect's shapes (seed 004): orders in, jobs and models out. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

from app.api.door import Problem
from app.core import jobs
from app.core.lifecycle import JobState
from app.core.live import Progress
from app.core.spec import GenerationSpec, default_of
from app.core.tables import Image, Job, Model

STATES = {
    JobState.QUEUED: "PENDING",
    JobState.PROCESSING: "PROCESSING",
    JobState.COMPLETED: "COMPLETED",
    JobState.ERROR: "FAILED",
    JobState.CANCELLED: "FAILED",
}
"""The seed has no word for a cancelled job: it failed, and its error says that somebody cancelled it."""

SETTINGS = {"steps": "steps", "num_inference_steps": "steps", "num_images": "n"}
"""What settings are called elsewhere in the program; the others have one name."""

SHOWN = ("steps", "guidance_scale", "width", "height", "seed", "scheduler")


def to_spec(order: Mapping[str, Any]) -> GenerationSpec:
    """Read an order that the schema has accepted."""
    asked = {SETTINGS.get(name, name): value for name, value in order["settings"].items()}
    return GenerationSpec(
        model_id=order.get("model") or order["model_id"],
        prompt=order["prompt"],
        negative_prompt=order["negative_prompt"],
        **asked,
    )


def job_to_json(job: Job, progress: Progress | None, url: Callable[[str], str]) -> dict[str, Any]:
    """Show a job as a row of the seed's table, with its pictures and how far it is."""
    shown = [_image_to_json(image, url) for image in jobs.shown_images(job)]
    return {
        "id": job.id,
        "job_id": job.id,
        "status": STATES[job.state],
        "model": job.model_id,
        "prompt": job.spec["prompt"],
        "created_at": job.created_at,
        "completed_at": job.ended_at,
        "image_path": shown[0]["url"] if shown else None,
        "settings": _settings_of(job),
        "images": shown,
        "progress": _fraction(job, progress),
        "error": _error(job),
    }


def _settings_of(job: Job) -> dict[str, Any]:
    known = {name: job.spec.get(name) for name in SHOWN}
    return {name: value for name, value in known.items() if value is not None} | {"num_images": job.spec["n"]}


def _image_to_json(image: Image, url: Callable[[str], str]) -> dict[str, Any]:
    return {
        "image_id": image.id,
        "url": url(f"/api/image/{image.id}"),
        "seed": image.seed,
        "width": image.width,
        "height": image.height,
    }


def _fraction(job: Job, progress: Progress | None) -> float:
    if job.state == JobState.COMPLETED:
        return 1.0
    is_running = job.state == JobState.PROCESSING and progress is not None and progress.attempt == job.attempt
    return round(progress.fraction, 4) if is_running and progress else 0.0


def _error(job: Job) -> str | None:
    if job.state == JobState.CANCELLED:
        return job.error or "the job was cancelled"
    return job.error or "no reason was given" if job.state == JobState.ERROR else None


def model_to_json(model: Model, *, ready: bool) -> dict[str, Any]:
    """Show a model, with the step information that the seed's page reads."""
    found: dict[str, Any] = {
        "id": model.id,
        "name": model.name,
        "description": model.description,
        "source": "huggingface" if model.download_url.startswith("hf://") else model.download_url.partition(":")[0],
        "requires_auth": model.auth_required,
        "ready": ready,
    }
    steps = model.options.get("steps")
    if fixed := model.options.get("fixed_steps"):
        found["fixed_steps"] = fixed
    elif isinstance(steps, Mapping):
        found["steps"] = {name: steps.get(name) for name in ("min", "max")} | {"default": default_of(steps)}
    elif steps is not None:
        found["steps"] = {"min": None, "max": None, "default": steps}
    return found


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong: {"error": sentence, "code", "fields"?}."""
    body: dict[str, Any] = {"error": problem.message, "code": problem.code}
    return body | ({"fields": problem.fields} if problem.fields else {})
