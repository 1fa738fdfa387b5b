"""The way home: pictures are encoded and brought to the API beside the drawing of the next ones.

One thread of its own does it, one thing after another: what draws must not wait for a disk or for a line, and a
picture's bytes are never made twice.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from tasks.machine.client import FleetClient
from tasks.machine.drivers.contract import Order, Picture
from tasks.machine.encode import encode
from tasks.machine.errors import Fenced, FleetAway, Refused
from tasks.machine.provenance import receipt_of
from tasks.machine.spool import Key, Unsent

log = logging.getLogger(__name__)


class Courier:
    """Does what it is given, in order, on one thread that begins with the first of it."""

    def __init__(self, ahead: int = 0) -> None:
        """Let a machine draw while so many jobs before that one are still on their way home."""
        self._ahead = ahead
        self._given: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._jobs = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def give(self, what: Callable[[], None]) -> None:
        """Have something done behind all that was given before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="homeward", daemon=True)
            self._thread.start()
        self._given.put(partial(copy_context().run, what))  # its lines and spans are of the job that gave it

    def end_job(self) -> None:
        """Take what was given so far for a job's; waits until no more jobs are on their way than may be."""
        with self._changed:
            self._jobs += 1

        def say_so() -> None:
            with self._changed:
                self._jobs -= 1
                self._changed.notify_all()

        self.give(say_so)
        self.wait(self._ahead)

    def wait(self, jobs: int = 0, timeout: float | None = None) -> bool:
        """Wait until at most so many jobs are on their way; False when that took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._jobs <= jobs, timeout)

    def _run(self) -> None:
        while True:
            what = self._given.get()
            try:
                what()
            except Exception:  # the outermost edge of this thread: the next job's pictures want to go home too
                log.exception("bringing something home failed")
            del what  # or a picture would stay in memory until the next one comes


@dataclass(slots=True)
class Homeward:
    """The pictures of one attempt on their way home. What draws calls `take`; all else is the courier's."""

    key: Key
    courier: Courier
    client: FleetClient
    on_fenced: Callable[[], None] = lambda: None
    """Called when the API says that the attempt has lost its job."""
    receipts: list[Mapping[str, Any]] = field(default_factory=list)
    """Of the pictures that are encoded, in their order."""
    unsent: Unsent = field(default_factory=dict)
    """The pictures that the API does not have yet; final when all are encoded."""
    problem: Exception | None = None
    """Why a picture could not be encoded."""
    encoding: tuple[float, float] = (0.0, 0.0)
    """When the encoding of the newest picture began and ended, by the monotonic clock."""
    taken: int = 0
    """How many pictures of this try are drawn."""
    is_redrawn: bool = False
    """All of it was, or is, drawn a second time."""
    is_cut_short: bool = False
    """Somebody skipped a picture of it."""
    _order: Order | None = None
    _device: str = ""
    _known: int = 0
    """How many pictures have been given to the courier, over all tries of the attempt."""
    _is_away: bool = False
    _is_dropped: bool = False

    def expect(self, order: Order, device: str) -> None:
        """Learn what the pictures are of, and the name of what draws them."""
        self._order, self._device = order, device

    def take(self, picture: Picture) -> None:
        """Take the next picture; returns at once."""
        position, self.taken = self.taken, self.taken + 1
        if position < self._known:
            return  # it was drawn before that went wrong, and is on its way
        self._known = self.taken
        self.is_cut_short = self.is_cut_short or picture.skipped_after is not None
        self.courier.give(lambda: self._send(position, picture))

    def begin_anew(self) -> None:
        """Expect the first picture again: something went wrong, and all of them are drawn once more."""
        self.taken, self.is_redrawn = 0, True

    def drop(self) -> None:
        """Forget what is on its way: nobody wants it any more."""
        self._is_dropped = True

    def _send(self, position: int, picture: Picture) -> None:
        if self._is_dropped or self.problem is not None:
            return
        assert self._order is not None
        began = time.monotonic()
        try:
            receipt = receipt_of(self._order, picture, self._device)
            about, data = encode(picture, self._order.spec, receipt)
        except Exception as exc:  # noqa: BLE001  # it is logged and told with the outcome
            self.problem = exc
            return
        self.encoding = (began, time.monotonic())
        self.receipts.append(receipt)
        self.unsent[position] = (about, data)
        if self._is_away:
            return
        try:
            self.client.deliver(*self.key, position, about, data)
        except Fenced:
            self._is_away = True
            self.on_fenced()
        except (FleetAway, Refused) as exc:  # the spool tries again when the job is drawn
            log.info(
                "job %s: picture %d of attempt %d waits for the others: %s", self.key[0], position, self.key[1], exc
            )
            self._is_away = True
        else:
            del self.unsent[position]
