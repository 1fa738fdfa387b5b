"""Waiting for a job inside a request: one mechanism, for every dialect whose clients wait.

A request that waits holds a thread of its process for as long as the picture takes. So seats are counted: beyond them
a client is told to come again, and the threads that are left go on answering everybody else. Nobody holds a database
connection while waiting. A client that goes away changes nothing: its job goes on, and its seat is free when it ends,
or at the next look where the server's socket can be seen.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flask import Flask, Response, after_this_request, current_app, request
from sqlalchemy.orm import Session
from werkzeug.exceptions import ServiceUnavailable

from app.api.door import fleet, settings
from app.core import jobs, machines
from app.core.fleet import Fleet
from app.core.lifecycle import ENDED, JobState
from app.core.live import Progress
from app.core.tables import Model

FIRST_LOOK_SECONDS = 0.05
"""A small picture on a fast machine is there almost at once."""

LAST_LOOK_SECONDS = 0.5
"""While the end is far; a hundred who wait cost two hundred queries a second."""

RETRY_SECONDS = 5

HOPELESS_SECONDS = 10
"""After which a machine that is starting may have come."""

EXTENSION = "imagefleet.waiting"


class WaitingRoom:
    """The seats of one process."""

    def __init__(self, seats: int, is_open: Callable[[], bool] = lambda: True) -> None:
        self.seats = seats
        self.is_open = is_open
        """Whether the process goes on; a client that waits is sent away when it does not."""
        self._taken = 0
        self._watchers = 0
        self._lock = threading.Lock()

    @contextmanager
    def seat(self, instead: str = "try again later", *, is_watcher: bool = False) -> Iterator[None]:
        """Take a seat; when all are taken ServiceUnavailable says when to come again, or what to do instead.

        A watcher could as well poll, as a page that is left open for hours: half of the seats are kept for those who
        wait for a picture.
        """
        with self._lock:
            if self._taken >= self.seats or (is_watcher and self._watchers >= max(1, self.seats // 2)):
                raise ServiceUnavailable(
                    f"{self._taken} requests wait for pictures here already, as many as may; {instead}",
                    retry_after=RETRY_SECONDS,
                )
            self._taken += 1
            self._watchers += is_watcher
        try:
            yield
        finally:
            with self._lock:
                self._taken -= 1
                self._watchers -= is_watcher

    def wait(
        self, fleet: Fleet, job_id: UUID, seconds: float, client_is_there: Callable[[], bool] = lambda: True
    ) -> JobState:
        """Wait as `wait_until_ended` does, and for no longer than the client is there.

        Raises ServiceUnavailable when the process is told to stop meanwhile.
        """
        state = wait_until_ended(fleet, job_id, seconds, lambda: self.is_open() and client_is_there())
        if state not in ENDED and not self.is_open():
            raise ServiceUnavailable(f"the server is stopping; job {job_id} goes on", retry_after=RETRY_SECONDS)
        return state


def open_room(app: Flask, seats: int, is_open: Callable[[], bool] = lambda: True) -> None:
    """Give an application its waiting room, in place of the one it has."""
    app.extensions[EXTENSION] = WaitingRoom(max(1, seats), is_open)


def waiting_room() -> WaitingRoom:
    """Return this application's waiting room."""
    room: WaitingRoom = current_app.extensions[EXTENSION]
    return room


def wait_until_ended(fleet: Fleet, job_id: UUID, seconds: float, go_on: Callable[[], bool] = lambda: True) -> JobState:
    """Wait until a job has ended, `seconds` at most; returns the state it is in then.

    Ends early when `go_on` says no. Raises JobNotFound.
    """
    deadline = time.monotonic() + seconds
    looking = Looking()
    while True:
        with fleet.reading() as session:
            state = jobs.state_of(session, job_id)
        left = deadline - time.monotonic()
        if state in ENDED or left <= 0 or not go_on():
            return state
        progress = fleet.live.progress(job_id) if state == JobState.PROCESSING else None
        time.sleep(min(looking.pause(progress, time.monotonic()), left))


