"""The drawing of one attempt: its steps are timed, told and asked whether to go on; with less memory if it must be."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from tasks.machine.courier import Homeward
from tasks.machine.drivers.contract import Driver, Order, OutOfMemory, Step
from tasks.machine.reporter import Reporter
from tasks.machine.timings import Stopwatch

log = logging.getLogger(__name__)


class HandedBack(Exception):  # not an error: the machine stops, the job goes on elsewhere
    """This machine stops; the job goes back to its queue."""


class TooLittleMemory(OutOfMemory):
    """Not even the frugal way of drawing fits this device; another machine may have more."""

    def __init__(self, last: OutOfMemory) -> None:
        super().__init__(last.needed, last.available)
        self.args = (f"{last}, even with the model in parts and the picture in tiles",)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What watches over the steps of one attempt."""

    interrupt: Callable[[], None]
    """Raises what stops the drawing."""
    stopwatch: Stopwatch
    reporter: Reporter
    on_loaded: Callable[[], None]
    """Called when the model is in memory."""
    home: Homeward
    """Takes each picture as soon as it is drawn."""

    def on_step(self, step: Step) -> None:
        """Note a step; called by the driver from inside its denoising loop."""
        self.stopwatch.enter(step.phase)
        self.reporter.note(step)
        if step.phase == "denoising" and step.step == 0:
            self.on_loaded()
        self.interrupt()
        if step.skip is not None and self.reporter.is_skipped(step.image):
            step.skip()

    def draw(self, driver: Driver, order: Order) -> None:
        """Draw all pictures and send them home; where the memory runs out, free all of it and try once more with less.

        Raises what a driver raises, and OutOfMemory when it is not enough the second time either.
        """
        try:
            self._draw(driver, order)
        except OutOfMemory as exc:
            log.warning("%s; trying once more with less memory", str(exc))  # a kept record would keep the tensors
        else:
            return
        # Outside of the handler: the traceback would keep the tensors of the failed drawing alive.
        driver.free()
        self.home.begin_anew()
        try:
            self._draw(driver, replace(order, frugal=True))
        except OutOfMemory as exc:
            last = TooLittleMemory(exc)
        else:
            return
        driver.free()
        raise last

    def _draw(self, driver: Driver, order: Order) -> None:
        try:
            for picture in driver.draw(order, self.on_step):
                self.home.take(picture)
        except MemoryError as exc:  # of the computer itself: Python's, Pillow's
            raise OutOfMemory from exc
