"""What an order may bring along beside its words: networks, pictures to begin with, and what happens to the result.

Pure: machines import this module too. Pictures are named by the SHA-256 of their bytes, see `app.core.inputs`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from app.core.upscaling import LATENT, PIXELS

RESIZE_MODES = ("stretch", "crop", "fill")
"""What happens to a picture of another shape: distorted, cut at its longer sides, or its edges drawn on. Automatic1111
numbers them 0, 1, 2; its 3, "just resize (latent upscale)", is `stretch` over latents."""

FILLS = ("original", "fill", "noise", "nothing")
"""What is under the mask before it is drawn over: what was there, its colours smeared in, noise, zeroes."""

CONTROL_KINDS = ("openpose", "depth", "mediapipe_face", "mediapipe_pose", "canny")
"""What a control picture may show. Where an order gives a photo, the annotator of that kind makes one from it."""

USUAL = "*"
"""In place of a model's id: the one that the server takes where nobody says; no id can be it."""

STRENGTH = 0.75
"""How much of a starting picture is drawn anew where nobody says; Automatic1111's "denoising strength"."""

MOST_WEIGHT = 10.0
"""Of a network, up or down; what comes near to it is noise already."""

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A low-rank adapter, by its id in the catalogue."""

    model_id: str
    weight: float = 1.0
    text_weight: float | None = None
    """For the text encoders; None: as `weight`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """What of the starting picture is drawn anew: where the mask is white."""

    image: str
    """SHA-256 of a picture of the same shape; its brightness counts."""
    blur: int = 4
    """Pixels by which its edge is softened."""
    inverted: bool = False
    """Draw where it is black instead."""
    fill: str = "original"
    only_masked: bool = False
    """Draw the surroundings of the mask in the order's full size and put the result back; details come out finer."""
    padding: int = 32
    """Pixels around the mask that are looked at as well, with `only_masked`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hires:
    """High-res fix: draw at the order's size, make it larger, and go over it once more."""

    scale: float = 2.0
    upscaler: str = "Latent"
    """One of `app.core.upscaling.BUILT_IN`, or the id of a model of kind upscaler."""
    steps: int | None = None
    """None: as the first pass."""
    strength: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Upscale:
    """Make the drawn picture larger without drawing."""

    factor: float = 2.0
    upscaler: str = "Lanczos"
    """As in Hires; the latent ones are for Hires alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A ControlNet and the picture that steers it."""

    model_id: str | None = None
    """Of kind controlnet; None: the one in the catalogue that fits `kind` and the checkpoint's base."""
    image: str = ""
    """SHA-256 of the control picture, or of the photo that one is made from."""
    kind: str = "openpose"
    annotate: bool = False
    """The picture is a photo: the annotator of `kind` makes the control picture from it."""
    annotator: str | None = None
    """Id of the model that the annotator looks with; chosen when the order is accepted, None where it needs none."""
    weight: float = 1.0
    start: float = 0.0
    """From which part of the steps on it steers, 0 to 1."""
    end: float = 1.0
    resize_mode: str = "stretch"
    """What happens to a control picture of another shape than what is drawn; one of RESIZE_MODES."""


Extra = Lora | Mask | Hires | Upscale | Control


def read(kind: type[Any], data: Any) -> Any:
    """Read one of these from plain JSON values; fields of a newer version are ignored."""
    if not isinstance(data, Mapping):
        return data
    known = {field.name for field in fields(kind)}
    return kind(**{key: value for key, value in data.items() if key in known})


def read_all(kind: type[Any], data: Any) -> tuple[Any, ...]:
    """Read a list of these."""
    return tuple(read(kind, each) for each in data or ())


def problems_of_loras(loras: tuple[Lora, ...]) -> Iterator[str]:
    """Say what is wrong with the networks of an order."""
    for lora in loras:
        for name in ("weight", "text_weight"):
            weight = getattr(lora, name)
            if weight is not None and not -MOST_WEIGHT <= weight <= MOST_WEIGHT:
                yield f"loras: {name} of {lora.model_id} must be between {-MOST_WEIGHT:g} and {MOST_WEIGHT:g}"
    ids = [lora.model_id for lora in loras]
    for twice in sorted({each for each in ids if ids.count(each) > 1}):
        yield f"loras: {twice} is named twice; add its weights up"


