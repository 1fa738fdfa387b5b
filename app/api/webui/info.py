"""What Automatic1111 tells of pictures in `info`: a text with JSON in it, every key of it. Pure.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, Processed.js in modules/processing.py.
"""

from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any

from app.api.webui import samplers, titles
from app.api.webui.infotext import infotext
from app.core import captions
from app.core.spec import GenerationSpec, nth_seed
from app.core.tables import Job, Model


def info_of(order: Mapping[str, Any], job: Job, model: Model, spec: GenerationSpec) -> dict[str, Any]:
    """Return the object that Automatic1111 puts into `info`, every key of it."""
    choice = samplers.choice_of(spec.scheduler or "")
    seeds = [nth_seed(spec.seed, position) for position in range(spec.n)]
    subseeds = [nth_seed(spec.subseed, position) for position in range(spec.n)] if spec.subseed_strength else seeds
    facts = {
        "Steps": spec.steps,
        "Sampler": choice.sampler,
        "Schedule type": choice.schedule,
        "CFG scale": spec.guidance_scale,
    }
    about: dict[str, Any] = {
        "Size": f"{spec.width}x{spec.height}",
        "Model hash": titles.short_hash(model),
        "Model": model.id,
        "Clip skip": spec.clip_skip if spec.clip_skip and spec.clip_skip > 1 else None,
        **captions.facts_of(spec),
        "Version": _version(),
    }
    if spec.subseed_strength:
        about["Variation seed strength"] = spec.subseed_strength
    varied = subseeds if spec.subseed_strength else [None] * spec.n
    seeded = [{"Seed": seed, "Variation seed": subseed} for seed, subseed in zip(seeds, varied, strict=True)]
    return {
        "prompt": spec.prompt,
        "all_prompts": [spec.prompt] * spec.n,
        "negative_prompt": spec.negative_prompt,
        "all_negative_prompts": [spec.negative_prompt] * spec.n,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": subseeds[0],
        "all_subseeds": subseeds,
        "subseed_strength": spec.subseed_strength,
        "width": spec.width,
        "height": spec.height,
        "sampler_name": choice.sampler,
        "cfg_scale": spec.guidance_scale,
        "steps": spec.steps,
        "batch_size": order["batch_size"] or 1,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": model.id,
        "sd_model_hash": titles.short_hash(model) or "",
        "sd_vae_name": spec.vae_id,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": captions.strength_of(spec),
        "extra_generation_params": {"Schedule type": choice.schedule} | _told(captions.facts_of(spec)),
        "index_of_first_image": 0,
        "infotexts": [infotext(spec.prompt, spec.negative_prompt, facts | each | about) for each in seeded],
        "styles": [],
        "job_timestamp": timestamp_of(job.created_at),
        "clip_skip": spec.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": _version(),
    }


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not said, and what has a key of its own."""
    return {name: value for name, value in facts.items() if value is not None and name != "Denoising strength"}


def timestamp_of(moment: datetime) -> str:
    """Write a moment as Automatic1111 does."""
    return moment.strftime("%Y%m%d%H%M%S")


def _version() -> str:
    return f"imagefleet {version('imagefleet')}"
