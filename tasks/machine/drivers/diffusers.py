"""Draws with diffusers pipelines, on a GPU or, where there is none, on the CPU."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from tasks.machine.drivers.adapters import Worn, worn
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, OnStep, Order, Picture, Step
from tasks.machine.drivers.estimate import Estimate
from tasks.machine.drivers.finishing import finished
from tasks.machine.drivers.memory import shortage
from tasks.machine.drivers.orders import task_of
from tasks.machine.drivers.passes import Pass, run
from tasks.machine.drivers.pipelines import Loaded, Pipelines

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
            self.pipelines.plan_of(order.model).refuse(order.spec, task_of(order.spec))
            with self.pipelines.borrowed(order) as loaded, worn(loaded, order) as dressed:
                if self._device == "cpu":
                    self._torch.set_num_threads(loaded.threads)
                for position in range(order.spec.n):
                    yield from self._draw_batch(loaded, dressed, order, [position], on_step)
        except (RuntimeError, MemoryError) as exc:
            short = shortage(exc, self._torch, self._device)
            if short is None:
                raise
            log.warning("out of memory: %s", exc)
            self.free()
            raise short from exc

    def _draw_batch(
        self, loaded: Loaded, dressed: Worn, order: Order, positions: Sequence[int], on_step: OnStep
    ) -> Iterator[Picture]:
        spec = order.spec
        one = Pass(loaded, dressed, spec, positions, loaded.pipeline)
        drawn, notes = run(self._torch, one, on_step)
        for seed, image in zip(one.seeds, drawn, strict=True):
            whole, more = finished(image, order)
            yield Picture(whole, seed, (*dressed.notes, *notes, *more))

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


def _choose_device(torch: Any, wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("DEVICE=cuda, and torch sees no CUDA device; DEVICE=auto falls back to the CPU")
    return wanted
