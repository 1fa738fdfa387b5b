"""One pass of a pipeline over the pictures of a batch: noise and words in, pictures out. High-res fix takes two."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import signature
from itertools import accumulate
from typing import Any

from PIL.Image import Image

from app.core.spec import GenerationSpec, nth_seed
from tasks.machine.drivers import samplers
from tasks.machine.drivers.adapters import Worn
from tasks.machine.drivers.company import Company
from tasks.machine.drivers.contract import DrawingCancelled, OnStep, Step
from tasks.machine.drivers.noise import variation
from tasks.machine.drivers.orders import call_arguments
from tasks.machine.drivers.pipelines import Loaded
from tasks.machine.drivers.previews import Floats, image_shaped
from tasks.machine.drivers.prompts.conditioning import Prompts, conditioned
from tasks.machine.drivers.prompts.conditioning import shape_of as conditioning_shape
from tasks.machine.drivers.rows import Rows
from tasks.machine.drivers.seats import Seat

DEFAULT_STEPS = 50
"""What diffusers' pipelines take where nobody says; prompts that change are spread over them."""


@dataclass(frozen=True, slots=True)
class Part:
    """The pictures of one order in a pass: they lie behind each other in its batch."""

    spec: GenerationSpec
    prompt: str
    """Without the networks that it names."""
    positions: Sequence[int]
    """Which pictures of the order."""
    on_step: OnStep
    """Told of the pass as if the order had it for itself."""


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
    parts: Sequence[Part] = ()
    """The orders that it draws pictures of, where they are several; then what the spec says is true for all of them,
    but for words and seeds. One that is cancelled leaves it."""
    rows: Rows | None = None
    """Notes what has left it, where there are parts."""

    @property
    def seeds(self) -> list[int]:
        """Return the seed of each picture of the order."""
        return [nth_seed(self.spec.seed, position) for position in self.positions]


def run(torch: Any, one: Pass, on_step: OnStep, *, output_type: str = "pil") -> tuple[list[Any], tuple[str, ...]]:
    """Draw the pictures of a pass, each with its own generator; returns them, and notes for their author.

    Where an order has left the pass, there is None in place of each of its pictures.

    `output_type` is diffusers': `pil` for pictures, `latent` for what they are decoded from.
    """
    spec, loaded, pipeline = one.spec, one.loaded, one.pipeline
    parts = one.parts or (Part(spec, one.worn.prompt, one.positions, on_step),)
    seeds = [nth_seed(part.spec.seed, position) for part in parts for position in part.positions]
    company, rows = Company([part.on_step for part in parts]), one.rows or Rows(len(seeds))
    firsts = list(accumulate((len(part.positions) for part in parts), initial=0))
    wanted = _taken_by(pipeline, call_arguments(loaded.family, spec))
    steps = int(wanted.get("num_inference_steps") or 0)
    pipeline.scheduler = samplers.make(
        loaded.scheduler,
        spec.scheduler,
        steps=steps or None,
        seeds=seeds,
        is_xl=loaded.family is not None and loaded.family.looks_like.startswith("sdxl"),
    )
    conditioning = conditioned(pipeline, _prompts(one, parts, wanted))
    latents: Any = None

    def seen(row: int) -> Floats:
        of_one = latents[row].detach().float().cpu().numpy().astype("float64")
        return image_shaped(of_one, spec.width, spec.height)

    def preview(row: int) -> Image:
        return loaded.colours.picture(seen(row))

    def tell(phase: str, step: int, steps: int, skip: Callable[[], None] | None = None) -> None:
        def of_part(place: int) -> Step:
            look = partial(preview, firsts[place]) if latents is not None and phase == "denoising" else None
            positions = parts[place].positions
            return Step(phase, step, steps, positions[0], look, images=len(positions), skip=skip)

        for place in company.tell(of_part):
            rows.leave(range(firsts[place], firsts[place + 1]), step)

    def after_step(pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal latents
        latents = tensors["latents"]
        # Some samplers take more steps than asked for; the pipeline knows the true number.
        steps = one.before + int(pipe.num_timesteps) + one.after
        done = one.before + index + 1
        # Of several orders each pays for the steps of all, and one of them cannot end what the others still need.
        tell("denoising", done, steps, partial(_end_early, pipe) if len(parts) == 1 and done < steps else None)
        if one.is_last and (done == steps or getattr(pipe, "interrupt", False)):
            tell("encoding", steps, steps)
        return conditioning.after(pipe, index)

    tell("denoising", one.before, one.before + (one.steps or steps) + one.after)
    subseeds = [nth_seed(part.spec.subseed, position) for part in parts for position in part.positions]
    with ExitStack() as held:
        held.enter_context(variation(pipeline, subseeds, spec.subseed_strength))
        if len(parts) > 1:
            held.enter_context(rows.narrowing(pipeline))
        result = pipeline(
            **wanted,
            **conditioning.arguments,
            **one.arguments,
            # Noise from the CPU is the same on every device: a seed draws its picture anywhere.
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            callback_on_step_end=after_step,
            output_type=output_type,
        )
    if latents is not None and output_type == "pil" and isinstance(result.images[0], Image):
        loaded.colours.learn(seen(rows.kept[0]), result.images[0])
    return rows.placed(result.images), conditioning.notes


def shape_of(one: Pass, part: Part) -> Hashable:
    """Say what of an order's words those that share its pass must have in common, to be read as they are alone.

    Raises CannotDraw for words that this pipeline can never be asked for.
    """
    wanted = _taken_by(one.pipeline, call_arguments(one.loaded.family, one.spec))
    return conditioning_shape(one.pipeline, _prompts(one, (part,), wanted))


def refilled(seat: Seat, own: Part) -> tuple[list[Part], int]:
    """Put pictures of an order back where they lay in a pass: in the rows of the others lies the first of them.

    `seat` is that of the first. A row that left the pass leaves it again after as many steps. Returns the parts of the
    pass, and the place of the own one.
    """
    leaving, end = dict(seat.left), seat.row + len(own.positions)

    def other(row: int) -> Part:
        return replace(own, positions=own.positions[:1], on_step=partial(_leave, leaving.get(row)))

    parts = [*map(other, range(seat.row)), own, *map(other, range(end, seat.together))]
    return parts, seat.row


def _leave(after: int | None, step: Step) -> None:
    if after is not None and step.step >= after:
        raise DrawingCancelled


def _end_early(pipeline: Any) -> None:
    """Have a pipeline leave out the steps that are left, and decode what is there; older ones draw to their end.

    Source: diffusers' documentation, "Pipeline callbacks", section "Dynamically stop generation". Each call forgets it.
    """
    pipeline._interrupt = True  # noqa: SLF001  # as documented


def _prompts(one: Pass, parts: Sequence[Part], wanted: Mapping[str, Any]) -> Prompts:
    """Put together the prompts of a pass, one for each picture."""
    family = one.loaded.family
    takes_negative = family is None or family.takes_negative_prompt
    guidance = wanted.get("guidance_scale")
    each = [part for part in parts for _ in part.positions]
    return Prompts(
        [part.prompt for part in each],
        [part.spec.negative_prompt if takes_negative else "" for part in each],
        steps=one.steps or int(wanted.get("num_inference_steps") or DEFAULT_STEPS),
        clip_skip=one.spec.clip_skip,
        is_guided=guidance is None or guidance > 1,
        vectors=one.worn.vectors,
    )


def _taken_by(pipeline: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a pipeline is not called with: some take their size from the picture that they begin with."""
    known = signature(type(pipeline).__call__).parameters
    return {name: value for name, value in arguments.items() if name in known}
