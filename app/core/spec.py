"""One order for pictures, as every dialect, the database and every machine understand it.

Pure: machines import this module too.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from app.core.errors import InvalidSpec

SCHEDULERS = (
    "DDIM",
    "DPM++ 2M",
    "DPM++ 2M Karras",
    "DPM++ 2M SDE",
    "Euler",
    "Euler a",
    "Heun",
    "LMS",
    "PLMS",
    "UniPC",
)
"""Sampler names in Automatic1111's spelling, the one most clients know."""

IMAGE_FORMATS = ("png", "jpeg", "webp")

PIXEL_GRID = 8
"""Latent diffusion draws in cells of 8 x 8 pixels; other sizes cannot be drawn."""

MAX_SEED = 2**32 - 1
"""Seeds are unsigned 32-bit numbers, as in Automatic1111."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec:
    """What to draw. None means: as the model's entry in the catalogue says, or else its family's default."""

    model_id: str
    prompt: str
    negative_prompt: str = ""
    steps: int | None = None
    guidance_scale: float | None = None
    width: int | None = None
    """Pixels."""
    height: int | None = None
    """Pixels."""
    seed: int | None = None
    """Of the first picture; picture k of an order has seed + k."""
    n: int = 1
    scheduler: str | None = None
    image_format: str = "png"

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise InvalidSpec("; ".join(problems), problems=problems)

    def with_defaults(self, options: Mapping[str, Any]) -> Self:
        """Fill what the order leaves open from a model's options (`steps`, `guidance_scale`, `width`, ...)."""
        steps = options.get("fixed_steps") or (options.get("steps") or {}).get("default")
        found = {
            "steps": steps,
            "guidance_scale": options.get("guidance_scale"),
            "width": options.get("width"),
            "height": options.get("height"),
            "scheduler": options.get("scheduler"),
        }
        return replace(self, **{k: v for k, v in found.items() if v is not None and getattr(self, k) is None})

    def to_json(self) -> dict[str, Any]:
        """Return the order as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read an order back; fields of a newer version are ignored, missing ones take their defaults."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})


def _problems(spec: GenerationSpec) -> list[str]:
    """Say everything about an order that can never be drawn, in sentences for its author."""
    problems = []
    for name, size in (("width", spec.width), ("height", spec.height)):
        if size is not None and (size < PIXEL_GRID or size % PIXEL_GRID):
            nearest = max(PIXEL_GRID, round(size / PIXEL_GRID) * PIXEL_GRID)
            problems.append(f"{name} must be a positive multiple of {PIXEL_GRID}, not {size}; {nearest} is the nearest")
    if spec.steps is not None and spec.steps < 1:
        problems.append(f"steps must be at least 1, not {spec.steps}")
    if spec.n < 1:
        problems.append(f"n must be at least 1, not {spec.n}")
    if spec.seed is not None and not 0 <= spec.seed <= MAX_SEED:
        problems.append(f"seed must be between 0 and {MAX_SEED}, not {spec.seed}; leave it out for a random one")
    if spec.scheduler is not None and spec.scheduler not in SCHEDULERS:
        problems.append(f"scheduler {spec.scheduler!r} is unknown; known are {', '.join(SCHEDULERS)}")
    if spec.image_format not in IMAGE_FORMATS:
        problems.append(f"image_format must be one of {', '.join(IMAGE_FORMATS)}, not {spec.image_format!r}")
    return problems
