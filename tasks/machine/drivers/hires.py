"""High-res fix: what was drawn is made larger and gone over once more, as latents or as a picture."""

from typing import Any

from app.core.extras import Hires
from app.core.upscaling import LATENT
from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.drivers.families import Family

MODES: dict[str, dict[str, Any]] = {
    "Latent": {"mode": "bilinear"},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic"},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest)": {"mode": "nearest"},
    "Latent (nearest-exact)": {"mode": "nearest-exact"},
}
"""torch's words for Automatic1111's (1.10, modules/shared_items.py, latent_upscale_modes)."""


def is_latent(hires: Hires) -> bool:
    """Say whether latents are made larger rather than a picture."""
    return hires.upscaler in LATENT


def refuse_unless_possible(hires: Hires, family: Family | None, task: str) -> None:
    """Raise CannotDraw where there is no second pass, or none over latents; `task` is what the checkpoint is for."""
    if task == "inpaint":
        raise CannotDraw("hires goes over the picture a second time, and this checkpoint is made for inpainting alone")
    if family is None or "img2img" not in family.pipelines:
        label = family.label if family else "this kind of model"
        raise CannotDraw(f"hires goes over the picture a second time, and {label} draws from text alone; try upscale")
    if is_latent(hires) and family.samplers == "own":
        raise CannotDraw(f"{family.label} takes no latents to begin with; set hires.upscaler to Lanczos")


def larger(torch: Any, pipeline: Any, latents: Any, sizes: tuple[tuple[int, int], tuple[int, int]], name: str) -> Any:
    """Enlarge the latents of a batch from one size to another, both width and height in pixels.

    Returns them as (batch, channels, height, width), unpacked where the family packs them.
    """
    (width, height), (wide, high) = sizes
    factor = int(pipeline.vae_scale_factor)
    if latents.ndim == 3:  # FLUX: squares of four in a row
        latents = pipeline._unpack_latents(latents, height, width, factor)  # noqa: SLF001  # no public one
    found = torch.nn.functional.interpolate(latents.float(), size=(high // factor, wide // factor), **MODES[name])
    return found.to(latents.dtype)
