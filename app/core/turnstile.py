"""Writers of one SQLite file, let in one after another, in the order in which they came.

SQLite itself lets waiting writers look whether it is their turn, the longer they wait the less often: every 0.1 s in
the end, while whoever has just written looks at once. Where 48 threads of three processes write without a pause, some
never come in: measured, 13 of 5000 transactions failed with "database is locked" after ten seconds. In their turns none
waited longer than 0.7 s.

This is about the order alone. That no two write at once is SQLite's own business, with or without it.
Source: https://www.sqlite.org/c3ref/busy_timeout.html, and sqliteDefaultBusyCallback in its main.c.
"""

import fcntl
import logging
import os
import threading
import time
from collections import deque
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.001
"""How often the next process looks whether the one before has written: it is the only one of them that looks."""

NEXT, WRITING = 0, 1
"""Bytes of the lock file. Who writes does not stand in the line: it has to stand behind those who do."""


class Turnstile:
    """One process's way in, for all of its threads."""

    def __init__(self, path: Path) -> None:
        """Take a file that all processes share; it is made when it is first needed, and stays empty."""
        self._path = path
        self._file: int | None = None
        self._lock = threading.Lock()
        self._line: deque[threading.Event] = deque()

    def enter(self, seconds: float) -> bool:
        """Wait for this thread's turn, at most so long; False when it did not come, then there is nothing to leave."""
        deadline, mine = time.monotonic() + seconds, threading.Event()
        with self._lock:
            self._line.append(mine)
            if self._line[0] is mine:
                mine.set()
        is_first = mine.wait(seconds)
        if is_first and self._enter_before_other_processes(deadline):
            return True
        with self._lock:
            self._step_out(mine)
        return False

    def leave(self) -> None:
        """Let the next one in."""
        self._unlock(WRITING)
        with self._lock:
            self._step_out(self._line[0])

    def _step_out(self, one: threading.Event) -> None:
        self._line.remove(one)
        if self._line:
            self._line[0].set()

    def _enter_before_other_processes(self, deadline: float) -> bool:
        if not self._locked(NEXT, deadline):
            return False
        try:
            return self._locked(WRITING, deadline)
        finally:
            self._unlock(NEXT)

    def _locked(self, byte: int, deadline: float) -> bool:
        """Lock a byte of the file; it dies with its process. Where files cannot be locked, everybody may come in."""
        while True:
            try:
                fcntl.lockf(self._opened(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError):  # POSIX leaves open which of them it is
                if time.monotonic() > deadline:
                    return False
                time.sleep(LOOK_SECONDS)
            except OSError as exc:
                log.debug("writers of %s come in as they can: %s", self._path, exc)
                return True
            else:
                return True

    def _unlock(self, byte: int) -> None:
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)

    def _opened(self) -> int:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._file

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)
