"""What a run of a program took: wall time, CPU seconds and memory, as the operating system accounts for them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

import psutil

SAMPLE_SECONDS = 0.02
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one program took."""

    seconds: float
    cpu: float
    peak_mb: float


def hash_seconds(size: int) -> float:
    """Measure how long one core needs for the SHA-256 of so many bytes, with OpenSSL's code as hashlib runs it."""
    block, hasher, began = bytes(BLOCK), sha256(), time.monotonic()
    for _ in range(256):
        hasher.update(block)
    return (time.monotonic() - began) / (256 * BLOCK) * size


def measured(command: Sequence[str]) -> Run:
    """Run a command to its end and account for it and all its children."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = _Peak(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} ended with status {process.returncode}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, peak.end() / 1e6)


class _Peak:
    """Samples the memory of a process and its children: what wait4 tells begins with the memory of its parent."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            with suppress(psutil.Error):
                top = psutil.Process(self._pid)
                family = [top, *top.children(recursive=True)]
                self._most = max([self._most, *(each.memory_info().rss for each in family)])

    def end(self) -> int:
        """Return the most that any one process of them held, bytes."""
        self._over.set()
        self._thread.join()
        return self._most
