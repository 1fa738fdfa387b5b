"""What a machine does with a bell: claim the job, draw it, bring the pictures home."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from app.core.live import LiveStore, Progress
from app.core.spec import GenerationSpec
from tasks.machine.client import Claim, FleetClient
from tasks.machine.drivers.contract import DrawingCancelled, Driver, ModelFiles, OnStep, Order, Step
from tasks.machine.encode import encode
from tasks.machine.errors import FleetAway, MachineError, ModelNotProven, Refused
from tasks.machine.spool import Spool

log = logging.getLogger(__name__)

Key = tuple[UUID, int]
"""A job and the number of the attempt."""


class HandedBack(Exception):  # not an error: the machine stops, the job goes on elsewhere
    """This machine stops; the job goes back to its queue."""


@dataclass(slots=True)
class Timings:
    """Seconds by phase of one attempt."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens inside."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 4)


@dataclass(slots=True)
class Worker:
    """Draws one job at a time."""

    client: FleetClient
    live: LiveStore
    spool: Spool
    driver: Callable[[], Driver]
    files_of: Callable[[str, str | None], ModelFiles]
    """Return a proven model's files by id and family; raises ModelNotProven."""
    lease: Callable[[str], AbstractContextManager[None]] = lambda _model_id: nullcontext()
    """Held while a model draws, so that its files are not evicted meanwhile."""
    grace: float = 10.0
    """Seconds that a running job gets to end when the machine is told to stop."""
    device_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while anybody draws on this device: a pipeline used from two threads gives wrong pictures silently."""
    _drawing: set[Key] = field(default_factory=set)
    _abandoned: set[Key] = field(default_factory=set)
    _stop_at: float | None = None
    _delivering: threading.Lock = field(default_factory=threading.Lock)

    def run(self, job_id: UUID) -> None:
        """Look at a job that a bell was rung for."""
        if self._stop_at is not None:
            return
        try:
            claim = self.client.claim(job_id)
        except Refused as exc:
            log.info("job %s is not for us: %s", job_id, exc)
            return
        except FleetAway as exc:
            log.warning("job %s was not claimed: %s; the sweeper will ring again", job_id, exc)
            return
        key = (job_id, claim.attempt)
        self._drawing.add(key)
        try:
            self._draw(claim, key)
        finally:
            self._drawing.discard(key)
            self._abandoned.discard(key)

    def attempts(self) -> set[Key]:
        """Return what is being drawn or still has to be delivered."""
        return set(self._drawing) | self.spool.keys()

    def abandon(self, keys: set[Key]) -> None:
        """Stop drawing these at the next step: they no longer hold their jobs."""
        self._abandoned |= keys & self._drawing

    def stop(self) -> None:
        """Take no more jobs; the running one has `grace` seconds left, then it goes back."""
        self._stop_at = time.monotonic() + self.grace

    def deliver_rest(self) -> None:
        """Bring home what an API that was away did not take; quiet when there is nothing."""
        with self._delivering:
            for parcel in self.spool.parcels():
                if (parcel.job_id, parcel.attempt) in self._drawing:
                    continue
                status = self.spool.deliver(parcel, self.client)
                log.info("job %s: attempt %d delivered late, the job is %s", parcel.job_id, parcel.attempt, status)

    def _draw(self, claim: Claim, key: Key) -> None:
        timings = Timings()
        images: list[tuple[dict[str, Any], bytes]] = []
        try:
            images = self._pictures(claim, key, timings)
            outcome: dict[str, Any] = {"state": "completed"}
        except DrawingCancelled:
            log.info("job %s: attempt %d stopped, nobody wants it any more", *key)
            return
        except HandedBack:
            outcome = {"state": "lost", "error_code": "handed_back", "error": "the machine was stopped"}
        except ModelNotProven as exc:
            outcome = {"state": "lost", "error_code": exc.code, "error": str(exc)}
        except MachineError as exc:
            outcome = {
                "state": "error",
                "error_code": exc.code,
                "error": str(exc),
                "permanent": exc.permanent,
            }
        except Exception as exc:  # the outermost edge: one job's surprise must not end the machine
            log.exception("job %s: attempt %d failed", *key)
            outcome = {
                "state": "error",
                "error_code": "internal_error",
                "error": f"{type(exc).__name__}: {exc}",
            }
        parcel = self.spool.put(key, images, {**outcome, "timings": timings.seconds})
        try:
            with self._delivering:
                status = self.spool.deliver(parcel, self.client)
        except FleetAway as exc:
            log.warning("job %s: attempt %d is kept until the API takes it: %s", *key, exc)
            return
        log.info("job %s: attempt %d ended, the job is %s; %s", *key, status, timings.seconds)

    def _pictures(self, claim: Claim, key: Key, timings: Timings) -> list[tuple[dict[str, Any], bytes]]:
        spec = GenerationSpec.from_json(claim.spec)
        order = Order(spec, self.files_of(spec.model_id, claim.base))

        def on_step(step: Step) -> None:
            now = Progress(claim.attempt, step.phase, step.step, step.steps, step.image, spec.n)
            if self.live.report(claim.job_id, now) or key in self._abandoned:
                raise DrawingCancelled
            if self._stop_at is not None and time.monotonic() > self._stop_at:
                raise HandedBack

        on_step(Step("loading", 0, 0, 0))
        with timings.phase("starting"):
            driver = self.driver()
            self.device_lock.acquire()
        try:
            with self.lease(spec.model_id):
                return self._draw_all(driver, order, on_step, timings)
        finally:
            self.device_lock.release()

    def _draw_all(
        self,
        driver: Driver,
        order: Order,
        on_step: OnStep,
        timings: Timings,
    ) -> list[tuple[dict[str, Any], bytes]]:
        images: list[tuple[dict[str, Any], bytes]] = []
        drawn = driver.draw(order, on_step)
        while True:
            with timings.phase("drawing"):
                picture = next(drawn, None)
            if picture is None:
                return images
            with timings.phase("encoding"):
                images.append(encode(picture, order.spec))
