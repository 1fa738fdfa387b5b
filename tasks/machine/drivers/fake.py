"""A driver that draws plain colour fields without any model: for load tests and tests of the job's life."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from itertools import accumulate
from typing import Any

from PIL import Image

from app.core.spec import nth_seed
from tasks.machine.drivers.company import Company
from tasks.machine.drivers.contract import DriverSettings, OnStep, Order, OutOfMemory, Picture, Step, Weight
from tasks.machine.drivers.seats import Seat
from tasks.machine.drivers.skipping import Cut

DEFAULT_SIZE = 64
DEFAULT_STEPS = 10
PREVIEW_SIZE = (32, 32)

ENGINE_BYTES = 10**6

Colour = tuple[int, int, int]


class FakePinned:
    """Holds engines that weigh a megabyte each."""

    def __init__(self, settings: DriverSettings) -> None:
        self._settings = settings
        self._held: set[str] = set()

    def weigh(self, order: Order) -> Weight:  # noqa: ARG002  # the contract's
        """Take all engines for equal."""
        return Weight(ENGINE_BYTES, 0)

    def hold(self, name: str, order: Order) -> int:  # noqa: ARG002  # the contract's
        """Take as long as bringing in a model takes."""
        room = self.room()
        if room is not None and room < ENGINE_BYTES:
            raise OutOfMemory(ENGINE_BYTES, room)
        time.sleep(self._settings.load_seconds)
        self._held.add(name)
        return ENGINE_BYTES

    def let_go(self, name: str) -> None:
        """Forget it."""
        self._held.discard(name)

    def holds(self, name: str) -> bool:
        """Say whether it was held and not let go."""
        return name in self._held

    def room(self) -> int | None:
        """Have what the settings give, or no limit."""
        most = self.most()
        return None if most is None else most - len(self._held) * ENGINE_BYTES

    def most(self) -> int | None:
        """Have what the settings give, or no limit."""
        return self._settings.gpu_memory or None


class FakeDriver:
    """Takes as many steps as asked for, and draws one colour that follows from model, prompt and seed.

    It holds one model, as a small GPU does, and bringing in another one takes as long as it is told.
    """

    def __init__(self, settings: DriverSettings) -> None:
        self._settings = settings
        self._held: str | None = None
        self.pinned = FakePinned(settings)

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw colour fields; the same order gives the same pictures."""
        spec = order.spec
        steps = spec.steps or DEFAULT_STEPS
        on_step(Step("loading", 0, 0, 0))
        self._hold(spec.model_id)
        for image in range(spec.n):
            seed, colour = nth_seed(spec.seed, image), _colour(order, image)
            cut = Cut()
            tell = cut.watched(on_step)
            tell(Step("denoising", 0, steps, image))
            for step in range(1, steps + 1):
                time.sleep(self._settings.step_seconds)
                look, skip = partial(_preview, colour, step / steps), _nothing if step < steps else None
                tell(Step("denoising", step, steps, image, look, skip=skip))
                if cut.after is not None:
                    break
            on_step(Step("encoding", steps, steps, image))
            size = _size(order)
            is_kept = spec.draws_nothing  # it is made larger, as by a real driver
            drawn = order.pictures[str(spec.image)].resize(size) if is_kept else Image.new("RGB", size, colour)
            yield Picture(drawn, seed, cut.notes, skipped_after=cut.after)

    def draw_together(self, orders: Sequence[Order], on_steps: Sequence[OnStep]) -> Iterator[tuple[int, Picture]]:
        """Draw the same colour fields; a pass takes as long as one picture, as on a GPU that is not full."""
        company = Company(on_steps)
        company.tell(lambda _: Step("loading", 0, 0, 0))
        self._hold(orders[0].spec.model_id)
        steps = orders[0].spec.steps or DEFAULT_STEPS
        firsts = list(accumulate((order.spec.n for order in orders), initial=0))
        left: list[tuple[int, int]] = []

        def tell(phase: str, step: int) -> None:
            def of_order(place: int) -> Step:
                is_seen = step and phase == "denoising"
                look = partial(_preview, _colour(orders[place], 0), step / steps) if is_seen else None
                return Step(phase, step, steps, 0, look, images=orders[place].spec.n)

            for place in company.tell(of_order):
                left.extend((row, step) for row in range(firsts[place], firsts[place + 1]))

        tell("denoising", 0)
        for step in range(1, steps + 1):
            time.sleep(self._settings.step_seconds)
            tell("denoising", step)
        tell("encoding", steps)
        for place in company.present:
            for image in range(orders[place].spec.n):
                field = Image.new("RGB", _size(orders[place]), _colour(orders[place], image))
                seat = Seat(firsts[-1], firsts[place] + image, tuple(left))
                yield place, Picture(field, nth_seed(orders[place].spec.seed, image), seat=seat)

    def _hold(self, model_id: str) -> None:
        if self._held == model_id:
            return
        self._held = None
        time.sleep(self._settings.load_seconds)
        self._held = model_id

    def device(self) -> dict[str, Any]:
        """Describe a device that is none."""
        return {"type": "fake", "name": "no device", "memory_total": 0, "memory_free": 0}

    def loaded(self) -> list[str]:
        """Name the model that was drawn with last."""
        return [self._held] if self._held else []

    def free(self) -> None:
        """Let go of it."""
        self._held = None


def _nothing() -> None:
    """End nothing: whoever asks is asked whether it was."""


def _colour(order: Order, image: int) -> Colour:
    """Return the colour of a picture of an order: nobody else's has it."""
    spec = order.spec
    drawn = sha256(f"{spec.model_id}\n{spec.prompt}\n{nth_seed(spec.seed, image)}".encode()).digest()
    return drawn[0], drawn[1], drawn[2]


def _size(order: Order) -> tuple[int, int]:
    """Return the size that a real driver would hand over."""
    spec = order.spec
    begun_with = order.pictures.get(spec.image or "")
    own = begun_with.size if begun_with else (DEFAULT_SIZE, DEFAULT_SIZE)
    scale = (spec.hires.scale if spec.hires else 1.0) * (spec.upscale.factor if spec.upscale else 1.0)
    return round((spec.width or own[0]) * scale), round((spec.height or own[1]) * scale)


def _preview(colour: Colour, done: float) -> Image.Image:
    """Show the colour coming out of grey."""
    red, green, blue = (round(128 + (value - 128) * done) for value in colour)
    return Image.new("RGB", PREVIEW_SIZE, (red, green, blue))
