"""Hashing a file while it arrives: a thread follows the unbroken beginning and reads it from the page cache.

One file's hash cannot be shared between cores, so it must never wait for the last byte: measured, hashing
afterwards costs S/net + S/hash, following costs max(S/net, S/hash) and a short tail.
"""

import os
import sys
import threading
from collections.abc import Iterable

from provisioning.digests import BLOCK, Digest, hasher


class Frontier:
    """One thread for each algorithm, following how far the file is written."""

    def __init__(self, descriptor: int, algorithms: Iterable[str], size: int | None = None) -> None:
        self.descriptor = descriptor
        self.size = size
        self.algorithms = sorted(set(algorithms))
        self._change = threading.Condition()
        self._begin()

    def _begin(self) -> None:
        self._written = 0
        self._awaited = sys.maxsize
        self._total: int | None = None
        self._over = False
        self._hashed = dict.fromkeys(self.algorithms, 0)
        self._found: dict[str, Digest] = {}
        self._trouble: Exception | None = None
        self._threads = [
            threading.Thread(target=self._follow, args=(name,), name=f"hash {name}", daemon=True)
            for name in self.algorithms
        ]
        for thread in self._threads:
            thread.start()

    def restart(self) -> None:
        """Forget everything and begin at the first byte again."""
        self.cancel()
        self._begin()

    def advance(self, written: int, total: int | None = None) -> None:
        """Say how far the file is written without a hole, and, once it is known, where it ends."""
        with self._change:
            self._written = max(self._written, written)
            self._total = total if total is not None else self._total
            if self._written >= self._awaited or self._written == self._total:
                self._awaited = sys.maxsize
                self._change.notify_all()

    @property
    def hashed(self) -> int:
        """How far the slowest hash has come."""
        return min(self._hashed.values(), default=0)

    def result(self) -> dict[str, Digest]:
        """Wait for the end of the file and return the digests. Raises `OSError` if the disk could not be read."""
        for thread in self._threads:
            thread.join()
        if self._trouble:
            raise self._trouble
        return dict(self._found)

    def wait(self, seconds: float) -> bool:
        """Wait a while, and tell whether every hash is done, or failed."""
        for thread in self._threads:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self._threads)

    def cancel(self) -> None:
        """Stop hashing, and wait until nobody reads the file any more."""
        with self._change:
            self._over = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _follow(self, algorithm: str) -> None:
        computed, position, buffer = hasher(algorithm, self.size), 0, memoryview(bytearray(BLOCK))
        while (end := self._wait_beyond(position)) is not None:
            while position < end and not self._over:
                try:
                    count = os.preadv(self.descriptor, [buffer[: end - position]], position)
                except OSError as error:
                    self._trouble = error
                    return
                if not count:
                    self._trouble = OSError(f"the file ends at {position}, expected at least {end} bytes")
                    return
                computed.update(buffer[:count])
                position += count
                self._hashed[algorithm] = position
        if not self._over:
            self._found[algorithm] = Digest(algorithm, computed.hexdigest())

    def _wait_beyond(self, position: int) -> int | None:
        """Return how far can be read beyond a position; None when the file ends there."""
        with self._change:
            while not self._over:
                if self._written >= position + BLOCK or (self._written > position and self._written == self._total):
                    return self._written
                if self._total is not None and position >= self._total:
                    return None
                self._awaited = min(self._awaited, position + BLOCK)
                self._change.wait()
        return None
