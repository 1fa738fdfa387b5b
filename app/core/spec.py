"""One order for pictures, as every dialect, the database and every machine understand it.

Pure: machines import this module too.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from app.core import extras, samplers
from app.core.errors import InvalidSpec
from app.core.extras import Control, Hires, Lora, Mask, Upscale
from app.core.upscaling import BUILT_IN

SCHEDULERS = samplers.NAMES
"""Samplers with their schedules, in Automatic1111's spelling, the one most clients know: `DPM++ 2M Karras`."""

IMAGE_FORMATS = ("png", "jpeg", "webp")

MAX_QUALITY = 100

PIXEL_GRID = 8
"""Latent diffusion draws in cells of 8 x 8 pixels; other sizes cannot be drawn."""

MAX_SEED = 2**32 - 1
"""Seeds are unsigned 32-bit numbers, as in Automatic1111."""


def nth_seed(first: int | None, position: int) -> int:
    """Return the seed of a picture of an order; behind the last seed comes 0 again."""
    return ((first or 0) + position) & MAX_SEED


MAX_CLIP_SKIP = 12
"""Stable Diffusion 1 reads prompts with twelve layers."""


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
    """Of the first picture; picture k of an order has seed + k, see nth_seed."""
    subseed: int | None = None
    """Another first noise; picture k of an order has subseed + k."""
    subseed_strength: float = 0.0
    """How far the first noise is on its way from the seed's to the subseed's: 0 to 1."""
    n: int = 1
    scheduler: str | None = None
    clip_skip: int | None = None
    """At which layer of a CLIP text encoder the prompt is read, counted from the end: 1 is the last one."""
    image_format: str = "png"
    image_quality: int | None = None
    """Of a JPEG or WebP, 0 to 100; None: as the machine's encoder has it."""
    loras: tuple[Lora, ...] = ()
    """By field; those that the prompt names as `<lora:name:0.8>` are added when the order is accepted."""
    embeddings: tuple[str, ...] = ()
    """Ids of textual inversions; the prompt calls each by its id, or by its file's name without the ending."""
    vae_id: str | None = None
    """An autoencoder that takes the place of the model's own."""
    image: str | None = None
    """SHA-256 of the picture to begin with: img2img, and with a mask inpainting."""
    strength: float | None = None
    """How much of it is drawn anew, 0 to 1; None: extras.STRENGTH."""
    resize_mode: str = "stretch"
    """What happens to a picture of another shape than width and height; one of extras.RESIZE_MODES."""
    mask: Mask | None = None
    hires: Hires | None = None
    upscale: Upscale | None = None
    controls: tuple[Control, ...] = ()
    detect: str | None = None
    """Draw nothing, and show what an annotator sees in `image`: a kind of control picture, of extras.CONTROL_KINDS."""
    detector: str | None = None
    """Id of the model that it looks with; chosen when the order is accepted, None where it needs none."""
    remove_background: str | None = None
    """Id of the ONNX model that cuts the foreground out, or extras.USUAL; the pictures have an alpha channel then."""
    safety_check: bool = False
    """Black out what the safety checker takes for unsafe."""
    safety_checker: str | None = None
    """Id of the model that checks; chosen when the order is accepted."""

    @property
    def companions(self) -> tuple[str, ...]:
        """Return the ids of the models that are needed beside the checkpoint, each once."""
        sizing = [each.upscaler for each in (self.hires, self.upscale) if each]
        asked = [
            *(lora.model_id for lora in self.loras),
            *self.embeddings,
            self.vae_id,
            *(each for control in self.controls for each in (control.model_id, control.annotator)),
            *(name for name in sizing if name not in BUILT_IN),
            self.detector,
            self.remove_background,
            self.safety_checker,
        ]
        return tuple(dict.fromkeys(each for each in asked if each))

    @property
    def pictures(self) -> tuple[str, ...]:
        """Return the SHA-256 of the pictures that are needed, each once."""
        asked = [self.image, self.mask and self.mask.image, *(control.image for control in self.controls)]
        return tuple(dict.fromkeys(each for each in asked if each))

    @property
    def draws_nothing(self) -> bool:
        """Say whether the picture to begin with is kept, in its own size: it is made larger at most, or cut out."""
        is_kept = self.image is not None and self.strength == 0 and self.mask is None and self.hires is None
        return is_kept and self.width is None and self.height is None

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise InvalidSpec("; ".join(problems), problems=problems)

    def with_defaults(self, options: Mapping[str, Any]) -> Self:
        """Fill what the order leaves open from a model's options; see `option_problems` for their form."""
        found = {name: default_of(options.get(name)) for name in OPTIONS}
        found["steps"] = options.get("fixed_steps") or found["steps"]
        if self.image is not None:  # then its size is what the order leaves open
            found |= {"width": None, "height": None}
        return replace(self, **{k: v for k, v in found.items() if v is not None and getattr(self, k) is None})

    def to_json(self) -> dict[str, Any]:
        """Return the order as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read an order back; fields of a newer version are ignored, missing ones take their defaults."""
        known = {field.name for field in fields(cls)}
        found = {key: value for key, value in data.items() if key in known}
        for name, kind in PARTS.items():
            if found.get(name) is not None:
                found[name] = extras.read(kind, found[name])
        for name, kind in LISTS.items():
            found[name] = extras.read_all(kind, found.get(name))
        found["embeddings"] = tuple(found.get("embeddings") or ())
        return cls(**found)


