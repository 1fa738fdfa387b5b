"""Real processes for tests: started with a log, waited for with a bound, stopped by their own id."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import TypeVar

import psutil

from app.processes import die_with_parent

T = TypeVar("T")

ROOT = Path(__file__).parents[2]

WAIT_SECONDS = 480.0
"""The bound of every wait: only what hangs reaches it, also on the busiest computer. It is never slept through."""


PORTS = range(20_000, 32_000)
"""Below those that Linux hands out by itself (net.ipv4.ip_local_port_range): many tests start servers at once."""

BLOCK = 100
"""So many ports in a row belong to one process of the tests: none is given out by two that look at the same moment."""


class Process:
    """A process of a test, with everything it says in one file."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        environ: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        user: str | None = None,
        cwd: Path = ROOT,
        dies_with_us: bool = False,
    ) -> None:
        """Start it. One that dies with us is to be started from the main thread: Linux goes by the thread."""
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                env=dict(os.environ if environ is None else environ),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=user,
                extra_groups=None if user is None else [],
                cwd=cwd,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGKILL) if dies_with_us else None,  # noqa: PLW1509  # one system call
            )
        if stdin is not None and self._process.stdin is not None:
            self._process.stdin.write(stdin)
            self._process.stdin.close()

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Return how it ended, None while it runs."""
        return self._process.poll()

    def said(self) -> str:
        """Return what it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, is_true: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait for something that this process should bring about; fails with its last lines."""
        deadline = time.monotonic() + seconds
        while not is_true():
            if self.status is not None and not is_true():  # what it did last may have come between the two looks
                raise AssertionError(f"{what}: the process ended with {self.status}\n{self._tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:g} s\n{self._tail()}")
            time.sleep(0.02)

    def wait_for_line(self, text: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until it has written `text`."""
        self.wait_until(lambda: text in self.said(), f"waiting for {text!r}", seconds)

    def wait(self, seconds: float = WAIT_SECONDS) -> int:
        """Wait for its end and return its status."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {seconds:g} s\n{self._tail()}") from None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.status is None:
            os.kill(self.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60.0) -> None:
        """Ask it to stop; what remains of its group is killed."""
        self.send(number)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """End it and its children at once, as a power cut does."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def cut_off(self) -> None:
        """End it and everything below it at once, children with sessions of their own included."""
        kill_tree(self.pid)
        self._process.wait()

    def _tail(self) -> str:
        return "\n".join(self.said().splitlines()[-60:])


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants; it is stopped first, or it would start new ones meanwhile."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        top.suspend()
        for child in top.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        top.kill()


def wait_until(is_true: Callable[[], T | None], what: str, seconds: float = WAIT_SECONDS) -> T:
    """Wait for something true and return it."""
    deadline = time.monotonic() + seconds
    while True:
        if found := is_true():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def command_of(process: psutil.Process) -> list[str]:
    """Return the words of a process's command line; none of one that has ended meanwhile."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def is_alive(process: psutil.Process) -> bool:
    """Say whether a process still runs; a dead one may wait to be buried by an init that is in no hurry."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """Return a port of loopback that nobody listens on, and that nobody is given who asks for any port.

    The ports of a process are given out in turn: one that was given back lately is the last to come again.
    """
    ports = _own_ports()
    while True:
        port = next(ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@cache
def _own_ports() -> Iterator[int]:
    """Take a block of ports for this process; it is taken as long as its first port is bound, and that is kept so."""
    while True:
        first = secrets.choice(PORTS[::BLOCK])  # not by `random`: Hypothesis gives every process the same numbers
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", first))
        except OSError:
            holder.close()
            continue
        _holders.append(holder)
        return cycle(range(first + 1, first + BLOCK))


_holders: list[socket.socket] = []
"""What keeps the block; the kernel lets go of it when the process ends."""
