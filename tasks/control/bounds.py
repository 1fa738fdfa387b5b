"""Reading a stranger's answer within bounds of time and size."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from provisioning.transport import Reply

PIECE = 64 << 10


@contextmanager
def bounded(reply: Reply, seconds: float) -> Iterator[threading.Event]:
    """Cut the connection after so many seconds, whatever the other side is doing, and close it in the end.

    What was cut off looks like an answer that has ended: the event says that it was.
    """
    is_over = threading.Event()
    timer = threading.Timer(seconds, _cut, (reply, is_over))
    timer.daemon = True
    timer.start()
    try:
        yield is_over
    finally:
        timer.cancel()
        reply.close()


def _cut(reply: Reply, is_over: threading.Event) -> None:
    is_over.set()
    reply.sever()


def whole(reply: Reply, most_bytes: int) -> bytes | None:
    """Read an answer's body; None when there is too much of it."""
    data = bytearray()
    while piece := reply.read(PIECE, decode=True):
        data += piece
        if len(data) > most_bytes:
            return None
    return bytes(data)
