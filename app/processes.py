"""Child processes under one roof: started in order, lines forwarded, restarted on a crash, stopped in order.

All of it happens in the thread that made the Household: on Linux a child is told of its parent's death through the
thread that started it.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

from app import logs

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
"""prctl(2): send the caller a signal when its parent dies."""

MOST_RESTARTS = 5
"""So many crashes within CALM_SECONDS, and a part is taken for broken."""

CALM_SECONDS = 60.0

NEWS_SECONDS = 30.0
"""How often it is said that a part still starts."""

COLOURS = ("36", "32", "35", "33", "34")
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


GAVE_UP = 78
"""Status of a process that would end the same way again: EX_CONFIG of sysexits(3)."""


class PartFailed(Exception):  # it reads as what happened
    """A part did not start, or crashed for good."""

    status = 1
    """What the whole program ends with."""


class PartGaveUp(PartFailed):
    """A part says that it would end the same way again."""

    status = GAVE_UP


@dataclass(frozen=True, slots=True)
class Part:
    """A process that belongs to the program."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    stdin: bytes | None = None
    """Handed in at its start: what must not stand in a process list."""
    stop_seconds: float = 15.0
    """How long it may take to stop before it is killed."""
    needed_by_others: int = 0
    """Parts with the lowest number are stopped first, those with the same number together."""


@dataclass(slots=True)
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    crashes: list[float] = field(default_factory=list)


class Household:
    """The processes of one program."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        """`say(name, line)` prints a line of a part."""
        self._say = say
        self._running: list[_Running] = []
        self._ending: Sequence[_Running] = ()
        self.stopping = threading.Event()

    def start(self, part: Part) -> None:
        """Start a part; its lines are forwarded from now on."""
        self._running.append(_Running(part, self._spawn(part)))

    def wait_until(self, name: str, is_ready: Callable[[], bool], seconds: float) -> float:
        """Wait for a part to be ready, and say now and then that it is still waited for; returns the seconds it took.

        Raises PartFailed when it ends or stays silent for too long, and KeyboardInterrupt when told to stop.
        """
        began = told_at = time.monotonic()
        running = next(r for r in self._running if r.part.name == name)
        while not is_ready():
            if self.stopping.is_set():
                raise KeyboardInterrupt
            if running.process.poll() is not None:
                raise PartFailed(f"{name} ended with status {running.process.returncode}; its lines above say why")
            now = time.monotonic()
            if now - began > seconds:
                raise PartFailed(f"{name} was not ready after {seconds:g} s; its lines above may say why")
            if now - told_at > NEWS_SECONDS:
                self._say(name, f"starting for {now - began:.0f} s now; after {seconds:g} s it is given up")
                told_at = now
            time.sleep(0.05)
        return time.monotonic() - began

    def drop(self, name: str) -> None:
        """Stop a part that is not wanted after all."""
        for running in [r for r in self._running if r.part.name == name]:
            self._running.remove(running)
            self._end([running])

    def tend(self) -> None:
        """Look once whether all live, and start crashed ones anew.

        Raises PartFailed when one crashes again and again, PartGaveUp when it says itself that it would.
        """
        for running in self._running:
            status = running.process.poll()
            if status is None:
                continue
            if status == GAVE_UP:
                raise PartGaveUp(f"{running.part.name} gave up; its lines above say why")
            now = time.monotonic()
            running.crashes = [then for then in running.crashes if now - then < CALM_SECONDS] + [now]
            if len(running.crashes) > MOST_RESTARTS:
                raise PartFailed(f"{running.part.name} crashed {len(running.crashes)} times in {CALM_SECONDS:g} s")
            self._say(running.part.name, f"ended with status {status}; starting it anew")
            self.stopping.wait(0.5 * 2 ** (len(running.crashes) - 1))
            if not self.stopping.is_set():
                running.process = self._spawn(running.part)

    def hurry(self) -> None:
        """Ask the parts that are being stopped once more: those that finish something first give it up."""
        for running in self._ending:
            _signal_group(running.process, signal.SIGTERM)

    def stop(self) -> None:
        """Stop all parts, those that others need last; what does not stop in time is killed with all its children."""
        self.stopping.set()
        for number in sorted({running.part.needed_by_others for running in self._running}):
            self._end([running for running in self._running if running.part.needed_by_others == number])
        self._running.clear()

    def _end(self, parts: Sequence[_Running]) -> None:
        self._ending = parts
        for running in parts:
            _signal_group(running.process, signal.SIGTERM)
        for running in parts:
            try:
                running.process.wait(running.part.stop_seconds)
            except subprocess.TimeoutExpired:
                self._say(running.part.name, f"did not stop within {running.part.stop_seconds:g} s and was killed")
            _signal_group(running.process, signal.SIGKILL, whole=True)
            running.process.wait()

    def _spawn(self, part: Part) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            part.command,
            env=dict(part.environ),
            stdin=subprocess.DEVNULL if part.stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we then stop the others in order
            preexec_fn=die_with_parent if _LIBC else None,  # noqa: PLW1509  # one system call, nothing that could lock
        )
        if part.stdin is not None and process.stdin is not None:
            process.stdin.write(part.stdin)
            process.stdin.close()
        threading.Thread(target=self._forward, args=(part.name, process.stdout), daemon=True).start()
        return process

    def _forward(self, name: str, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                self._say(name, line.decode(errors="replace").rstrip())


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the thread that started this process ends; where it is not Linux, do nothing."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, number)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals, *, whole: bool = False) -> None:
    """Signal a part, or its whole group: on SIGTERM it stops its own children itself."""
    try:
        if whole:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number) if process.poll() is None else None
    except ProcessLookupError:
        return


@contextmanager
def stopping_on_signals(household: Household) -> Iterator[None]:
    """Set the household's `stopping` on SIGINT and SIGTERM, in place of what these do otherwise; twice: hurry."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if household.stopping.is_set():
            household.hurry()
        household.stopping.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Console:
    """Prints the lines of many parts so that a person can read them, or a program."""

    def __init__(self, width: int = 10, form: str = logs.CONSOLE, **always: str) -> None:
        """Prepare for names of so many letters; `form` is `console` or `json`, `always` stands in each JSON line."""
        self._width = width
        self._form, self._always = form, always
        self._colours: dict[str, str] = {}
        self._lock = threading.Lock()

    def say(self, name: str, line: str) -> None:
        """Print a line of a part."""
        if self._form == logs.JSON:
            with self._lock:
                print(logs.as_json(line, part=name, **self._always), flush=True)
            return
        with self._lock:
            colour = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
            label = f"{name:<{self._width}}"
            print(
                f"\x1b[{colour}m{label}\x1b[0m {line}" if sys.stdout.isatty() else f"{label} {line}",
                flush=True,
            )
