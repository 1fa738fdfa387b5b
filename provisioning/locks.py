"""Locks between processes on one MODELS_DIR, so that two of them download a file once."""

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from provisioning.errors import Stopped

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def held(path: Path, stop: Event, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock for the length of a block, and wait for it as long as nobody stops us.

    The lock dies with its process, whatever kills it. On a network filesystem without locks the work goes on unlocked:
    two processes may then load the same bytes, and the rename still brings only whole files (huggingface_hub#4306).
    `on_wait` is called once if another process holds the lock. Raises `Stopped`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _acquire(descriptor, path, stop, on_wait)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, stop: Event, on_wait: Callable[[], None] | None) -> None:
    waiting = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in UNSUPPORTED:
                log.warning("no locks on the filesystem of %s: %s", path, error)
                return
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES, errno.EINTR}:
                raise
        else:
            return
        if on_wait is not None and not waiting:
            on_wait()
        waiting = True
        if stop.wait(POLL_SECONDS):
            raise Stopped
