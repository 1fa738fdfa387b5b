"""What Automatic1111's extras ask for, in the core's words. Pure.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/api/models.py, and scripts/postprocessing_upscale.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from app.api.door import Refused
from app.api.webui.beginnings import NO_UPSCALER, upscaler_named
from app.core.extras import Upscale
from app.core.spec import GenerationSpec
from app.core.upscaling import LATENT, PIXELS

TO_A_SIZE = 1
"""The resize mode that names width and height; the other one names a factor."""

MOST_FACTOR = 8

FACES = {"gfpgan_visibility": "GFPGAN", "codeformer_visibility": "CodeFormer"}


def refuse_what_cannot_be(order: Mapping[str, Any]) -> None:
    """Raise Refused for what would change the picture and cannot be done; clients send most of it as nothing."""
    for name, restorer in FACES.items():
        if order[name]:
            raise _not_possible(name, f"restoring faces with {restorer}")
    if order["extras_upscaler_2_visibility"] and not _is_none(order["upscaler_2"]):
        raise _not_possible("extras_upscaler_2_visibility", "mixing the work of two upscalers")


def is_nothing_asked(order: Mapping[str, Any]) -> bool:
    """Say whether no upscaler is named: Automatic1111 gives the picture back as it is then."""
    return _is_none(order["upscaler_1"])


def to_spec(
    order: Mapping[str, Any], model_id: str, image: str, size: tuple[int, int], upscalers: Sequence[str]
) -> GenerationSpec:
    """Make an order that makes a kept picture of `size` larger and draws nothing.

    `upscalers` are those of the catalogue. Raises Refused for one that is not there and for factors that cannot be.
    """
    name = upscaler_named(order["upscaler_1"], upscalers)
    if name in LATENT:
        raise Refused(422, "not_possible", f"upscaler_1: {name} needs a drawing; take one of {', '.join(PIXELS)}")
    upscale = Upscale(factor=_factor(order, size), upscaler=name)
    return GenerationSpec(model_id=model_id, prompt="", image=image, strength=0.0, upscale=upscale, seed=0)


def cut_to(order: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int] | None:
    """Return to which size in pixels the larger picture is cut; None: it stays as it came."""
    if order["resize_mode"] != TO_A_SIZE:
        return None
    wanted = _wanted_size(order)
    if order["upscaling_crop"] is not False:
        return wanted
    factor = _factor(order, size)
    return round(size[0] * factor), round(size[1] * factor)


def refuse_too_large(order: Mapping[str, Any], size: tuple[int, int], most: int) -> None:
    """Raise Refused where a picture of `size` would be made larger than `most` pixels."""
    factor = _factor(order, size)
    width, height = round(size[0] * factor), round(size[1] * factor)
    if width * height > most:
        raise Refused(
            422,
            "too_large",
            f"upscaling_resize: makes it {width} x {height}; this server's limit are {most} pixels (MAX_INPUT_PIXELS)",
        )


def told(order: Mapping[str, Any]) -> str:
    """Say what was done, as Automatic1111 does."""
    if is_nothing_asked(order):
        return ""
    by_size = order["resize_mode"] == TO_A_SIZE
    how = "to: {}x{}".format(*_wanted_size(order)) if by_size else f"by: {order['upscaling_resize'] or 2:g}"
    return f"Postprocess upscale {how}, Postprocess upscaler: {order['upscaler_1']}"


def _factor(order: Mapping[str, Any], size: tuple[int, int]) -> float:
    if order["resize_mode"] == TO_A_SIZE:
        width, height = _wanted_size(order)
        factor = max(width / size[0], height / size[1])
    else:
        factor = float(order["upscaling_resize"] or 2)
    if not 1 <= factor <= MOST_FACTOR:
        raise Refused(
            422, "not_possible", f"upscaling_resize: makes it {factor:g} times as large; 1 to {MOST_FACTOR} can be done"
        )
    return factor


def _wanted_size(order: Mapping[str, Any]) -> tuple[int, int]:
    return order["upscaling_resize_w"] or 512, order["upscaling_resize_h"] or 512


def _is_none(name: str | None) -> bool:
    return not name or name == NO_UPSCALER


def _not_possible(field: str, what: str) -> Refused:
    return Refused(422, "not_possible", f"{field}: {what} cannot be done by this server; leave it 0 to go without")
