"""A request that draws, and what is to be seen of it: it answers only at its end, so others have to ask meanwhile."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from tasks.machine.drivers.a1111.answers import Moment, moment
from tasks.machine.drivers.a1111.errors import ServerFailed, ServerGone
from tasks.machine.drivers.a1111.wire import Server, Silent
from tasks.machine.errors import MachineError

log = logging.getLogger(__name__)

ASK_SECONDS = 0.2
"""How often it is asked how far it is; as often a step may be told."""

LOOK_SECONDS = 0.05
"""How often somebody may say that nobody wants the pictures any more."""

PREVIEW_SECONDS = 1.0
"""Least time between pictures of what is being drawn: making one keeps it from drawing."""

STOP_SECONDS = 10.0
"""How long it is waited for a drawing to stop. It ends its step first; while it loads a model it does not listen."""


class Drawing:
    """One request that draws; asked for in a thread, watched in another, so that neither keeps the caller waiting."""

    def __init__(self, server: Server, route: str, body: dict[str, Any], seconds: float, away_seconds: float) -> None:
        """Wait so many seconds for the pictures, and so many for any sign of life."""
        self._server, self._route, self._body = server, route, body
        self._seconds, self._away_seconds = seconds, away_seconds
        self._answer: Any = None
        self._problem: BaseException | None = None
        self._ended = threading.Event()
        self._moment: Moment | None = None
        self._heard_at = time.monotonic()
        self._is_skipped = False

    def draw(self, tell: Callable[[Moment | None], None]) -> Any:
        """Have it drawn, and return the answer; `tell` hears how far it is, and may raise what stops the drawing.

        Raises what `tell` raises, when the server has stopped or would not; and MachineError.
        """
        for work in (self._ask, self._watch):
            threading.Thread(target=work, name=f"{self._route} {work.__name__}", daemon=True).start()
        try:
            while not self._ended.wait(LOOK_SECONDS):
                tell(self._moment)
                self._look_for_life()
        except BaseException:
            self._stop()
            raise
        if isinstance(self._problem, Silent):
            self._interrupt()
            raise ServerFailed(f"{self._problem} (A1111_TIMEOUT_SECONDS); it was told to stop") from self._problem
        if type(self._problem) is ServerFailed:
            self._interrupt()  # of a proxy that gave up waiting: the server behind it draws on
        if self._problem is not None:
            raise self._problem
        self._refuse_half_a_picture()
        return self._answer

    def skip(self) -> None:
        """Have the server end what it draws, and answer with what is there by then. Asked again it does nothing."""
        if self._is_skipped:
            return
        self._is_skipped = True
        try:
            self._server.post("skip")
        except MachineError as exc:
            log.warning("it could not be told to skip: %s", exc)

    def _refuse_half_a_picture(self) -> None:
        """Raise ServerFailed where somebody interrupted the server: it answers with what was drawn by then."""
        try:
            told = self._server.get("progress", skip_current_image="true")
        except MachineError:
            return  # the pictures are here; that they are whole is the usual case
        state = told.get("state") if isinstance(told, dict) else None
        if isinstance(state, dict) and state.get("interrupted"):
            raise ServerFailed(f"somebody interrupted {self._server.name} while it was drawing")

    def _ask(self) -> None:
        try:
            self._answer = self._server.post(self._route, self._body, seconds=self._seconds)
        except BaseException as exc:  # noqa: BLE001  # it is raised where the drawing is waited for
            self._problem = exc
        self._ended.set()

    def _watch(self) -> None:
        preview_at = time.monotonic() + PREVIEW_SECONDS
        while not self._ended.wait(ASK_SECONDS):
            with_picture = time.monotonic() >= preview_at
            try:
                found = moment(self._server.get("progress", skip_current_image=str(not with_picture).lower()))
            except MachineError as exc:
                log.debug("how far it is was not to be learnt: %s", exc)
                continue
            self._heard_at = time.monotonic()
            if found is not None:
                self._moment = found
            if with_picture:
                preview_at = time.monotonic() + PREVIEW_SECONDS

    def _look_for_life(self) -> None:
        """Raise ServerGone when nothing was heard for so long that the answer will not come either."""
        silent = time.monotonic() - self._heard_at
        if silent > self._away_seconds:
            raise ServerGone(f"{self._server.name} was silent for {silent:.0f} s while it was drawing")

    def _interrupt(self) -> None:
        try:
            self._server.post("interrupt")
        except MachineError as exc:
            log.warning("it could not be interrupted: %s", exc)

    def _stop(self) -> None:
        """Have the drawing stopped, and wait until it is: what comes next would have to wait for it."""
        deadline = time.monotonic() + STOP_SECONDS
        while not self._ended.is_set():
            # More than once: a drawing that has not begun yet forgets it.
            self._interrupt()
            if self._ended.wait(0.5):
                log.info("%s stopped drawing", self._server.name)
                return
            if time.monotonic() > deadline:
                log.warning("%s still draws what nobody wants any more, after %g s", self._server.name, STOP_SECONDS)
                return
