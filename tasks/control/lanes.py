"""Lanes: how many deliveries may be under way at once, to one host and to all."""

import threading
from collections import Counter

THREADS = 32
"""Of the control worker. Delivering is waiting for others, so many threads cost little."""

IN_ALL = THREADS - 8
"""Eight threads are left for sweeping and for bells that find their lane taken, whatever receivers do."""

TO_ONE_HOST = 4
TO_A_SILENT_HOST = 1
"""A host that did not answer holds one thread and no more until it answers again."""


class Lanes:
    """Counts who is under way. Who finds a host's lanes taken has knocked, and whoever is there goes on for him."""

    def __init__(self, in_all: int = IN_ALL, to_one_host: int = TO_ONE_HOST) -> None:
        self._in_all = in_all
        self._to_one_host = to_one_host
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._knocked: set[str] = set()
        self._silent: set[str] = set()

    def enter(self, host: str) -> bool:
        """Take a lane to a host, if one is free."""
        with self._lock:
            most = TO_A_SILENT_HOST if host in self._silent else self._to_one_host
            if self._taken[host] >= most or self._taken.total() >= self._in_all:
                self._knocked.add(host)
                return False
            self._taken[host] += 1
            return True

    def look_again(self, host: str) -> bool:
        """Say whether somebody knocked since this was last asked. If nobody did, the lane is free from now on."""
        with self._lock:
            if host in self._knocked:
                self._knocked.discard(host)
                return True
            self._free(host)
            return False

    def leave(self, host: str) -> None:
        """Free a lane, whoever knocked."""
        with self._lock:
            self._free(host)

    def heard(self, host: str, *, answered: bool) -> None:
        """Remember whether a host answers."""
        with self._lock:
            self._silent.discard(host) if answered else self._silent.add(host)

    def _free(self, host: str) -> None:
        self._taken[host] -= 1
        if self._taken[host] <= 0:
            del self._taken[host]
            self._knocked.discard(host)
