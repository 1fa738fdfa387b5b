"""The Automatic1111 dialect's shapes: orders in; pictures, progress, models and options out. Pure.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/api/api.py and models.py.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from typing import Any

from app.api.a1111 import samplers, titles
from app.api.a1111.beginnings import parts_of
from app.api.a1111.infotext import infotext
from app.api.door import Problem, Refused
from app.core import captions
from app.core.live import Progress
from app.core.spec import MAX_CLIP_SKIP, PIXEL_GRID, GenerationSpec, nth_seed
from app.core.tables import Job, Model

DEFAULTS: Mapping[str, Any] = {"steps": 50, "guidance_scale": 7.0, "width": 512, "height": 512, "scheduler": "Euler"}
"""Automatic1111's own, for what neither the order nor the model's entry says."""

FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}

OPTIONS: Mapping[str, Any] = {
    "sd_model_checkpoint": "",
    "sd_checkpoint_hash": "",
    "sd_vae": "Automatic",
    "CLIP_stop_at_last_layers": 1,
    "eta_noise_seed_delta": 0,
    "samples_format": "png",
    "samples_save": True,
    "grid_save": False,
    "return_grid": False,
    "send_seed": True,
    "hide_samplers": [],
    "live_previews_enable": False,
    "show_progress_every_n_steps": 10,
    "face_restoration": False,
    "face_restoration_model": None,
    "inpainting_mask_weight": 1.0,
    "upscaler_for_img2img": None,
    "img2img_fix_steps": False,
    "outdir_txt2img_samples": "",
}
"""The settings that clients ask for. Those out of this table are kept for a caller; others are let be."""

CLIP_SKIP = "CLIP_stop_at_last_layers"

DERIVED = frozenset({"sd_model_checkpoint", "sd_checkpoint_hash"})

ERROR_NAMES = {"out_of_memory": "OutOfMemoryError"}
"""Clients look for this one."""

DATA_URL = re.compile(r"data:[\w/+.;=-]*,")


def to_spec(
    order: Mapping[str, Any], model: Model, options: Mapping[str, Any], upscalers: Sequence[str] = ()
) -> GenerationSpec:
    """Read an order that the schema has accepted; its pictures are named by their SHA-256 already.

    Sizes are cut to the grid that can be drawn, as Automatic1111 does. `upscalers` are those of the catalogue. Raises
    Refused for samplers, upscalers and file formats that are not there.
    """
    spec = GenerationSpec(
        model_id=model.id,
        prompt=order["prompt"] or "",
        negative_prompt=order["negative_prompt"] or "",
        steps=order["steps"],
        guidance_scale=order["cfg_scale"],
        width=_on_grid(order["width"]),
        height=_on_grid(order["height"]),
        seed=None if order["seed"] in {None, -1} else order["seed"],
        subseed=None if order["subseed"] in {None, -1} else order["subseed"],
        subseed_strength=order["subseed_strength"] or 0.0,
        n=(order["batch_size"] or 1) * (order["n_iter"] or 1),
        scheduler=_scheduler(order, model),
        clip_skip=_clip_skip(order, options),
        image_format=_image_format(
            (order["override_settings"] or {}).get("samples_format") or options["samples_format"]
        ),
    ).with_defaults(model.options)
    spec = replace(spec, **{name: value for name, value in DEFAULTS.items() if getattr(spec, name) is None})
    size = int(spec.width or 0), int(spec.height or 0)
    return replace(spec, **parts_of(order, upscalers, size))


def _on_grid(pixels: int | None) -> int | None:
    return None if pixels is None else max(PIXEL_GRID, pixels // PIXEL_GRID * PIXEL_GRID)


def _scheduler(order: Mapping[str, Any], model: Model) -> str | None:
    """Return the core's scheduler; None leaves it to the model where only its schedule or nothing was asked for."""
    name = order["sampler_name"] or order["sampler_index"]
    if not name and not order["scheduler"]:
        return None
    own = GenerationSpec(model_id=model.id, prompt="").with_defaults(model.options).scheduler or DEFAULTS["scheduler"]
    return samplers.resolve(name or samplers.choice_of(str(own)).sampler, order["scheduler"]).scheduler


def _clip_skip(order: Mapping[str, Any], options: Mapping[str, Any]) -> int | None:
    """Return what the order says, and else the caller's setting, whose 1 leaves it to the model."""
    own = (order["override_settings"] or {}).get(CLIP_SKIP, order["clip_skip"])
    found = own if own is not None else options[CLIP_SKIP]
    layers = int(found) if isinstance(found, int | float) and found == found // 1 else -1
    if not 0 <= layers <= MAX_CLIP_SKIP:
        raise Refused(422, "invalid_option", f"{CLIP_SKIP}: must be between 1 and {MAX_CLIP_SKIP}, not {found!r}")
    return layers if layers > 1 or (layers == 1 and own is not None) else None


def _image_format(name: Any) -> str:
    if str(name).lower() not in FORMATS:
        raise Refused(422, "unknown_format", f"samples_format: pictures are {', '.join(FORMATS)}, not {name!r}")
    return FORMATS[str(name).lower()]


