"""Several attempts in one pass of a driver: each is told, stopped and brought home as if it were drawn alone."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from app import logs, tracing
from app.core import alike
from app.core.spec import GenerationSpec
from tasks.machine.client import Claim
from tasks.machine.courier import Homeward
from tasks.machine.draw import Drawing
from tasks.machine.drivers.contract import Batching, DrawingCancelled, Driver, OnStep, Order, OutOfMemory, Step
from tasks.machine.spool import Key
from tasks.machine.widths import Widths

log = logging.getLogger(__name__)

MEASURED = ("denoising", "encoding")
"""The phases that a pass is made of."""


@dataclass(slots=True)
class Sitting:
    """One attempt on its way through the drawing."""

    claim: Claim
    spec: GenerationSpec
    drawing: Drawing
    is_dropped: bool = False
    """Nobody wants it any more."""

    @property
    def key(self) -> Key:
        """Return which attempt it is."""
        return self.claim.job_id, self.claim.attempt

    @property
    def home(self) -> Homeward:
        """Return what brings its pictures home."""
        return self.drawing.home

    @property
    def is_drawn(self) -> bool:
        """Say whether all of its pictures are."""
        return self.home.taken == self.spec.n

    @property
    def seconds(self) -> float:
        """Return what its pass has taken so far, without loading."""
        taken = self.drawing.stopwatch.seconds()
        return sum(taken.get(phase, 0.0) for phase in MEASURED)

    @contextmanager
    def followed(self, what: str) -> Iterator[None]:
        """Let the lines and spans of the block be those of the attempt, in the trace of the request that ordered it."""
        claim = self.claim
        ids = {"job_id": claim.job_id, "attempt": claim.attempt}
        with logs.about(**ids), tracing.span(what, "internal", claim.traceparent, **ids) as span:
            yield
            if span is not None:
                for phase, seconds in self.drawing.stopwatch.seconds().items():
                    span.set_attribute(f"imagefleet.{phase}_seconds", seconds)


def draw_together(
    driver: Batching,
    sittings: Sequence[Sitting],
    orders: Sequence[Order],
    widths: Widths,
    on_dropped: Callable[[Sitting], None],
) -> None:
    """Draw the pictures of several attempts, and send them home.

    `on_dropped` is told at once of one that nobody wants any more; it leaves the pass, and the others are drawn on.
    Raises DrawingCancelled when nobody wants any, and what the driver raises.
    """
    kind, wanted = alike.kind_of(sittings[0].spec), sum(sitting.spec.n for sitting in sittings)
    on_steps = [_watched(sitting, on_dropped) for sitting in sittings]
    widest = 0
    with _shortage_noted(widths, kind, wanted):
        for place, picture in driver.draw_together(orders, on_steps):
            widest = max(widest, picture.seat.together if picture.seat else 1)
            sittings[place].home.take(picture)
    if widest < wanted:
        widths.limit(kind, widest)
    elif not any(sitting.is_dropped for sitting in sittings):
        widths.learn(kind, wanted, sittings[0].seconds)


def learn_alone(sitting: Sitting, widths: Widths, driver: Driver) -> None:
    """Learn from an order of one picture that was drawn by itself, at the first try, by a driver that could do more."""
    if not isinstance(driver, Batching) or sitting.home.is_redrawn or sitting.home.is_cut_short:
        return
    if sitting.spec.n == 1 and alike.key_of(sitting.spec) is not None:
        widths.learn(alike.kind_of(sitting.spec), 1, sitting.seconds)


def _watched(sitting: Sitting, on_dropped: Callable[[Sitting], None]) -> OnStep:
    """Make what is told of one attempt's steps."""

    def on_step(step: Step) -> None:
        try:
            sitting.drawing.on_step(step)
        except DrawingCancelled:
            sitting.is_dropped = True
            on_dropped(sitting)
            raise

    return on_step


@contextmanager
def _shortage_noted(widths: Widths, kind: str, wanted: int) -> Iterator[None]:
    try:
        yield
    except (OutOfMemory, MemoryError):
        widths.limit(kind, wanted // 2)
        raise
