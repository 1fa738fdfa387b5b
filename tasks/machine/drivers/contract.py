"""The contract of a driver. A new one is one file, one row in the table, and the contract test passes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL.Image import Image

from app.core.spec import GenerationSpec
from tasks.machine.drivers.seats import Seat
from tasks.machine.errors import MachineError


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """What every driver is told at its start."""

    device: str = "auto"
    """`auto`, `cuda` or `cpu`."""
    gpu_memory: int = 0
    """Bytes that models may take on the GPU; 0: what is free there, less a reserve."""
    cpu_cache: int = 0
    """Bytes that models may take in the computer's memory; 0: what is free there, less a reserve."""
    allow_pickles: bool = False
    """Load files in Python's pickle format too, weights only."""
    folder: Path | None = None
    """Where a driver may keep what it has learnt of this machine; None: nowhere."""
    together: int = 0
    """Most pictures of an order that are drawn in one batch; 0: as many as is fast on this device, and fit."""
    compile: bool = False
    """Compile the networks' repeated blocks; the first picture of each kind then takes minutes."""
    attention: str = ""
    """diffusers' name of an attention backend; empty: its own choice."""
    step_seconds: float = 0.02
    """Of the fake driver's denoising step; a fast GPU's."""
    load_seconds: float = 0.0
    """Of the fake driver's bringing a model into memory."""
    server_url: str = ""
    """Of another server that draws, for a driver that only asks it."""
    server_auth: str = field(default="", repr=False)
    """`user:password`, or a bearer token."""
    server_seconds: float = 600.0
    """What that server may take for one answer."""
    server_away_seconds: float = 30.0
    """So long without a sign of life while it draws, and it is taken for gone."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A proven model on this machine."""

    model_id: str
    path: Path
    """Of its file or folder; where another server draws, what that server calls it."""
    proof: str
    """Changes when the file's content does; what is loaded under another proof is stale."""
    base: str | None = None
    """The family, where the catalogue names it."""
    variant: str | None = None
    """fp16, bf16 or fp32, where the catalogue names it."""
    hashes: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Proven hashes by path, relative to `path`; for a single file by its name. Equal ones are held in memory once."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the catalogue says about using it; see docs/drivers.md for those of each kind."""
    parts: tuple["ModelFiles", ...] = ()
    """What it depends on, and what those depend on. What kind each is, its files show."""

    @property
    def identity(self) -> str:
        """Changes when the model, or anything it depends on, does."""
        return "+".join([self.proof, *(part.proof for part in self.parts)])


@dataclass(frozen=True, slots=True)
class Order:
    """One job, ready to be drawn."""

    spec: GenerationSpec
    model: ModelFiles
    companions: Mapping[str, ModelFiles] = field(default_factory=dict)
    """Proven files of `spec.companions`, by id."""
    pictures: Mapping[str, Image] = field(default_factory=dict)
    """`spec.pictures`, decoded, by their SHA-256."""
    frugal: bool = False
    """Draw slower with less memory: it has run out of it once."""
    seats: Sequence[Seat] = ()
    """Where its pictures lay when they were drawn the first time, one for each: they are to be equal bit for bit."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawn picture. Its seed draws it again."""

    image: Image
    seed: int
    notes: tuple[str, ...] = ()
    """What of the order could not be kept to, in sentences for its author."""
    drawn_with: Mapping[str, Any] = field(default_factory=dict)
    """What drew it beside the order's files: versions, precision and the like, as plain JSON values for its receipt."""
    seat: Seat | None = None
    """Where it lay in its pass; None: nothing is known of that."""
    skipped_after: int | None = None
    """Somebody skipped it, and it is what was there after so many steps; None: it is whole."""


@dataclass(frozen=True, slots=True)
class Step:
    """A moment in the drawing at which progress can be told and the drawing be stopped."""

    phase: str
    """What happens from now on: `loading`, `denoising` or `encoding`."""
    step: int
    """How many denoising steps of this picture are done; 0 where they begin."""
    steps: int
    image: int
    """The picture, from 0; of several that are drawn together the first."""
    images: int = field(default=1, kw_only=True)
    """How many of the order are drawn together."""
    preview: Callable[[], Image] | None = field(default=None, compare=False, repr=False)
    """Makes a small picture of how far this is. Called from another thread, if at all, while the drawing goes on."""
    skip: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    """Ends the denoising here: the pictures of this step become what they are by now, and the next ones begin. Called
    by whoever is told of the step, before it returns, if at all; None: there is nothing to end, or no way to."""


OnStep = Callable[[Step], None]
"""Called where a phase begins and after each denoising step; it takes microseconds.

A driver that only waits may tell the same moment again, so that it is asked whether to go on.
Raises what stops the drawing at once: DrawingCancelled, and others that a driver need not know.
"""


class DrawingCancelled(Exception):  # not an error: somebody wished it
    """Nobody wants these pictures any more."""


class CannotDraw(MachineError):
    """This order cannot be drawn with this model."""

    code = "cannot_draw"
    permanent = True


class OutOfMemory(MachineError):
    """The device has not enough memory for this order."""

    code = "out_of_memory"

    def __init__(self, needed: int | None = None, available: int | None = None) -> None:
        """Take bytes: what the drawing would have held at once, and what it could have had; None where unknown."""
        super().__init__(f"out of memory: {_gigabytes(needed)} were needed, {_gigabytes(available)} were there")
        self.needed, self.available = needed, available


def _gigabytes(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / 1e9:.1f} GB"


@dataclass(frozen=True, slots=True)
class Weight:
    """What an engine takes, estimated. Bytes."""

    weights: int
    """Its networks."""
    drawing: int
    """One picture, beside them."""


class Pinning(Protocol):
    """Keeps engines in memory. `hold` and `let_go` are called while nothing is drawn; the rest at any time."""

    def weigh(self, order: Order) -> Weight:
        """Estimate what an engine takes whose orders are like this one; raises CannotDraw."""

    def hold(self, name: str, order: Order) -> int:
        """Load and pin an engine; returns what its networks take, measured, bytes. Raises CannotDraw, OutOfMemory."""

    def let_go(self, name: str) -> None:
        """Free an engine's memory, but for what other engines have too."""

    def holds(self, name: str) -> bool:
        """Say whether an engine is in memory."""

    def room(self) -> int | None:
        """Return how many bytes an engine more could have; None: nobody knows."""

    def most(self) -> int | None:
        """Return how many bytes an engine could have if no other were there."""


@runtime_checkable
class Batching(Protocol):
    """A driver that can draw several orders in one pass. Others draw them one after the other."""

    def draw_together(self, orders: Sequence[Order], on_steps: Sequence[OnStep]) -> Iterator[tuple[int, Picture]]:
        """Draw all pictures of orders that are alike (`app.core.alike`), in as few passes as memory and words allow.

        Returns each with the place of its order, those of one order in their order. Each picture is the one that its
        order draws alone, but for the rounding of sums, and has its seat. `on_steps` are told as `Driver.draw` tells,
        each of its own order. One that raises DrawingCancelled takes its order out: it is told nothing more, none of
        its pictures is returned, and none costs anything from the next step on. Raises DrawingCancelled when the last
        one has left, and what `Driver.draw` does; of an error nobody knows whose it is.
        """


class Driver(Protocol):
    """Draws orders, one at a time; see also Batching. One that holds engines has an attribute `pinned`, a Pinning."""

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
