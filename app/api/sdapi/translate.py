"""The sdapi dialect's shapes: jobs, models and LoRAs out, in Automatic1111's words where it has some. Pure."""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.api.refusals import Problem
from app.api.webui import networks, samplers, titles
from app.api.webui.info import info_of
from app.core import captions, jobs
from app.core.enrichments import Known
from app.core.lifecycle import JobState
from app.core.listing import Query
from app.core.live import Progress
from app.core.paging import Part
from app.core.spec import GenerationSpec
from app.core.tables import Job, Model

UrlFor = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is true of a job only now."""

    progress: Progress | None = None
    seconds_left: float | None = None
    position: int | None = None
    """In its queue, from 1."""
    waiting_for: str | None = None
    preview: bytes | None = None


def to_query(query: Mapping[str, Any], part: Part) -> Query:
    """Read which jobs are to be listed."""
    states = [JobState(status) for status in query.get("status", ())]
    return Query(states=states, model_id=query.get("model"), part=part)


def job_to_json(job: Job, progress: Progress | None, url: UrlFor) -> dict[str, Any]:
    """Show a job in short."""
    return {
        "uuid": job.id,
        "status": job.state.value,
        "type": "img2img" if job.spec.get("image") else "txt2img",
        "model": job.model_id,
        "progress": _fraction(job, progress),
        "image_count": int(job.spec["n"]),
        "error": _why(job),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "url": url(f"/sdapi/v1/jobs/{job.id}"),
    }


def _why(job: Job) -> str | None:
    if job.state == JobState.ERROR:
        return job.error or "the job failed, and no reason was given"
    return job.error if job.state == JobState.CANCELLED else None


def _fraction(job: Job, progress: Progress | None) -> float:
    if job.state == JobState.COMPLETED:
        return 1.0
    known = _of_this_attempt(job, progress)
    return round(known.fraction, 4) if known else 0.0


def _of_this_attempt(job: Job, progress: Progress | None) -> Progress | None:
    is_its = progress is not None and job.state == JobState.PROCESSING and progress.attempt == job.attempt
    return progress if is_its else None


def detail_to_json(
    job: Job, model: Model, moment: Moment, url: UrlFor, pictures: Sequence[bytes] = ()
) -> dict[str, Any]:
    """Show a job with everything known about it, and with its pictures where it has some."""
    spec = _sized(GenerationSpec.from_json(job.spec), job)
    is_done = job.state == JobState.COMPLETED
    return job_to_json(job, moment.progress, url) | {
        "eta_relative": None if moment.seconds_left is None else round(moment.seconds_left, 1),
        "queue_position": moment.position,
        "textinfo": moment.waiting_for,
        "state": _state_to_json(spec, _of_this_attempt(job, moment.progress)),
        "current_image": _base64(moment.preview) if moment.preview else None,
        "images": [_base64(picture) for picture in pictures],
        "parameters": _parameters(spec, model),
        "info": json.dumps(info_of({"batch_size": spec.n}, job, model, spec), ensure_ascii=False) if is_done else None,
    }


def _sized(spec: GenerationSpec, job: Job) -> GenerationSpec:
    """Say the size that was drawn where the order, of another dialect, had left it to the model."""
    shown = jobs.shown_images(job)
    return replace(spec, width=shown[0].width, height=shown[0].height) if shown and not spec.width else spec


def _state_to_json(spec: GenerationSpec, known: Progress | None) -> dict[str, Any]:
    return {
        "job_no": known.image if known else 0,
        "job_count": spec.n,
        "sampling_step": known.step if known else 0,
        "sampling_steps": known.steps if known else 0,
        "phase": known.phase if known else None,
    }


def _parameters(spec: GenerationSpec, model: Model) -> dict[str, Any]:
    """Say an order as it would have to be sent to get the same pictures; those that it brought along are left out."""
    choice = samplers.choice_of(spec.scheduler) if spec.scheduler else None
    settings = {"sd_model_checkpoint": titles.title(model)} | ({"sd_vae": spec.vae_id} if spec.vae_id else {})
    parameters = {
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "seed": spec.seed,
        "subseed": spec.subseed,
        "subseed_strength": spec.subseed_strength,
        "steps": spec.steps,
        "cfg_scale": spec.guidance_scale,
        "width": spec.width,
        "height": spec.height,
        "batch_size": spec.n,
        "n_iter": 1,
        "sampler_name": choice.sampler if choice else None,
        "scheduler": choice.schedule if choice else None,
        "clip_skip": spec.clip_skip,
        "denoising_strength": captions.strength_of(spec),
        "enable_hr": spec.hires is not None,
        "override_settings": settings,
    }
    if spec.hires is not None:
        hires = spec.hires
        parameters |= {
            "hr_scale": hires.scale,
            "hr_upscaler": hires.upscaler,
            "hr_second_pass_steps": hires.steps or 0,
        }
    return parameters


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def model_to_json(model: Model, known: Known, *, ready: bool) -> dict[str, Any]:
    """Show a model."""
    return titles.model_to_json(model) | {"ready": ready} | _entry_to_json(model, known)


def lora_to_json(model: Model, known: Known) -> dict[str, Any]:
    """Show a LoRA."""
    hashes = {"hash": titles.short_hash(model), "sha256": titles.sha256_of(model)}
    words = {"trigger_words": model.trigger_words or []}
    return networks.lora_to_json(model) | hashes | words | _entry_to_json(model, known)


def _entry_to_json(model: Model, known: Known) -> dict[str, Any]:
    return {
        "base_model": model.base,
        "description": model.description,
        "size_bytes": model.size_bytes,
        "tags": model.tags,
        "civitai_status": known.status,
        "civitai": known.found,
    }


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong: {"detail": sentence, "error": word, "fields"?}; Automatic1111's clients read `detail`."""
    body: dict[str, Any] = {"detail": problem.message, "error": problem.code}
    return body | ({"fields": problem.fields} if problem.fields else {})
