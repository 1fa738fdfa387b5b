"""One batch of an order from its beginning to its end: the first pass, the second, put back, made larger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL.Image import Image

from app.core.extras import Hires
from app.core.spec import GenerationSpec
from tasks.machine.drivers import beginnings, hires
from tasks.machine.drivers.adapters import Worn
from tasks.machine.drivers.contract import OnStep, Order, Step
from tasks.machine.drivers.controls import Steering, drawn_size
from tasks.machine.drivers.enlarging import Enlarger
from tasks.machine.drivers.masks import Ground
from tasks.machine.drivers.passes import DEFAULT_STEPS, Part, Pass, run
from tasks.machine.drivers.pipelines import Loaded, Pipelines
from tasks.machine.drivers.rows import Rows
from tasks.machine.drivers.views import view

Notes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Easel:
    """What an order is drawn with."""

    torch: Any
    pipelines: Pipelines
    loaded: Loaded
    worn: Worn
    steered: Steering
    order: Order

    @property
    def enlarger(self) -> Enlarger:
        """Return what makes its pictures larger."""
        return Enlarger(self.torch, self.pipelines, self.order)

    def painted(self, positions: Sequence[int], on_step: OnStep) -> tuple[list[Image], Notes]:
        """Draw these pictures of the order as one batch; returns them, and notes for their author.

        Raises CannotDraw for what this model cannot do.
        """
        spec = beginnings.sized(self.order, self.loaded)
        if spec.hires is not None:
            hires.refuse_unless_possible(spec.hires, self.loaded.family, self.loaded.plan.task)
        if spec.image is None:
            found, notes = self._from_text(spec, positions, on_step)
        else:
            found, notes = self._from_picture(spec, positions, on_step)
        if spec.upscale is not None:
            found = [self.enlarger.upscaled(each, spec.upscale, positions[0], on_step) for each in found]
        return found, notes

    def painted_together(self, parts: Sequence[Part], rows: Rows) -> tuple[list[Image | None], Notes]:
        """Draw the pictures of several orders that are alike (`app.core.alike`) as one batch, in their order.

        `rows` are those of the batch. There is None for each picture of an order that has left the pass.
        """
        return self._run(replace(self.plain(), parts=parts, rows=rows), lambda _: None)

    def plain(self) -> Pass:
        """Return the pass over all pictures of an order that draws from text alone."""
        return self._pass(self.order.spec, range(self.order.spec.n), "txt2img")

    def _from_text(self, spec: GenerationSpec, positions: Sequence[int], on_step: OnStep) -> tuple[list[Image], Notes]:
        if spec.hires is None:
            return self._run(self._pass(spec, positions, "txt2img"), on_step)
        size = drawn_size(self.loaded, spec)
        spec = replace(spec, width=size[0], height=size[1])
        return self._second(self._pass(spec, positions, "txt2img"), size, on_step)

    def _from_picture(
        self, spec: GenerationSpec, positions: Sequence[int], on_step: OnStep
    ) -> tuple[list[Image], Notes]:
        strength, start = beginnings.strength_of(spec), beginnings.ground_of(self.order, spec)
        if strength < beginnings.LEAST_STRENGTH:
            on_step(Step("denoising", 0, 0, positions[0]))
            return [start.with_drawn(start.whole or start.picture) for _ in positions], start.notes
        steps = max(self._usual_steps(spec), beginnings.steps_for(1, strength, self.loaded.family))
        first = self._begun(replace(spec, steps=steps), positions, start, strength)
        if spec.hires is not None:
            size = (int(spec.width or 0), int(spec.height or 0))
            found, notes = self._second(first, size, on_step)
        else:
            fill = spec.mask.fill if spec.mask else "original"
            with beginnings.refilled(self.torch, first.pipeline, start, fill, first.seeds):
                found, notes = self._run(first, on_step)
        return [start.with_drawn(each) for each in found], (*start.notes, *notes)

    def _pass(
        self, spec: GenerationSpec, positions: Sequence[int], task: str, given: Mapping[str, Any] | None = None
    ) -> Pass:
        """Make a pass of a task, steered as the order says."""
        networks = self.steered.networks
        if networks:
            task = "controlnet" if task == "txt2img" else f"controlnet_{task}"
        pipeline = view(self.loaded, task, networks)
        steering = self.steered.arguments(pipeline, self.loaded, spec)
        return Pass(self.loaded, self.worn, spec, positions, pipeline, {**(given or {}), **steering})

    def _begun(self, spec: GenerationSpec, positions: Sequence[int], start: Ground, strength: float) -> Pass:
        """Make a pass that begins with a picture."""
        plan = self.loaded.plan
        if start.mask is None and plan.task == "inpaint":
            start = beginnings.all_of_it(start.picture)
        given = beginnings.picture_arguments(start, strength, len(positions))
        task = "img2img" if start.mask is None else "inpaint"
        steps = beginnings.taken(spec.steps or 1, strength, self.loaded.family)
        return replace(self._pass(spec, positions, task, given), steps=steps)

    def _run(self, one: Pass, on_step: OnStep, output_type: str = "pil") -> tuple[list[Any], Notes]:
        try:
            with self.steered.still(one.pipeline):
                return run(self.torch, one, on_step, output_type=output_type)
        finally:
            # A frugal pipeline moves its networks about, only it knows of them, and what stops a drawing leaves one of
            # them on the device.
            self.loaded.pipeline.maybe_free_model_hooks()

    def _second(self, first: Pass, size: tuple[int, int], on_step: OnStep) -> tuple[list[Image], Notes]:
        """Run the first pass, make its outcome larger, and go over it again with the seeds of the first."""
        wanted = first.spec.hires or Hires()
        first = replace(first, after=wanted.steps or self._usual_steps(first.spec))
        large = beginnings.hires_size(size, wanted.scale, self.loaded.family)
        is_redrawn = wanted.strength >= beginnings.LEAST_STRENGTH
        quiet = replace(first, is_last=False) if is_redrawn else first
        start: Any
        if hires.is_latent(wanted) and is_redrawn:
            latents, notes = self._run(quiet, on_step, "latent")
            start = hires.larger(self.torch, first.pipeline, self.torch.stack(latents), (size, large), wanted.upscaler)
        else:
            drawn, notes = self._run(quiet, on_step)
            name = "Lanczos" if hires.is_latent(wanted) else wanted.upscaler
            start = [self.enlarger.enlarged(each, large, name, lambda: None) for each in drawn]
        if not is_redrawn:
            return start, notes
        steps = beginnings.steps_for(first.after, wanted.strength, self.loaded.family)
        spec = replace(first.spec, width=large[0], height=large[1], steps=steps)
        given = {"image": start, "strength": wanted.strength}
        second = replace(
            self._pass(spec, first.positions, "img2img", given),
            before=int(first.pipeline.num_timesteps),
            steps=first.after,
        )
        found, more = self._run(second, on_step)
        return found, tuple(dict.fromkeys((*notes, *more)))

    def _usual_steps(self, spec: GenerationSpec) -> int:
        return spec.steps or (self.loaded.family.steps if self.loaded.family else DEFAULT_STEPS)
