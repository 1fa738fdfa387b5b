"""Server-sent events, the same for every dialect that streams: on a seat of the waiting room, and past proxies."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from flask import Response, request

from app.api.waiting import is_gone, waiting_room

LOOK_SECONDS = 0.3
"""How often a stream looks for news: two indexed rows and a short read of the live store each time."""

KEEP_ALIVE_SECONDS = 15
"""Proxies close connections on which nothing moves; the usual limit is a minute."""

KEEP_ALIVE = ": still here\n\n"
"""A comment, which clients pass over."""

GoOn = Callable[[], bool]
"""Says whether the client is still there, and the process too."""


def streamed(
    begin: Callable[[GoOn], Iterator[str]], instead: str = "try again later", *, is_watcher: bool = False
) -> Response:
    """Answer with the events that `begin` returns, written as they come; `is_watcher` as `WaitingRoom.seat` has it.

    Raises ServiceUnavailable where all seats are taken, which says what to do `instead`; and what `begin` raises, which
    is called with a seat in hand.
    """
    room = waiting_room()
    client_is_gone = partial(is_gone, dict(request.environ))
    with ExitStack() as stack:
        stack.enter_context(room.seat(instead, is_watcher=is_watcher))
        events = begin(lambda: room.is_open() and not client_is_gone())
        response = Response(events, mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"  # nginx would collect events before it passes them on
        response.call_on_close(stack.pop_all().close)
    return response
