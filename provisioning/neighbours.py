"""Whom to ask for a range: a neighbour that has it or will have it, or the origin.

Each range of a file that several machines fetch has one machine that asks the origin for it, found by rendezvous
hashing (Thaler and Ravishankar 1998, "Using name-based mappings to increase hit rates"): every machine comes to the
same answer without talking, and when one goes only its own ranges move.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

log = logging.getLogger(__name__)

BUSY_SECONDS = 1.0
"""How often to announce while something arrives: neighbours that start later are found within a second."""
CALM_SECONDS = 5.0
FIRST_LOOK_SECONDS = 0.5
"""Machines that boot together announce within this time of each other."""
AVOID_SECONDS = 15.0
"""How long a neighbour is left alone that failed; the origin has its ranges meanwhile."""

Announce = Callable[[Mapping[str, bool]], Mapping[str, list[tuple[str, bool]]]]
"""Tell the fleet what can be had here (key → whole?); return who else has what is not: key → [(url, whole?)]."""


@dataclass(slots=True)
class Neighbours:
    """The other machines that hold, or are fetching, the same files."""

    own_url: str
    announce: Announce
    contents: Callable[[], Mapping[str, bool]]
    stop: threading.Event
    _known: Mapping[str, list[tuple[str, bool]]] = field(default_factory=dict)
    _avoided: dict[str, float] = field(default_factory=dict)
    _distrusted: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _numbers: Iterator[int] = field(default_factory=count)
    _newest: int = -1

    def start(self) -> None:
        """Begin announcing in the background."""
        threading.Thread(target=self._run, name="neighbours", daemon=True).start()

    def meet(self) -> None:
        """Announce now, and once more when neighbours that boot at the same time have done so."""
        self._announce()
        self.stop.wait(FIRST_LOOK_SECONDS)
        self._announce()

    def source_of(self, key: str, index: int) -> str | None:
        """Return the neighbour to ask for a range of a file; None when the origin is to be asked."""
        if key in self._distrusted:
            return None
        now = time.monotonic()
        near = [(url, whole) for url, whole in self._known.get(key, ()) if self._avoided.get(url, 0.0) < now]
        whole = [url for url, is_whole in near if is_whole]
        chosen = max(whole or [self.own_url, *(url for url, _ in near)], key=lambda url: _weight(url, key, index))
        return None if chosen == self.own_url else chosen

    def avoid(self, url: str, reason: object) -> None:
        """Leave a neighbour alone for a while."""
        log.info("not asking %s for %g s: %s", url, AVOID_SECONDS, reason)
        self._avoided[url] = time.monotonic() + AVOID_SECONDS

    def distrust(self, key: str) -> None:
        """Ask only the origin for this file from now on: what came together was wrong."""
        self._distrusted.add(key)

    def _run(self) -> None:
        while not self.stop.is_set():
            self._announce()
            self.stop.wait(CALM_SECONDS if all(self.contents().values()) else BUSY_SECONDS)

    def _announce(self) -> None:
        number = next(self._numbers)
        try:
            known = self.announce(self.contents())
        except Exception as error:  # noqa: BLE001 - whatever keeps us from meeting neighbours, the origin is still there
            log.info("neighbours are not known at the moment: %s", error)
            known = {}
        with self._lock:
            if number > self._newest:  # what answers an older announcement knows nothing of what arrives since then
                self._newest, self._known = number, known


def _weight(url: str, key: str, index: int) -> bytes:
    return hashlib.blake2b(f"{url}\n{key}\n{index}".encode(), digest_size=8).digest()