PARTS = {"mask": Mask, "hires": Hires, "upscale": Upscale}
LISTS = {"loras": Lora, "controls": Control}
"""Fields that have fields of their own: one of them, or several."""


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
    problems += _problems_of_seeds(spec)
    if spec.clip_skip is not None and not 1 <= spec.clip_skip <= MAX_CLIP_SKIP:
        problems.append(f"clip_skip must be between 1, the last layer, and {MAX_CLIP_SKIP}, not {spec.clip_skip}")
    if spec.scheduler is not None and spec.scheduler not in SCHEDULERS:
        problems.append(f"scheduler {samplers.why_unknown(spec.scheduler)}")
    if spec.image_format not in IMAGE_FORMATS:
        problems.append(f"image_format must be one of {', '.join(IMAGE_FORMATS)}, not {spec.image_format!r}")
    if spec.image_quality is not None and not 0 <= spec.image_quality <= MAX_QUALITY:
        problems.append(f"image_quality must be between 0 and {MAX_QUALITY}, not {spec.image_quality}")
    problems += extras.problems_of_loras(spec.loras)
    problems += extras.problems_of_pictures(spec.image, spec.strength, spec.mask, spec.resize_mode)
    problems += extras.problems_of_size(spec.hires, spec.upscale, spec.mask)
    problems += extras.problems_of_controls(spec.controls)
    problems += extras.problems_of_detecting(spec.detect, draws_nothing=spec.draws_nothing)
    if spec.remove_background and spec.image_format == "jpeg":
        problems.append("remove_background makes pictures see-through, which jpeg cannot be: image_format png or webp")
    return problems


def _problems_of_seeds(spec: GenerationSpec) -> list[str]:
    problems = []
    if spec.seed is not None and not 0 <= spec.seed <= MAX_SEED:
        problems.append(f"seed must be between 0 and {MAX_SEED}, not {spec.seed}; leave it out for a random one")
    if spec.subseed is not None and not 0 <= spec.subseed <= MAX_SEED:
        problems.append(f"subseed must be between 0 and {MAX_SEED}, not {spec.subseed}; leave it out for a random one")
    if not 0 <= spec.subseed_strength <= 1:
        problems.append(f"subseed_strength must be between 0 and 1, not {spec.subseed_strength}")
    return problems


UNSAID: Mapping[str, Any] = {
    **{key: [] for key in (*LISTS, "embeddings")},
    "resize_mode": "stretch",
    "safety_check": False,
}
"""What an order that brings nothing along has in its fields for that."""


def shown(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an order in JSON says, for people: what is open or not brought along is left out."""
    as_lists = {name: list(value) if isinstance(value, tuple) else value for name, value in spec.items()}
    return {name: value for name, value in as_lists.items() if value is not None and value != UNSAID.get(name, ...)}


OPTIONS: Mapping[str, type | tuple[type, ...]] = {
    "steps": int,
    "guidance_scale": (int, float),
    "width": int,
    "height": int,
    "scheduler": str,
    "clip_skip": int,
}
"""What a model's options may say about drawing with it, and of which type."""


def default_of(option: Any) -> Any:
    """Return an option's default: the value itself, or what `default` says where a range is given."""
    return option.get("default") if isinstance(option, Mapping) else option


def option_problems(options: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with a model's options.

    Each of OPTIONS is a value or, for numbers, {"min", "max", "default"}; `fixed_steps` (seed 004) is a number. Options
    of other names are let be: they belong to drivers and pages.
    """
    problems = []
    for name, kind in (*OPTIONS.items(), ("fixed_steps", int)):
        option = options.get(name)
        values = option.values() if isinstance(option, Mapping) else [option]
        if any(value is not None and (not isinstance(value, kind) or isinstance(value, bool)) for value in values):
            problems.append(f'options.{name} must be a value such as 20, or {{"min": 10, "max": 40, "default": 20}}')
    return problems
