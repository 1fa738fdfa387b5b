"""What a machine does with a bell: claim the job, draw it, bring the pictures home."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import UUID

from PIL.Image import Image

from app.core.live import LiveStore
from app.core.spec import GenerationSpec
from tasks.machine.client import Claim, FleetClient
from tasks.machine.companions import CompanionsOf, at_hand
from tasks.machine.courier import Courier, Homeward
from tasks.machine.draw import Drawing, HandedBack
from tasks.machine.drivers.contract import Batching, DrawingCancelled, Driver, ModelFiles, Order, Step
from tasks.machine.errors import FleetAway, MachineError, ModelNotProven, Refused, TurnedAway
from tasks.machine.pictures import no_pictures
from tasks.machine.reporter import Reporter
from tasks.machine.spool import Key, Spool, Unsent
from tasks.machine.timings import Stopwatch
from tasks.machine.together import Sitting, draw_together, learn_alone
from tasks.machine.widths import Widths

log = logging.getLogger(__name__)

HAND_BACK_SECONDS = 1.0
"""So long after its grace a drawing that has not come to a step is given back over its head."""


def _failure(key: Key, exc: Exception) -> dict[str, Any]:
    """Say how an attempt ended that could not be drawn."""
    if isinstance(exc, MachineError):
        return {"state": "error", "error_code": exc.code, "error": str(exc), "permanent": exc.permanent}
    log.error("job %s: attempt %d failed", *key, exc_info=exc)
    return {"state": "error", "error_code": "internal_error", "error": f"{type(exc).__name__}: {exc}"}


@dataclass(slots=True)
class Worker:
    """Draws one job at a time, or several in one pass."""

    client: FleetClient
    live: LiveStore
    spool: Spool
    driver: Callable[[], Driver]
    files_of: Callable[[str, str | None], ModelFiles]
    """Return a proven model's files by id and family; raises ModelNotProven."""
    companions_of: CompanionsOf | None = None
    """Return what an order needs beside its model, brought here first where it must be; None: what is at hand."""
    pictures_of: Callable[[Sequence[str]], Mapping[str, Image]] = no_pictures
    """Fetch the pictures that an order names by their SHA-256, and decode them."""
    lease: Callable[[str], AbstractContextManager[None]] = lambda _model_id: nullcontext()
    """Held while a model draws, so that its files are not evicted meanwhile."""
    grace: float = 30.0
    """Seconds that a running job gets to end when the machine is told to stop."""
    preview_seconds: float = 1.0
    device_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while anybody draws on this device: a pipeline used from two threads gives wrong pictures silently."""
    on_model: Callable[[str], None] = lambda _model_id: None
    """Told which model is in memory, when drawing with it begins."""
    on_turned_away: Callable[[str], None] = lambda _reason: None
    """Told why the fleet gives this machine no jobs."""
    courier: Courier = field(default_factory=Courier)
    """Encodes pictures and brings them home beside the drawing; this one lets no job begin before the last is home."""
    widths: Widths = field(default_factory=Widths)
    """Learns how many pictures are drawn in one pass; this one: each order alone."""
    swaps: int = 0
    """How often a pipeline left the memory for another."""
    hits: int = 0
    """How often a pipeline was in memory already when it was to draw."""
    misses: int = 0
    claims: int = 0
    """How often it was given something to draw."""
    _drawing: set[Key] = field(default_factory=set)
    _homeward: set[Key] = field(default_factory=set)
    """Drawn, and on their way to the API."""
    _abandoned: set[Key] = field(default_factory=set)
    _stop_at: float | None = None

    def run(self, job_id: UUID) -> None:
        """Look at the queue of a job that a bell was rung for; the fleet may give out another job of that queue."""
        if self._stop_at is not None:
            return
        try:
            claim = self.client.claim(job_id, self.widths.wanted())
        except TurnedAway as exc:
            log.warning("the fleet gives this machine no jobs: %s", exc)
            self.on_turned_away(str(exc))
            return
        except Refused as exc:
            log.info("job %s is not for us: %s", job_id, exc)
            return
        except FleetAway as exc:
            log.warning("job %s was not claimed: %s; the sweeper will ring again", job_id, exc)
            return
        self.claims += 1
        claims = (claim, *claim.also)
        keys = {(each.job_id, each.attempt) for each in claims}
        self._drawing |= keys
        try:
            self._work_on([self._sit_down(each) for each in claims])
        finally:
            self._drawing -= keys
            self._abandoned -= keys

    def attempts(self) -> set[Key]:
        """Return what is being drawn or still has to be delivered."""
        return set(self._drawing) | set(self._homeward) | self.spool.keys()

    def abandon(self, keys: set[Key]) -> None:
        """Stop drawing these at the next step: they no longer hold their jobs."""
        self._abandoned |= keys & self._drawing

    def stop(self) -> None:
        """Take no more jobs; the running one has `grace` seconds left, then it goes back. Told twice: at once."""
        seconds = self.grace if self._stop_at is None else 0.0
        self._stop_at = time.monotonic() + seconds
        timer = threading.Timer(max(0.0, seconds) + HAND_BACK_SECONDS, self._hand_back)
        timer.daemon = True
        timer.start()
        if not self._drawing:
            return
        if seconds > 0:
            log.info("stopping: the running job has %g s left; told again, it is handed back at once", seconds)
        else:
            log.info("stopping: the running job is handed back at once")

    def deliver_rest(self) -> None:
        """Bring home what an API that was away did not take; quiet when there is nothing. Raises FleetAway."""
        away: FleetAway | None = None
        for parcel in self.spool.parcels():
            if parcel.key in self._drawing or parcel.key in self._homeward:
                continue
            try:
                status = self.spool.deliver(parcel, self.client)
            except FleetAway as exc:  # perhaps for this one only
                away = exc
                continue
            log.info("job %s: attempt %d delivered late, the job is %s", *parcel.key, status)
        if away is not None:
            raise away

    def _hand_back(self) -> None:
        """Give back what has not come to a step since its time was up: a model that loads cannot be interrupted."""
        outcome = {"state": "lost", "error_code": "handed_back", "error": "the machine was stopped"}
        for key in self._drawing - self._homeward - self.spool.keys() - self._abandoned:
            try:
                self.client.finish(*key, outcome)
            except (FleetAway, Refused) as exc:
                log.warning("job %s: attempt %d was not handed back: %s", *key, exc)
                continue
            self._abandoned.add(key)
            log.info("job %s: attempt %d was handed back before it came to a step", *key)

    def _sit_down(self, claim: Claim) -> Sitting:
        key = (claim.job_id, claim.attempt)
        spec = GenerationSpec.from_json(claim.spec)
        home = Homeward(key, self.courier, self.client, on_fenced=partial(self.abandon, {key}))
        reporter = Reporter(self.live, key, spec.n, self.preview_seconds)
        on_loaded = partial(self.on_model, spec.model_id)
        drawing = Drawing(self._interrupt_of(key, reporter), Stopwatch("starting"), reporter, on_loaded, home)
        return Sitting(claim, spec, drawing)

    def _work_on(self, sittings: Sequence[Sitting]) -> None:
        for sitting in sittings:
            sitting.drawing.reporter.start()
        if len(sittings) > 1:
            with sittings[0].followed("draw together"):
                self._draw_together(sittings)
        for sitting in sittings:
            with sitting.followed("draw"):
                outcome = None if sitting.is_dropped else self._outcome_of(sitting)
            if outcome is None:
                sitting.drawing.reporter.end()
                continue
            if len(sittings) == 1 and sitting.is_drawn:
                learn_alone(sitting, self.widths, self.driver())
            sitting.drawing.stopwatch.enter("uploading")
            self._homeward.add(sitting.key)
            self.courier.give(partial(self._end, sitting, outcome, time.monotonic()))
        self.courier.end_job()  # those of a batch count as one

    def _draw_together(self, sittings: Sequence[Sitting]) -> None:
        """Draw several attempts in one pass; whatever goes wrong, what is not drawn then is drawn alone."""
        try:
            with ExitStack() as held:
                orders = [held.enter_context(self._ordered(each)) for each in sittings]
                driver = self.driver()
                held.enter_context(self._device(driver, orders[0]))
                if isinstance(driver, Batching):
                    draw_together(driver, sittings, orders, self.widths, self._drop)
        except (DrawingCancelled, HandedBack):
            return  # each is asked once more when it is looked at alone
        except Exception as exc:  # one job's trouble must not become that of the others
            keys = ", ".join(str(each.key[0]) for each in sittings)
            surprise = None if isinstance(exc, MachineError) else exc
            log.warning("jobs %s are drawn one by one, in one pass they cannot be: %s", keys, exc, exc_info=surprise)

    def _drop(self, sitting: Sitting) -> None:
        """Forget an attempt that nobody wants any more."""
        log.info("job %s: attempt %d stopped, nobody wants it any more", *sitting.key)
        self._drawing.discard(sitting.key)
        sitting.home.drop()
        sitting.drawing.reporter.finish()

    def _outcome_of(self, sitting: Sitting) -> dict[str, Any] | None:
        """Draw an attempt unless it is drawn already; say how it ended, None when nobody wants it any more."""
        try:
            if not sitting.is_drawn:
                self._draw(sitting)
        except DrawingCancelled:
            sitting.is_dropped = True
            self._drop(sitting)
            return None
        except HandedBack:
            return {"state": "lost", "error_code": "handed_back", "error": "the machine was stopped"}
        except (ModelNotProven, FleetAway) as exc:
            return {"state": "lost", "error_code": exc.code, "error": str(exc)}
        except Exception as exc:  # noqa: BLE001  # the outermost edge: one job's surprise must not end the machine
            return _failure(sitting.key, exc)
        return {"state": "completed"}

    def _end(self, sitting: Sitting, outcome: dict[str, Any], drawn_at: float) -> None:
        """Bring home what was drawn, and tell how it ended; on the courier's thread, behind the pictures."""
        home, stopwatch, reporter = sitting.home, sitting.drawing.stopwatch, sitting.drawing.reporter
        with sitting.followed("bring home"):
            try:
                began, ended = home.encoding
                stopwatch.lend(ended - max(began, drawn_at), "encoding")
                unsent: Unsent = {}
                if outcome["state"] == "completed" and home.problem is not None:
                    outcome = _failure(home.key, home.problem)
                elif outcome["state"] == "completed":
                    unsent, outcome = home.unsent, {**outcome, "receipts": home.receipts}
                reporter.note_phase("uploading")
                reporter.finish()
                self._bring_home(home.key, unsent, {**outcome, "timings": stopwatch.seconds()}, reporter)
            finally:
                self._homeward.discard(home.key)
                reporter.end()

    def _bring_home(self, key: Key, images: Unsent, outcome: dict[str, Any], reporter: Reporter) -> None:
        parcel = self.spool.put(key, images, outcome)
        try:
            status = self.spool.deliver(parcel, self.client, before_end=reporter.join)
        except FleetAway as exc:
            log.warning("job %s: attempt %d is kept until the API takes it: %s", *key, exc)
            return
        log.info("job %s: attempt %d ended, the job is %s; %s", *key, status, outcome["timings"])

    def _interrupt_of(self, key: Key, reporter: Reporter) -> Callable[[], None]:
        def interrupt() -> None:
            if reporter.unwanted or key in self._abandoned:
                raise DrawingCancelled
            if self._stop_at is not None and time.monotonic() >= self._stop_at:
                raise HandedBack

        return interrupt

    def _draw(self, sitting: Sitting) -> None:
        if sitting.home.taken:
            sitting.home.begin_anew()
        with self._ordered(sitting) as order:
            driver = self.driver()
            with self._device(driver, order):
                sitting.drawing.draw(driver, order)

    @contextmanager
    def _ordered(self, sitting: Sitting) -> Iterator[Order]:
        """Make an order of an attempt, with models that are not evicted in the length of the block."""
        claim, spec, drawing = sitting.claim, sitting.spec, sitting.drawing
        drawing.on_step(Step("starting", 0, 0, 0))
        with ExitStack() as leases:
            for each in (spec.model_id, *spec.companions):
                leases.enter_context(self.lease(each))
            model = replace(self.files_of(spec.model_id, claim.base), variant=claim.variant)
            bases = {model_id: about.get("base") for model_id, about in claim.companions.items()}
            companions = (self.companions_of or partial(at_hand, self.files_of))(
                spec.companions, bases, drawing.on_step
            )
            companions = {
                each: replace(files, options=claim.companions.get(each, {}).get("options") or {})
                for each, files in companions.items()
            }
            if spec.pictures:
                drawing.on_step(Step("fetching", 0, 0, 0))
            order = Order(spec, model, companions, self.pictures_of(spec.pictures), seats=claim.seats)
            drawing.home.expect(order, str(self.driver().device().get("name", "")))
            yield order

    @contextmanager
    def _device(self, driver: Driver, order: Order) -> Iterator[None]:
        """Have the device alone for the length of the block, and count what leaves its memory."""
        with self.device_lock:
            before = set(driver.loaded())
            if order.spec.model_id in before:
                self.hits += 1
            else:
                self.misses += 1
            try:
                yield
            finally:
                model_id = order.spec.model_id
                if (left := before - set(driver.loaded())) and model_id not in before:
                    self.swaps += 1
                    log.info("%s left the memory for %s: swap %d", ", ".join(left), model_id, self.swaps)
