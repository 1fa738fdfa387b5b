"""Drivers for tests of what stands around them; they keep the contract."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tasks.machine.drivers.company import Company
from tasks.machine.drivers.contract import ModelFiles, OnStep, Order, Picture, Step
from tasks.machine.drivers.seats import Seat


@dataclass
class ScriptedDriver:
    """Draws plain pictures, and does in between what a test wants."""

    meanwhile: Callable[[Step], None] = lambda _: None
    preview: Callable[[], Image.Image] | None = None
    drawn: list[Order] = field(default_factory=list)
    freed: int = 0
    held: list[str] = field(default_factory=list)

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw, one step each."""
        self.drawn.append(order)
        on_step(Step("loading", 0, 0, 0))
        self.held = [order.spec.model_id]
        for position in range(order.spec.n):
            on_step(Step("denoising", 0, 1, position))
            step = Step("denoising", 1, 1, position, self.preview)
            self.meanwhile(step)
            on_step(step)
            on_step(Step("encoding", 1, 1, position))
            yield Picture(Image.new("RGB", (8, 8), (position, 0, 0)), (order.spec.seed or 0) + position)

    def device(self) -> dict[str, Any]:
        """Have no device."""
        return {}

    def loaded(self) -> list[str]:
        """Name the model that was drawn with last."""
        return list(self.held)

    def free(self) -> None:
        """Let go of it."""
        self.freed += 1
        self.held = []


def files_of(model_id: str, base: str | None) -> ModelFiles:
    """Find a file that no driver of these tests opens."""
    return ModelFiles(model_id, Path("model.bin"), "proof", base)


def raising(problem: Exception) -> Callable[[Step], None]:
    """Return what fails at every step."""

    def fail(_: Step) -> None:
        raise problem

    return fail


@dataclass
class BatchingDriver(ScriptedDriver):
    """Draws several orders in one pass too; `meanwhile` is told of each order's step."""

    passes: list[list[str]] = field(default_factory=list)
    """The prompts of each pass over several orders."""
    most: int = 100
    """Pictures that it has room for in one pass."""
    spoilt: Callable[[Sequence[Order]], None] = lambda _: None
    """Called behind the steps of a pass over several orders."""

    def draw_together(self, orders: Sequence[Order], on_steps: Sequence[OnStep]) -> Iterator[tuple[int, Picture]]:
        """Draw, one step for all of them."""
        self.passes.append([order.spec.prompt for order in orders])
        company = Company(on_steps)
        company.tell(lambda _: Step("loading", 0, 0, 0))
        company.tell(lambda place: Step("denoising", 0, 1, 0, images=orders[place].spec.n))

        def stepped(place: int) -> Step:
            step = Step("denoising", 1, 1, 0, images=orders[place].spec.n)
            self.meanwhile(step)
            return step

        company.tell(stepped)
        self.spoilt(orders)
        count = min(self.most, sum(order.spec.n for order in orders))
        for place, order in enumerate(orders):
            for position in range(order.spec.n if place in company.present else 0):
                image = Image.new("RGB", (8, 8), (position, 0, 0))
                yield place, Picture(image, (order.spec.seed or 0) + position, seat=Seat(count))
