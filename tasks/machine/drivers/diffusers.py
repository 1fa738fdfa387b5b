"""Draws with diffusers pipelines, on a GPU or, where there is none, on the CPU."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from app.core.spec import nth_seed
from tasks.machine.drivers import companions, onnx
from tasks.machine.drivers.account import account
from tasks.machine.drivers.adapters import Wardrobe, words_of
from tasks.machine.drivers.batches import batches, passes, size_of_batches
from tasks.machine.drivers.beginnings import largest
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, OnStep, Order, Picture, Step
from tasks.machine.drivers.controls import steering
from tasks.machine.drivers.enlarging import Enlarger
from tasks.machine.drivers.estimate import Estimate
from tasks.machine.drivers.finishing import finished
from tasks.machine.drivers.ladder import WHOLE
from tasks.machine.drivers.memory import shortage
from tasks.machine.drivers.orders import task_of
from tasks.machine.drivers.painting import Easel
from tasks.machine.drivers.passes import Part, shape_of
from tasks.machine.drivers.pinned import Pinned
from tasks.machine.drivers.pipelines import Loaded, Pipelines, peak_key
from tasks.machine.drivers.safety import Checker, checking, unseen

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
        self._torch, self._settings = torch, settings
        self._device = _choose_device(torch, settings.device)
        self.pipelines = Pipelines(torch, self._device, settings)
        self.wardrobe = Wardrobe(self.pipelines, allow_pickles=settings.allow_pickles)
        self.pinned = Pinned(torch, self._device, self.pipelines, self.wardrobe)
        log.info("drawing on %s", self.device()["name"])

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw the pictures of an order, one or several at a time, each with its own generator."""
        if order.spec.safety_check:
            on_step = unseen(on_step)
        on_step(Step("loading", 0, 0, 0))
        with self._shortage_told():
            if order.spec.draws_nothing and not order.spec.safety_check:
                yield from Enlarger(self._torch, self.pipelines, order).kept(on_step)
                return
            with self._ready(order) as (easel, checker):
                for positions in batches(order.spec.n, self._together(easel.loaded, order)):
                    yield from self._draw_batch(easel, checker, positions, on_step)

    def draw_together(self, orders: Sequence[Order], on_steps: Sequence[OnStep]) -> Iterator[tuple[int, Picture]]:
        """Draw the pictures of several orders, all of those that are read in equally many pieces in one batch."""
        first, total = orders[0], sum(order.spec.n for order in orders)
        if first.spec.safety_check:
            on_steps = [unseen(on_step) for on_step in on_steps]
        for on_step in on_steps:
            on_step(Step("loading", 0, 0, 0))
        with self._shortage_told(), self._ready(first) as (easel, checker):
            parts = [
                Part(order.spec, words_of(order), range(order.spec.n), on_step)
                for order, on_step in zip(orders, on_steps, strict=True)
            ]
            shapes = [shape_of(easel.plain(), part) for part in parts]
            size = self._together(easel.loaded, replace(first, spec=replace(first.spec, n=total)), total)
            for places in passes(shapes, [order.spec.n for order in orders], size):
                count = sum(orders[place].spec.n for place in places)
                with self._measured(easel.loaded, first, count):
                    drawn, notes = easel.painted_together([parts[place] for place in places])
                known, images = account(self._torch, self._device, easel.loaded, together=count), iter(drawn)
                for place in places:
                    for position in range(orders[place].spec.n):
                        whole, more = finished(next(images), orders[place], checker)
                        seed, told = nth_seed(orders[place].spec.seed, position), (*easel.worn.notes, *notes, *more)
                        yield place, Picture(whole, seed, told, known, count)

    @contextmanager
    def _ready(self, order: Order) -> Iterator[tuple[Easel, Checker | None]]:
        """Hold all that an order is drawn with in memory for the length of the block."""
        self.pipelines.plan_of(order.model).refuse(order.spec, task_of(order.spec))
        with (
            self.pipelines.borrowed(self._largest(order), self._along(order)) as loaded,
            self.wardrobe.worn(loaded, _as_loaded(order, loaded)) as dressed,
            steering(self.pipelines, loaded, order) as steered,
            checking(self.pipelines, loaded, order) as checker,
        ):
            if self._device == "cpu":
                self._torch.set_num_threads(loaded.threads)
            yield Easel(self._torch, self.pipelines, loaded, dressed, steered, order), checker

    @contextmanager
    def _shortage_told(self) -> Iterator[None]:
        """Free all memory where it runs out in the block, and say so as OutOfMemory."""
        try:
            yield
        except (RuntimeError, MemoryError) as exc:
            short = shortage(exc, self._torch, self._device)
            if short is None:
                raise
            log.warning("out of memory: %s", exc)
            self.free()
            raise short from exc

    def _measured(self, loaded: Loaded, order: Order, count: int) -> AbstractContextManager[None]:
        """Measure what drawing so many pictures takes, where the model is drawn with as it is."""
        return self.pipelines.peaks.measured(peak_key(self._largest(order), count) if loaded.rung == WHOLE else None)

    def _largest(self, order: Order) -> Order:
        return largest(order, self.pipelines.plan_of(order.model).usual)

    def _along(self, order: Order) -> dict[str, int]:
        return companions.weigh(order, self.pipelines.dtype_of(self.pipelines.plan_of(order.model)))

    def _draw_batch(
        self, easel: Easel, checker: Checker | None, positions: Sequence[int], on_step: OnStep
    ) -> Iterator[Picture]:
        order = easel.order
        with self._measured(easel.loaded, order, len(positions)):
            drawn, notes = easel.painted(positions, on_step)
        known = account(self._torch, self._device, easel.loaded, together=len(positions))
        for position, image in zip(positions, drawn, strict=True):
            whole, more = finished(image, order, checker)
            seed = nth_seed(order.spec.seed, position)
            yield Picture(whole, seed, (*easel.worn.notes, *notes, *more), known, len(positions))

    def _together(self, loaded: Loaded, order: Order, most: int | None = None) -> int:
        """Say how many pictures of an order are drawn in one batch; `most` stands for the operator's word."""
        big, room = self._largest(order), self.pipelines.cache.room()
        return size_of_batches(
            order.spec,
            1 if order.frugal else self._settings.together if most is None else most,
            loaded.rung,
            room,
            lambda count: self.pipelines.activations(big, count),
            device=self._device,
        )

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
        """Give back the memory of all networks."""
        self.pipelines.free()
        self.wardrobe.clear()
        onnx.SESSIONS.clear()


def _as_loaded(order: Order, loaded: Loaded) -> Order:
    """Return an order as it is drawn: frugally too where its model was loaded so that it fits."""
    return replace(order, frugal=order.frugal or loaded.rung != WHOLE)


def _choose_device(torch: Any, wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("DEVICE=cuda, and torch sees no CUDA device; DEVICE=auto falls back to the CPU")
    return wanted
