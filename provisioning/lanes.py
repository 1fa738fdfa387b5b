"""Who may open a connection now: the first model gets full width, the next ones only what it leaves.

A host that answers 429 or 503 is left alone for as long as it says, and then met with fewer connections at
once: halved at every refusal, one more after some successes (AIMD, as TCP does it, RFC 5681 §3.1).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from provisioning.errors import Stopped

TICK_SECONDS = 0.1
GROWTH = 0.25
"""Connections that one success gives back."""


@dataclass(slots=True, eq=False)
class Host:
    """How a host wants to be treated."""

    limit: float
    active: int = 0
    paused_until: float = 0.0

    def is_open(self, now: float) -> bool:
        """Tell whether one more connection may be opened."""
        return self.active < max(1, int(self.limit)) and now >= self.paused_until


class Lanes:
    """A fixed number of connections, handed out by priority (the smaller number first)."""

    def __init__(self, width: int, stop: threading.Event) -> None:
        self.width = width
        self.stop = stop
        self._free = width
        self._waiting: list[tuple[int, Host]] = []
        self._hosts: dict[str, Host] = {}
        self._change = threading.Condition()

    @contextmanager
    def taken(self, host: str, priority: int, over: threading.Event) -> Iterator[None]:
        """Hold one connection to a host. Raises `Stopped` when everything, or what it is for, is over."""
        self._acquire(host, priority, over)
        try:
            yield
        finally:
            with self._change:
                self._free += 1
                self._hosts[host].active -= 1
                self._change.notify_all()

    def _acquire(self, host: str, priority: int, over: threading.Event) -> None:
        with self._change:
            known = self._hosts.setdefault(host, Host(limit=float(self.width)))
            self._waiting.append((priority, known))
            try:
                while not self._may_go(known, priority):
                    if self.stop.is_set() or over.is_set():
                        raise Stopped
                    self._change.wait(TICK_SECONDS)
            finally:
                self._waiting.remove((priority, known))
            self._free -= 1
            known.active += 1

    def _may_go(self, host: Host, priority: int) -> bool:
        now = time.monotonic()
        before_us = sum(1 for each, other in self._waiting if each < priority and other.is_open(now))
        return self._free > before_us and host.is_open(now)

    def pause(self, host: str, seconds: float) -> None:
        """Leave a host alone for a while, and halve what it will be asked at once afterwards."""
        with self._change:
            known = self._hosts.setdefault(host, Host(limit=float(self.width)))
            now = time.monotonic()
            if now >= known.paused_until:
                # Sixteen connections refused together are one refusal, not sixteen.
                known.limit = max(1.0, known.limit / 2)
            known.paused_until = max(known.paused_until, now + seconds)

    def praise(self, host: str) -> None:
        """Note that a host has served a range."""
        with self._change:
            known = self._hosts[host]
            known.limit = min(float(self.width), known.limit + GROWTH)
