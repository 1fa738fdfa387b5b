"""Draws with diffusers pipelines, on a GPU or, where there is none, on the CPU."""

import logging
from collections.abc import Iterator
from typing import Any

from app.core.spec import nth_seed
from tasks.machine.drivers import samplers
from tasks.machine.drivers.contract import CannotDraw, DriverSettings, ModelFiles, OnStep, Order, Picture, Step
from tasks.machine.drivers.estimate import Estimate
from tasks.machine.drivers.memory import shortage
from tasks.machine.drivers.noise import variation
from tasks.machine.drivers.orders import call_arguments
from tasks.machine.drivers.pipelines import Loaded, Pipelines
from tasks.machine.drivers.previews import Floats, image_shaped
from tasks.machine.drivers.prompts.conditioning import Conditioning, Prompts, conditioned
from tasks.machine.drivers.prompts.reading import without_networks

log = logging.getLogger(__name__)


class DiffusersDriver:
    """Keeps pipelines in memory while there is room, and draws one order at a time."""

    def __init__(self, settings: DriverSettings) -> None:
        import torch  # noqa: PLC0415  # seconds of import and hundreds of megabytes: for drawing workers only
        from diffusers.utils import logging as diffusers_logging  # noqa: PLC0415  # as above
        from transformers.utils import logging as transformers_logging  # noqa: PLC0415  # as above

        diffusers_logging.set_verbosity_error()
        diffusers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._torch = torch
        self._device = _choose_device(torch, settings.device)
        self.pipelines = Pipelines(torch, self._device, settings)
        log.info("drawing on %s", self.device()["name"])

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw the pictures of an order one after the other, each with its own generator."""
        try:
            on_step(Step("loading", 0, 0, 0))
            self.pipelines.plan_of(order.model).refuse(order.spec)
            with self.pipelines.borrowed(order) as loaded:
                if self._device == "cpu":
                    self._torch.set_num_threads(loaded.threads)
                for position in range(order.spec.n):
                    yield self._draw_one(loaded, order, position, on_step)
        except (RuntimeError, MemoryError) as exc:
            short = shortage(exc, self._torch, self._device)
            if short is None:
                raise
            log.warning("out of memory: %s", exc)
            self.free()
            raise short from exc

    def _draw_one(self, loaded: Loaded, order: Order, position: int, on_step: OnStep) -> Picture:
        spec, pipeline, family = order.spec, loaded.pipeline, loaded.family
        seed = nth_seed(spec.seed, position)
        wanted = call_arguments(family, spec)
        steps = int(wanted.get("num_inference_steps") or 0)
        pipeline.scheduler = samplers.make(
            loaded.scheduler,
            spec.scheduler,
            steps=steps or None,
            seeds=[seed],
            is_xl=family is not None and family.looks_like.startswith("sdxl"),
        )
        conditioning = _conditioning(loaded, order, wanted)

        latents: Any = None

        def seen() -> Floats:
            of_one = latents[0].detach().float().cpu().numpy().astype("float64")
            return image_shaped(of_one, spec.width, spec.height)

        def after_step(pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal latents
            latents = tensors["latents"]
            # Some samplers take more steps than asked for; the pipeline knows the true number.
            steps = int(pipe.num_timesteps)
            on_step(Step("denoising", index + 1, steps, position, lambda: loaded.colours.picture(seen())))
            if index + 1 == steps:
                on_step(Step("encoding", steps, steps, position))
            return conditioning.after(pipe, index)

        on_step(Step("denoising", 0, steps, position))
        with variation(pipeline, [nth_seed(spec.subseed, position)], spec.subseed_strength):
            result = pipeline(
                **wanted,
                **conditioning.arguments,
                # Noise from the CPU is the same on every device: a seed draws its picture anywhere.
                generator=self._torch.Generator("cpu").manual_seed(seed),
                callback_on_step_end=after_step,
            )
        if latents is not None:
            loaded.colours.learn(seen(), result.images[0])
        return Picture(result.images[0], seed, conditioning.notes)

    def estimate(self, model: ModelFiles, width: int | None = None, height: int | None = None) -> Estimate:
        """Say what drawing with a model will take, before it is loaded; raises CannotDraw."""
        return self.pipelines.estimate(model, width, height)

    def device(self) -> dict[str, Any]:
        """Describe what draws."""
        if self._device == "cuda":
            free, total = self._torch.cuda.mem_get_info()
            name = self._torch.cuda.get_device_name()
        else:
            import psutil  # noqa: PLC0415  # for drawing workers only

            memory = psutil.virtual_memory()
            free, total, name = memory.available, memory.total, f"CPU, {psutil.cpu_count()} cores"
        return {"type": self._device, "name": name, "memory_total": total, "memory_free": free}

    def loaded(self) -> list[str]:
        """Name the models that could draw at once."""
        return self.pipelines.cache.on_device()

    def free(self) -> None:
        """Give back the memory of all pipelines."""
        self.pipelines.free()


DEFAULT_STEPS = 50
"""What diffusers' pipelines take where nobody says; prompts that change are spread over them."""


def _conditioning(loaded: Loaded, order: Order, wanted: dict[str, Any]) -> Conditioning:
    """Read an order's prompts for the pipeline that draws them."""
    spec, family = order.spec, loaded.family
    words, networks = without_networks(spec.prompt)
    if networks:
        names = ", ".join(f"<{network.kind}:{network.name}>" for network in networks)
        raise CannotDraw(f"{names}: this version draws without networks named in the prompt; leave them out")
    takes_negative = family is None or family.takes_negative_prompt
    guidance = wanted.get("guidance_scale")
    prompts = Prompts(
        [words],
        [spec.negative_prompt if takes_negative else ""],
        steps=int(wanted.get("num_inference_steps") or DEFAULT_STEPS),
        clip_skip=spec.clip_skip,
        is_guided=guidance is None or guidance > 1,
    )
    return conditioned(loaded.pipeline, prompts)


def _choose_device(torch: Any, wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("DEVICE=cuda, and torch sees no CUDA device; DEVICE=auto falls back to the CPU")
    return wanted