def drawn_to_json(order: Mapping[str, Any], job: Job, model: Model, pictures: Sequence[bytes]) -> dict[str, Any]:
    """Show what became of an order: its pictures, none where it was interrupted."""
    spec = GenerationSpec.from_json(job.spec)
    choice = samplers.choice_of(spec.scheduler or "")
    parameters = dict(order) | {
        "steps": spec.steps,
        "cfg_scale": spec.guidance_scale,
        "width": spec.width,
        "height": spec.height,
        "sampler_name": choice.sampler,
        "scheduler": choice.schedule,
    }
    if not order.get("include_init_images"):
        parameters |= {name: None for name in ("init_images", "mask") if name in order}
    shown = pictures if order["send_images"] is not False else ()
    return {
        "images": [base64.b64encode(picture).decode("ascii") for picture in shown],
        "parameters": parameters,
        "info": json.dumps(_info(order, job, model, spec), ensure_ascii=False),
    }


def _info(order: Mapping[str, Any], job: Job, model: Model, spec: GenerationSpec) -> dict[str, Any]:
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
        "job_timestamp": _timestamp(job.created_at),
        "clip_skip": spec.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": _version(),
    }


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not said, and what has a key of its own."""
    return {name: value for name, value in facts.items() if value is not None and name != "Denoising strength"}


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%S")


def _version() -> str:
    return f"imagefleet {version('imagefleet')}"


def progress_to_json(
    job: Job | None, progress: Progress | None, waiting_for: str | None, now: datetime
) -> dict[str, Any]:
    """Show how far the caller's job is; `job` is None where it waits for nothing."""
    known = progress if job and progress and progress.attempt == job.attempt else None
    fraction = known.fraction if known else 0.0
    spent = (now - job.started_at).total_seconds() if job and job.started_at and known else 0.0
    return {
        "progress": round(fraction, 4),
        "eta_relative": round(spent / fraction - spent, 2) if fraction else 0.0,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": _task_of(job),
            "job_count": int(job.spec["n"]) if job else 0,
            "job_timestamp": _timestamp(job.created_at) if job else "0",
            "job_no": known.image if known else 0,
            "sampling_step": known.step if known else 0,
            "sampling_steps": known.steps if known else 0,
        },
        "current_image": None,
        "textinfo": waiting_for,
    }


def options_to_json(kept: Mapping[str, Any], model: Model | None) -> dict[str, Any]:
    """Show a caller's settings."""
    own = (
        {"sd_model_checkpoint": titles.title(model), "sd_checkpoint_hash": titles.sha256_of(model) or ""}
        if model
        else {}
    )
    return options_of(kept) | own


def _task_of(job: Job | None) -> str:
    if job is None:
        return ""
    return "scripts_img2img" if job.spec.get("image") else "scripts_txt2img"


def options_of(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Lay what is kept for a caller over the defaults."""
    return {**OPTIONS, **kept}


def to_keep(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a caller's settings is to be kept; the model is chosen elsewhere."""
    found = {name: value for name, value in options.items() if name in OPTIONS and name not in DERIVED}
    if CLIP_SKIP in found:
        _clip_skip({"override_settings": None, "clip_skip": None}, found)
    if "samples_format" in found:
        _image_format(found["samples_format"])
    return found


def memory_to_json(devices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the memory of the live machines' devices, bytes."""
    gpus = [device for device in devices if device.get("type") == "cuda"]
    rest = [device for device in devices if device.get("type") != "cuda"]
    cuda = {"system": _memory(gpus)} if gpus else {"error": "no machine of the fleet has a CUDA device"}
    return {"ram": _memory(rest), "cuda": cuda}


def _memory(devices: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    total, free = (sum(int(d.get(name) or 0) for d in devices) for name in ("memory_total", "memory_free"))
    return {"free": free, "used": total - free, "total": total}


def to_bytes(image: str) -> bytes:
    """Read a picture in base64, with or without `data:...,` before it; raises Refused."""
    try:
        return base64.b64decode(DATA_URL.sub("", image, count=1) if image.startswith("data:") else image)
    except (binascii.Error, ValueError) as exc:
        raise Refused(422, "invalid_image", "Invalid encoded image") from exc


def failure(job: Job) -> Refused:
    """Say that a job ended without pictures."""
    return Refused(500, job.error_code or "error", job.error or "the job failed, and no reason was given")


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong as Automatic1111 does; routes and fields are its web framework's matter, and shaped so."""
    if problem.status == 401:
        return {"detail": "Incorrect username or password: the password is one of the server's API_TOKENS"}
    if problem.fields:
        return {"detail": [_field_to_json(*field) for field in problem.fields.items()]}
    if problem.code in {"not_found", "method_not_allowed"}:
        return {"detail": problem.code.replace("_", " ").title()}
    return {
        "error": ERROR_NAMES.get(problem.code, "HTTPException"),
        "detail": problem.message,
        "body": "",
        "errors": "",
    }


def _field_to_json(name: str, texts: Any) -> dict[str, Any]:
    text = " ".join(texts) if isinstance(texts, list) and all(isinstance(t, str) for t in texts) else str(texts)
    place = ["body"] if name in {"_schema", "body"} else ["body", name]
    return {"type": "value_error", "loc": place, "msg": text, "input": None}
