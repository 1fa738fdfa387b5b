"""Draws with diffusers pipelines, on a GPU or, where there is none, on the CPU."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from app.core import alike
from app.core.spec import nth_seed
from tasks.machine.drivers import companions, onnx
from tasks.machine.drivers.account import account
from tasks.machine.drivers.adapters import Wardrobe, words_of
from tasks.machine.drivers.batches import batches, passes, size_of_batches
from tasks.machine.drivers.beginnings import largest
from tasks.machine.drivers.company import Company
from tasks.machine.drivers.contract import (
    DrawingCancelled,
    DriverSettings,
    ModelFiles,
    OnStep,
    Order,
    Picture,
    Step,
)
from tasks.machine.drivers.controls import steering
from tasks.machine.drivers.enlarging import Enlarger
from tasks.machine.drivers.estimate import Estimate
from tasks.machine.drivers.finishing import finished
from tasks.machine.drivers.ladder import WHOLE
from tasks.machine.drivers.memory import forget_peak, shortage
from tasks.machine.drivers.orders import task_of
from tasks.machine.drivers.painting import Easel
from tasks.machine.drivers.passes import Part, refilled, shape_of
from tasks.machine.drivers.pinned import Pinned
from tasks.machine.drivers.pipelines import Loaded, Pipelines, peak_key
from tasks.machine.drivers.rows import Rows
from tasks.machine.drivers.safety import Checker, checking, unseen
from tasks.machine.drivers.seats import Seat, groups
from tasks.machine.drivers.skipping import Cut

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
                if self._has_seats(easel):
                    yield from self._draw_again(easel, checker, on_step)
                    return
                for positions in batches(order.spec.n, self._together(easel.loaded, order)):
                    yield from self._draw_batch(easel, checker, positions, on_step)

    def draw_together(self, orders: Sequence[Order], on_steps: Sequence[OnStep]) -> Iterator[tuple[int, Picture]]:
        """Draw the pictures of several orders, all of those that are read in equally many pieces in one batch."""
        first = orders[0]
        if first.spec.safety_check:
            on_steps = [unseen(on_step) for on_step in on_steps]
        company = Company(on_steps)
        company.tell(lambda _: Step("loading", 0, 0, 0))
        with self._shortage_told(), self._ready(first) as (easel, checker):
            places = list(company.present)
            parts = [
                Part(orders[place].spec, words_of(orders[place]), range(orders[place].spec.n), company.watching(place))
                for place in places
            ]
            shapes, counts = [shape_of(easel.plain(), part) for part in parts], [len(part.positions) for part in parts]
            for sharing in passes(shapes, counts, self._width(easel.loaded, first, sum(counts))):
                try:
                    drawn = self._draw_parts(easel, checker, [parts[each] for each in sharing])
                except DrawingCancelled:
                    if not company.present:
                        raise
                    continue  # all of this pass have left, and others are in the next one
                yield from ((places[sharing[part]], picture) for part, picture in drawn)

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
        forget_peak(self._torch, self._device)
        try:
            yield
        except (RuntimeError, MemoryError) as exc:
            short = shortage(exc, self._torch, self._device)
            if short is None:
                raise
            log.warning("out of memory: %s", str(exc))  # a kept record would keep the tensors
            self.free()
            try:
                raise short from exc
            finally:
                del short  # or it and its traceback would hold each other, and all tensors of what failed

    def _measured(self, loaded: Loaded, order: Order, count: int) -> AbstractContextManager[None]:
        """Measure what drawing so many pictures takes, where the model is drawn with as it is."""
        return self.pipelines.peaks.measured(peak_key(self._largest(order), count) if loaded.rung == WHOLE else None)

    def _largest(self, order: Order) -> Order:
        return largest(order, self.pipelines.plan_of(order.model).usual)

    def _along(self, order: Order) -> dict[str, int]:
        return companions.weigh(order, self.pipelines.dtype_of(self.pipelines.plan_of(order.model)))

    def _draw_again(self, easel: Easel, checker: Checker | None, on_step: OnStep) -> Iterator[Picture]:
        """Draw the pictures of an order in the seats that they had, so that they are equal bit for bit."""
        order = easel.order
        for positions in groups(order.seats):
            seat = order.seats[positions[0]]
            if seat.together == len(positions):
                yield from self._draw_batch(easel, checker, positions, on_step)
                continue
            parts, own = refilled(seat, Part(order.spec, words_of(order), positions, on_step))
            for part, picture in self._draw_parts(easel, checker, parts):
                if part == own:
                    yield picture

    def _draw_parts(self, easel: Easel, checker: Checker | None, parts: Sequence[Part]) -> list[tuple[int, Picture]]:
        """Draw one pass over the pictures of several orders; returns them with the places of their parts."""
        rows = Rows(sum(len(part.positions) for part in parts))
        with self._measured(easel.loaded, easel.order, rows.count):
            drawn, notes = easel.painted_together(parts, rows)
        known, found = account(self._torch, self._device, easel.loaded), list[tuple[int, Picture]]()
        lying = [(place, position) for place, part in enumerate(parts) for position in part.positions]
        for row, ((place, position), image) in enumerate(zip(lying, drawn, strict=True)):
            if image is None:
                continue
            spec = parts[place].spec
            whole, more = finished(image, replace(easel.order, spec=spec), checker)
            told, seat = (*easel.worn.notes, *notes, *more), Seat(rows.count, row, tuple(rows.left))
            found.append((place, Picture(whole, nth_seed(spec.seed, position), told, known, seat)))
        return found

    def _draw_batch(
        self, easel: Easel, checker: Checker | None, positions: Sequence[int], on_step: OnStep
    ) -> Iterator[Picture]:
        order, cut = easel.order, Cut()
        with self._measured(easel.loaded, order, len(positions)):
            drawn, notes = easel.painted(positions, cut.watched(on_step))
        known = account(self._torch, self._device, easel.loaded)
        for row, (position, image) in enumerate(zip(positions, drawn, strict=True)):
            whole, more = finished(image, order, checker)
            seed = nth_seed(order.spec.seed, position)
            told = (*easel.worn.notes, *notes, *cut.notes, *more)
            yield Picture(whole, seed, told, known, Seat(len(positions), row), cut.after)

    def _has_seats(self, easel: Easel) -> bool:
        """Say whether an order is one that is drawn in the seats of its first time, and there is room for that."""
        order = easel.order
        if alike.key_of(order.spec) is None or len(order.seats) != order.spec.n:
            return False
        widest = max(seat.together for seat in order.seats)
        return self._width(easel.loaded, order, widest) == widest

    def _width(self, loaded: Loaded, order: Order, wanted: int) -> int:
        """Say how many pictures like those of an order are drawn in one pass, of so many that are wanted."""
        return self._together(loaded, replace(order, spec=replace(order.spec, n=wanted)), wanted)

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