@dataclass(slots=True)
class Looking:
    """How long a waiting request looks away: less and less as a picture's end draws near.

    Half a second that nobody looks would be five of a hundred parts of a picture that takes ten.
    """

    _usual: float = FIRST_LOOK_SECONDS
    _seen: tuple[int, float, float] | None = None
    """Which attempt was seen, when first, and how much of it was done by then."""

    def pause(self, progress: Progress | None, now: float) -> float:
        """Return the seconds until the next look; `progress` is what is known at this one."""
        usual, self._usual = self._usual, min(self._usual * 1.2, LAST_LOOK_SECONDS)
        if progress is None:
            return usual
        done = progress.fraction
        if self._seen is None or self._seen[0] != progress.attempt:
            self._seen = (progress.attempt, now, done)
        _, since, before = self._seen
        if done >= 1:
            return FIRST_LOOK_SECONDS
        if done <= before:
            return usual
        left = (now - since) * (1 - done) / (done - before)
        # What is known is a step or a quarter of a second old, so that there is less left than it seems.
        return max(FIRST_LOOK_SECONDS, min(usual, left / 4))


def preferred_seconds(default: float) -> float:
    """Return how long this request's client wants to wait: `Prefer: wait=N` (RFC 7240), or else `default` seconds.

    `Prefer: respond-async` means not at all. What cannot be read is ignored, as the RFC says.
    """
    for preference in ",".join(request.headers.getlist("Prefer")).split(","):
        name, _, value = (part.strip().lower() for part in preference.partition("="))
        if name == "respond-async":
            return 0.0
        if name == "wait" and value.strip('"').isdecimal():
            return float(value.strip('"'))
    return default


def wait_as_preferred(*job_ids: UUID) -> bool:
    """Wait for jobs as long as `Prefer: wait=N` asks, WAIT_SECONDS at most for all together; says whether it waited.

    The answer tells in `Preference-Applied` what was kept to. A preference is no condition: where every seat is taken,
    or the server is about to stop, the request is answered at once.
    """
    seconds = min(preferred_seconds(0), float(settings().wait_seconds))
    if not seconds:
        return False
    began = time.monotonic()
    room = waiting_room()
    try:
        with room.seat():
            for job_id in job_ids:
                left = max(0.0, seconds - (time.monotonic() - began))
                room.wait(fleet(), job_id, left, lambda: not is_gone(request.environ))
    except ServiceUnavailable:
        return False
    tell_applied(seconds)
    return True


def tell_applied(seconds: float) -> None:
    """Say in the answer to this request that it was waited for so long at most, as its `Prefer` asked."""

    @after_this_request
    def say_so(response: Response) -> Response:
        response.headers["Preference-Applied"] = f"wait={seconds:g}" if seconds else "respond-async"
        return response


PREFER_HEADER: Mapping[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "example": "wait=30",
    "description": "`wait=N`: answer when the job has ended, after N seconds at the latest, WAIT_SECONDS at most",
}
"""The header as OpenAPI has it, for each route that waits where that is asked for."""


def worth_waiting_for(session: Session, model: Model | None) -> Model:
    """Return a model that is worth waiting for; None stands for all that there are.

    Raises ServiceUnavailable for one that no live machine has or is about to have: who waits would wait in vain.
    """
    if model is None:
        raise ServiceUnavailable("no live machine has a model to draw with yet", retry_after=HOPELESS_SECONDS)
    outlook = machines.outlook(session, model.id, fleet().limits, fleet().clock())
    if not outlook.ready and not outlook.coming:
        raise ServiceUnavailable(machines.why_waiting(outlook, model.id, 0), retry_after=HOPELESS_SECONDS)
    return model


def is_gone(environ: Mapping[str, Any]) -> bool:
    """Say whether the client of a request has closed its connection; False where the server does not show its socket.

    Without asking, the server learns it from the second write that fails: a client that left would hold its seat for
    two keep-alives.
    """
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if not isinstance(connection, socket.socket) or isinstance(connection, ssl.SSLSocket):
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:  # it is there, and says nothing
        return False
    except OSError:
        return True
