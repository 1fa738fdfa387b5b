"""What Automatic1111 calls pictures to begin with, masks and the high-res fix, as parts of an order. Pure.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/processing.py, and modules/api/api.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from app.api.door import Refused
from app.core.extras import Hires, Mask
from app.core.upscaling import BUILT_IN

RESIZE_MODES = ("stretch", "crop", "fill", "stretch")
"""By its numbers; the last one stretches latents."""

FILLS = ("fill", "original", "noise", "nothing")
"""By its numbers, which are not in our order."""

MASK_BLUR = 4
"""Pixels, where it is not said."""

NO_UPSCALER = "None"
"""It resamples by Lanczos then."""

SAME_SHAPE = 0.01
"""By how much the two scales of an enlargement may differ: sizes are whole pixels."""


def parts_of(order: Mapping[str, Any], upscalers: Sequence[str], size: tuple[int, int]) -> dict[str, Any]:
    """Return the fields of an order that are about pictures; `size` is that of the first pass, in pixels.

    Pictures are named by SHA-256 already. Raises Refused for an upscaler that is not there and for what cannot be.
    """
    found: dict[str, Any] = {}
    if order.get("init_images"):
        found["image"] = order["init_images"][0]
        found["strength"] = _or(order["denoising_strength"], 0.75)
        found["resize_mode"] = RESIZE_MODES[order["resize_mode"] or 0]
        found["mask"] = _mask(order) if order["mask"] else None
    if order.get("enable_hr"):
        found["hires"] = _hires(order, upscalers, size)
    return found


def _mask(order: Mapping[str, Any]) -> Mask:
    across, down = (_or(order[name], MASK_BLUR) for name in ("mask_blur_x", "mask_blur_y"))
    if order["mask_blur"] is None and across != down:
        raise _not_possible("mask_blur_x", "a mask that is blurred more in one direction than in the other")
    return Mask(
        image=order["mask"],
        blur=_or(order["mask_blur"], across),
        inverted=bool(order["inpainting_mask_invert"]),
        fill=FILLS[order["inpainting_fill"] or 0],
        only_masked=order["inpaint_full_res"] is not False,
        padding=order["inpaint_full_res_padding"] or 0,
    )


def _hires(order: Mapping[str, Any], upscalers: Sequence[str], size: tuple[int, int]) -> Hires:
    return Hires(
        scale=_scale(order, size),
        upscaler=upscaler_named(order["hr_upscaler"], upscalers),
        steps=order["hr_second_pass_steps"] or None,
        strength=_or(order["denoising_strength"], 0.75),
    )


def upscaler_named(name: str | None, known: Sequence[str]) -> str:
    """Find what an upscaler's name means, `known` being those of the catalogue; raises Refused for an unknown one."""
    if not name:
        return BUILT_IN[0]
    if name == NO_UPSCALER:
        return "Lanczos"
    found = next((each for each in (*BUILT_IN, *known) if each.lower() == name.lower()), None)
    if found is None:
        raise Refused(422, "upscaler_not_found", f"could not find upscaler named {name}; GET upscalers lists them")
    return found


def _scale(order: Mapping[str, Any], size: tuple[int, int]) -> float:
    wanted = order["hr_resize_x"] or 0, order["hr_resize_y"] or 0
    scales = [side / own for side, own in zip(wanted, size, strict=True) if side > 0]
    if not scales:
        return float(_or(order["hr_scale"], 2.0))
    if max(scales) - min(scales) > SAME_SHAPE:
        raise _not_possible("hr_resize_x", "another shape in the second pass than in the first")
    return min(scales)


def problems_of_second_pass(order: Mapping[str, Any], most: int) -> dict[str, list[str]]:
    """Hold the size of a second pass against the server's limit, in pixels a side; messages by field."""
    if not order.get("enable_hr"):
        return {}
    sides = [order["width"] or 512, order["height"] or 512]
    wanted = [order["hr_resize_x"] or 0, order["hr_resize_y"] or 0]
    scale = _or(order["hr_scale"], 2.0)
    largest = max(wanted) if any(wanted) else max(sides) * scale
    if largest > most:
        return {"hr_scale": [f"makes it {largest:.0f} pixels wide or high; this server's limit is {most}"]}
    return {}


def refuse_what_cannot_be(order: Mapping[str, Any]) -> None:
    """Raise Refused for what would change the picture and cannot be had; clients send most of these as nothing."""
    if len(order.get("init_images") or ()) > 1:
        raise _not_possible("init_images", "several pictures to begin with in one order")
    if order.get("latent_mask"):
        raise _not_possible("latent_mask", "a second mask")
    if order.get("initial_noise_multiplier") not in {None, 1}:
        raise _not_possible("initial_noise_multiplier", "another amount of noise than the sampler's")
    if not order.get("enable_hr"):
        return
    same = {
        "hr_prompt": ("", order["prompt"]),
        "hr_negative_prompt": ("", order["negative_prompt"]),
        "hr_sampler_name": ("", "Use same sampler", order["sampler_name"] or order["sampler_index"]),
        "hr_scheduler": ("", "Use same scheduler", order["scheduler"]),
        "hr_checkpoint_name": ("", "Use same checkpoint"),
        "firstphase_width": (0,),
        "firstphase_height": (0,),
    }
    for name, values in same.items():
        if order[name] is not None and order[name] not in values:
            raise _not_possible(name, f"a second pass with a {name} of its own")


def _not_possible(field: str, what: str) -> Refused:
    return Refused(422, "not_possible", f"{field}: {what} cannot be done by this server; leave it out to draw without")


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
