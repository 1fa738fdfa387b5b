"""One pass of a pipeline over the pictures of a batch: noise and words in, pictures out. High-res fix takes two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from PIL.Image import Image

from app.core.spec import GenerationSpec, nth_seed
from tasks.machine.drivers import samplers
from tasks.machine.drivers.adapters import Worn
from tasks.machine.drivers.contract import OnStep, Step
from tasks.machine.drivers.noise import variation
from tasks.machine.drivers.orders import call_arguments
from tasks.machine.drivers.pipelines import Loaded
from tasks.machine.drivers.previews import Floats, image_shaped
from tasks.machine.drivers.prompts.conditioning import Conditioning, Prompts, conditioned

DEFAULT_STEPS = 50
"""What diffusers' pipelines take where nobody says; prompts that change are spread over them."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass is about."""

    loaded: Loaded
    worn: Worn
    spec: GenerationSpec
    """With the size and the steps of this pass."""
    positions: Sequence[int]
    """Which pictures of the order are drawn in it, as one batch."""
    pipeline: Any
    """The loaded one, or a view of its networks for another task."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the call takes beside words, size, steps and guidance: pictures, strength, what steers."""
    steps: int | None = None
    """How many steps are taken, where it is not all that the scheduler is made for: from a picture, only the last."""
    before: int = 0
    """Steps of the pass before this one, for the progress of both."""
    after: int = 0
    """Steps of the pass after this one."""
    is_last: bool = True
    """False: another pass goes over what comes out."""

    @property
    def seeds(self) -> list[int]:
        """Return the seed of each picture."""
        return [nth_seed(self.spec.seed, position) for position in self.positions]


def run(torch: Any, one: Pass, on_step: OnStep, *, output_type: str = "pil") -> tuple[list[Any], tuple[str, ...]]:
    """Draw the pictures of a pass, each with its own generator; returns them, and notes for their author.

    `output_type` is diffusers': `pil` for pictures, `latent` for what they are decoded from.
    """
    spec, loaded, pipeline = one.spec, one.loaded, one.pipeline
    wanted = _taken_by(pipeline, call_arguments(loaded.family, spec))
    steps = int(wanted.get("num_inference_steps") or 0)
    pipeline.scheduler = samplers.make(
        loaded.scheduler,
        spec.scheduler,
        steps=steps or None,
        seeds=one.seeds,
        is_xl=loaded.family is not None and loaded.family.looks_like.startswith("sdxl"),
    )
    conditioning = _conditioning(one, wanted)
    first, count = one.positions[0], len(one.positions)
    latents: Any = None

    def seen(row: int = 0) -> Floats:
        of_one = latents[row].detach().float().cpu().numpy().astype("float64")
        return image_shaped(of_one, spec.width, spec.height)

    def preview() -> Image:
        return loaded.colours.picture(seen())

    def after_step(pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal latents
        latents = tensors["latents"]
        # Some samplers take more steps than asked for; the pipeline knows the true number.
        steps = one.before + int(pipe.num_timesteps) + one.after
        on_step(Step("denoising", one.before + index + 1, steps, first, preview, images=count))
        if one.is_last and one.before + index + 1 == steps:
            on_step(Step("encoding", steps, steps, first, images=count))
        return conditioning.after(pipe, index)

    on_step(Step("denoising", one.before, one.before + (one.steps or steps) + one.after, first, images=count))
    subseeds = [nth_seed(spec.subseed, position) for position in one.positions]
    with variation(pipeline, subseeds, spec.subseed_strength):
        result = pipeline(
            **wanted,
            **conditioning.arguments,
            **one.arguments,
            # Noise from the CPU is the same on every device: a seed draws its picture anywhere.
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in one.seeds],
            callback_on_step_end=after_step,
            output_type=output_type,
        )
    if latents is not None and output_type == "pil" and isinstance(result.images[0], Image):
        loaded.colours.learn(seen(), result.images[0])
    return list(result.images), conditioning.notes


def _conditioning(one: Pass, wanted: Mapping[str, Any]) -> Conditioning:
    """Read an order's prompts for the pipeline that draws them."""
    family, count = one.loaded.family, len(one.positions)
    takes_negative = family is None or family.takes_negative_prompt
    guidance = wanted.get("guidance_scale")
    prompts = Prompts(
        [one.worn.prompt] * count,
        [one.spec.negative_prompt if takes_negative else ""] * count,
        steps=one.steps or int(wanted.get("num_inference_steps") or DEFAULT_STEPS),
        clip_skip=one.spec.clip_skip,
        is_guided=guidance is None or guidance > 1,
        vectors=one.worn.vectors,
    )
    return conditioned(one.pipeline, prompts)


def _taken_by(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a pipeline is not called with: some take their size from the picture that they begin with."""
    known = signature(type(pipeline).__call__).parameters
    return {name: value for name, value in arguments.items() if name in known}
