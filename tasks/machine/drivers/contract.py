"""The contract of a driver. A new one is one file, one row in the table, and the contract test passes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

from app.core.spec import GenerationSpec
from tasks.machine.errors import MachineError


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """What every driver is told at its start."""

    device: str = "auto"
    """`auto`, `cuda` or `cpu`."""
    models_in_memory: int = 1


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A proven model on this machine."""

    model_id: str
    path: Path
    proof: str
    """Changes when the file's content does; what is loaded under another proof is stale."""
    base: str | None = None
    """The family, where the catalogue names it."""


@dataclass(frozen=True, slots=True)
class Order:
    """One job, ready to be drawn."""

    spec: GenerationSpec
    model: ModelFiles


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn picture. Its seed draws it again."""

    image: Image
    seed: int


@dataclass(frozen=True, slots=True)
class Step:
    """A moment in the drawing at which progress can be told and the drawing be stopped."""

    phase: str
    step: int
    steps: int
    image: int


OnStep = Callable[[Step], None]
"""Called at least once per denoising step; raises DrawingCancelled to stop the drawing at once."""


class DrawingCancelled(Exception):  # not an error: somebody wished it
    """Nobody wants these pictures any more."""


class CannotDraw(MachineError):
    """This order cannot be drawn with this model."""

    code = "cannot_draw"
    permanent = True


class OutOfMemory(MachineError):
    """The device has not enough memory for this order."""

    code = "out_of_memory"


class Driver(Protocol):
    """Draws orders, one at a time."""

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw `order.spec.n` pictures, one after the other.

        Raises CannotDraw for what this model can never draw, OutOfMemory, and passes on what `on_step` raises; after
        either it is as able to draw as before.
        """

    def device(self) -> dict[str, Any]:
        """Describe what draws: {"type", "name", "memory_total", "memory_free"}, bytes."""

    def loaded(self) -> list[str]:
        """Name the models that are in memory."""

    def free(self) -> None:
        """Give back the memory of everything that is loaded."""
