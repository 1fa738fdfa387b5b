"""What an order in Automatic1111's words asks for, in the core's. Pure.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/api/models.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.api.door import Refused
from app.api.webui import samplers
from app.api.webui.beginnings import parts_of
from app.core.spec import MAX_CLIP_SKIP, PIXEL_GRID, GenerationSpec
from app.core.tables import Model

DEFAULTS: Mapping[str, Any] = {"steps": 50, "guidance_scale": 7.0, "width": 512, "height": 512, "scheduler": "Euler"}
"""Automatic1111's own, for what neither the order nor the model's entry says."""

FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}

CLIP_SKIP = "CLIP_stop_at_last_layers"

NO_OPTIONS: Mapping[str, Any] = {CLIP_SKIP: 1, "samples_format": "png"}
"""The settings of a caller that has none: what `to_spec` asks for."""


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
        clip_skip=clip_skip_of(order, options),
        image_format=image_format_of(
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


def clip_skip_of(order: Mapping[str, Any], options: Mapping[str, Any]) -> int | None:
    """Return what the order says, and else the caller's setting, whose 1 leaves it to the model; raises Refused."""
    own = (order["override_settings"] or {}).get(CLIP_SKIP, order["clip_skip"])
    found = own if own is not None else options[CLIP_SKIP]
    layers = int(found) if isinstance(found, int | float) and found == found // 1 else -1
    if not 0 <= layers <= MAX_CLIP_SKIP:
        raise Refused(422, "invalid_option", f"{CLIP_SKIP}: must be between 1 and {MAX_CLIP_SKIP}, not {found!r}")
    return layers if layers > 1 or (layers == 1 and own is not None) else None


def image_format_of(name: Any) -> str:
    """Read the setting `samples_format`; raises Refused."""
    if str(name).lower() not in FORMATS:
        raise Refused(422, "unknown_format", f"samples_format: pictures are {', '.join(FORMATS)}, not {name!r}")
    return FORMATS[str(name).lower()]
