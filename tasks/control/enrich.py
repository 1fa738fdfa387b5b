"""Asking Civitai what the catalogue's readers are owed: a few questions a round, none while it wants rest."""

import logging
import threading
from dataclasses import dataclass, field
from typing import Protocol

from app.core import enrichments
from app.core.enrichments import Finding
from app.core.fleet import Fleet

log = logging.getLogger(__name__)

MOST_AT_ONCE = 5
"""Questions of one round; with a round every five seconds, one a second."""


class Source(Protocol):
    """Who knows of files by their hashes."""

    def ask(self, wanted: str) -> Finding:
        """Ask for one hash; never raises for what a network can do."""


class Keeper(Protocol):
    """Who keeps a picture of what was found."""

    def completed(self, wanted: str, finding: Finding) -> Finding:
        """Return the finding with its picture, if it can be had; never raises for what a network can do."""


@dataclass(frozen=True, slots=True)
class Enricher:
    """Asks; one for a whole process."""

    fleet: Fleet
    source: Source
    keeper: Keeper | None = None
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> int:
        """Ask some of what is due; returns how much was. A round that takes long is not joined by the next one."""
        if not self._asking.acquire(blocking=False):
            return 0
        try:
            return sum(self._ask_one() for _ in range(MOST_AT_ONCE))
        finally:
            self._asking.release()

    def _ask_one(self) -> bool:
        with self.fleet.transaction() as tx:
            wanted = enrichments.take(tx)
        if wanted is None:
            return False
        finding = self.source.ask(wanted)
        if self.keeper is not None:
            finding = self.keeper.completed(wanted, finding)
        with self.fleet.transaction() as tx:
            enrichments.record(tx, wanted, finding)
        if finding.trouble:
            log.warning("hash %s: %s", wanted, finding.trouble)
        else:
            log.info("hash %s: %s", wanted, "not known to Civitai" if finding.found is None else "found")
        return True
