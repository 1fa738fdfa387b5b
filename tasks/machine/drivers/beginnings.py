"""What a pass begins with, when it is not noise alone: the picture of an order, in the size in which it is drawn."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from app.core.extras import STRENGTH
from app.core.spec import PIXEL_GRID, GenerationSpec
from tasks.machine.drivers.contract import CannotDraw, Order
from tasks.machine.drivers.families import Family
from tasks.machine.drivers.masks import Ground, ground, masked_ground
from tasks.machine.drivers.pipelines import Loaded

LEAST_STRENGTH = 0.001
"""Below this not one of a scheduler's thousand time steps is left: the picture stays as it is."""


def sized(order: Order, loaded: Loaded) -> GenerationSpec:
    """Settle the size of an order that begins with a picture: where the order leaves it open, it is the picture's."""
    spec = order.spec
    if spec.image is None or (spec.width and spec.height):
        return spec
    own = order.pictures[spec.image]
    grid = loaded.family.grid if loaded.family else PIXEL_GRID
    width, height = spec.width, spec.height
    if width:
        height = _on_grid(width * own.height / own.width, grid)
    elif height:
        width = _on_grid(height * own.width / own.height, grid)
    else:
        width, height = _on_grid(own.width, grid), _on_grid(own.height, grid)
    return replace(spec, width=width, height=height)


def largest(order: Order, usual: int | None = None) -> Order:
    """Return an order with the size of its largest pass, for the estimate of the memory that it takes.

    `usual` is the side, in pixels, of what its model draws where nobody says; None: nobody knows.
    """
    spec = order.spec
    own = order.pictures[spec.image].size if spec.image else (usual, usual)
    width, height = spec.width or own[0], spec.height or own[1]
    if not width or not height or (spec.hires is None and (spec.image is None or (spec.width and spec.height))):
        return order
    scale = spec.hires.scale if spec.hires else 1.0
    width, height = (math.ceil(side * scale / PIXEL_GRID) * PIXEL_GRID for side in (width, height))
    return replace(order, spec=replace(spec, width=width, height=height))


def _on_grid(pixels: float, grid: int) -> int:
    return max(grid, round(pixels / grid) * grid)


def ground_of(order: Order, spec: GenerationSpec) -> Ground:
    """Prepare the picture that an order begins with, in the size of `spec`."""
    image, size = order.pictures[str(spec.image)], (int(spec.width or 0), int(spec.height or 0))
    if spec.mask is None:
        return ground(image, size, spec.resize_mode)
    return masked_ground(image, order.pictures[spec.mask.image], spec.mask, size, spec.resize_mode)


def strength_of(spec: GenerationSpec) -> float:
    """Return how much of the picture is drawn anew."""
    return STRENGTH if spec.strength is None else spec.strength


def steps_for(wanted: int, strength: float, family: Family | None) -> int:
    """Return with how many steps a pipeline is called so that `wanted` of them are taken at a strength.

    Pipelines of noise prediction take `int(steps * strength)` of them and those of flow matching round it up:
    diffusers 0.42, `get_timesteps`.
    """
    steps = wanted
    while taken(steps, strength, family) < wanted:
        steps += 1
    return steps


def taken(steps: int, strength: float, family: Family | None) -> int:
    """Return how many of its steps a pipeline takes at a strength."""
    if family is not None and family.samplers != "diffusion":
        return steps - int(max(steps - steps * strength, 0))
    return min(int(steps * strength), steps)


def picture_arguments(start: Ground, strength: float, count: int) -> dict[str, Any]:
    """Return what a view is called with to begin with a picture, for so many pictures of a batch."""
    given: dict[str, Any] = {"image": [start.picture] * count, "strength": strength}
    return given if start.mask is None else {**given, "mask_image": start.mask}


def all_of_it(picture: Image.Image) -> Ground:
    """Return a picture with a mask that shows everything: so an inpainting network does img2img."""
    return Ground(picture, Image.new("L", picture.size, 255))


@contextmanager
def refilled(torch: Any, pipeline: Any, start: Ground, fill: str, seeds: list[int]) -> Iterator[None]:
    """Let an inpainting pipeline find noise, or nothing, under the mask, within this block.

    Those two are latents rather than colours, so they are put where the pipeline encodes the picture to begin with.
    Raises CannotDraw for a pipeline that does that elsewhere.
    """
    if fill not in {"noise", "nothing"} or start.mask is None:
        yield
        return
    encode, prepare = getattr(pipeline, "_encode_vae_image", None), pipeline.prepare_latents
    if encode is None:
        raise CannotDraw(f"mask.fill {fill!r} is not for this kind of model; take original or fill")
    is_first = False

    def encoding(*given: Any, **named: Any) -> Any:
        nonlocal is_first
        latents = encode(*given, **named)
        if not is_first:
            return latents
        is_first = False
        mask = _shrunk(torch, start.mask, latents)
        return latents * (1 - mask) + mask * _noise(torch, latents, seeds) * (fill == "noise")

    def preparing(*given: Any, **named: Any) -> Any:
        nonlocal is_first
        is_first = True
        try:
            return prepare(*given, **named)
        finally:
            is_first = False

    pipeline._encode_vae_image, pipeline.prepare_latents = encoding, preparing  # noqa: SLF001  # no public place
    try:
        yield
    finally:
        del pipeline._encode_vae_image, pipeline.prepare_latents  # noqa: SLF001  # as above


def _shrunk(torch: Any, mask: Any, latents: Any) -> Any:
    small = mask.resize((latents.shape[-1], latents.shape[-2]), Image.Resampling.NEAREST)
    return (torch.from_numpy(np.array(small)) > 0).to(latents)[None, None]


def _noise(torch: Any, latents: Any, seeds: list[int]) -> Any:
    """Make noise for each picture from its own seed, on the CPU, so that it is the same on every device."""
    drawn = [torch.randn(latents.shape[1:], generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(latents)


def hires_size(size: tuple[int, int], scale: float, family: Family | None) -> tuple[int, int]:
    """Return the size of the second pass, in pixels: cut to the grid, as Automatic1111 does."""
    grid = family.grid if family else PIXEL_GRID
    width, height = (max(side, math.floor(side * scale / grid + 1e-9) * grid) for side in size)
    return width, height