def problems_of_pictures(
    image: str | None, strength: float | None, mask: Mask | None, resize_mode: str
) -> Iterator[str]:
    """Say what is wrong with what an order begins with."""
    if image is not None and not SHA256.fullmatch(image):
        yield "image must be the SHA-256 of a picture that was uploaded, 64 hexadecimal digits"
    if strength is not None and not 0 <= strength <= 1:
        yield f"strength must be between 0, which keeps the picture, and 1, not {strength}"
    if resize_mode not in RESIZE_MODES:
        yield f"resize_mode must be one of {', '.join(RESIZE_MODES)}, not {resize_mode!r}"
    if mask is None:
        return
    if image is None:
        yield "mask needs an image that it masks"
    if not SHA256.fullmatch(mask.image):
        yield "mask.image must be the SHA-256 of a picture that was uploaded, 64 hexadecimal digits"
    if mask.fill not in FILLS:
        yield f"mask.fill must be one of {', '.join(FILLS)}, not {mask.fill!r}"
    if not 0 <= mask.blur <= 256:
        yield f"mask.blur must be between 0 and 256 pixels, not {mask.blur}"
    if not 0 <= mask.padding <= 1024:
        yield f"mask.padding must be between 0 and 1024 pixels, not {mask.padding}"


def problems_of_size(hires: Hires | None, upscale: Upscale | None, mask: Mask | None) -> Iterator[str]:
    """Say what is wrong with how the picture is to be made larger."""
    if hires is not None and mask is not None:
        yield "hires goes over the whole picture; leave it out where there is a mask, or take upscale"
    if hires is not None:
        if not 1 <= hires.scale <= 8:
            yield f"hires.scale must be between 1 and 8, not {hires.scale}"
        if not 0 <= hires.strength <= 1:
            yield f"hires.strength must be between 0 and 1, not {hires.strength}"
        if hires.steps is not None and hires.steps < 1:
            yield f"hires.steps must be at least 1, not {hires.steps}"
    if upscale is not None and upscale.upscaler in LATENT:
        yield f"upscale.upscaler {upscale.upscaler!r} is for hires alone; take one of {', '.join(PIXELS)}, or a model"
    if upscale is not None and not 1 <= upscale.factor <= 8:
        yield f"upscale.factor must be between 1 and 8, not {upscale.factor}"


def problems_of_controls(controls: tuple[Control, ...]) -> Iterator[str]:
    """Say what is wrong with the pictures that steer."""
    for control in controls:
        if control.kind not in CONTROL_KINDS:
            yield f"controls: kind must be one of {', '.join(CONTROL_KINDS)}, not {control.kind!r}"
        if not SHA256.fullmatch(control.image):
            yield "controls: image must be the SHA-256 of a picture that was uploaded, 64 hexadecimal digits"
        if not 0 <= control.start < control.end <= 1:
            yield f"controls: from start to end must lie within 0 and 1, not {control.start} to {control.end}"
        if not 0 <= control.weight <= 2:
            yield f"controls: weight must be between 0 and 2, not {control.weight}"
        if control.resize_mode not in RESIZE_MODES:
            yield f"controls: resize_mode must be one of {', '.join(RESIZE_MODES)}, not {control.resize_mode!r}"


def problems_of_detecting(kind: str | None, *, draws_nothing: bool) -> Iterator[str]:
    """Say what is wrong with an order for what an annotator sees."""
    if kind is not None and kind not in CONTROL_KINDS:
        yield f"detect must be one of {', '.join(CONTROL_KINDS)}, not {kind!r}"
    if kind is not None and not draws_nothing:
        yield "detect shows what is in a picture and draws nothing: it needs an image and strength 0, and no size"
