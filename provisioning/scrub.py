"""Hashing again what is here, one model after another, on the schedule that the operator sets.

Stat tells every change that goes through the filesystem; a disk that rots tells only who reads it.
"""

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue

from provisioning import custody, layout, receipts
from provisioning.errors import Stopped
from provisioning.locks import held
from provisioning.receipts import ProvenFile, Receipt

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """What reading a model again has shown."""

    receipt: Receipt
    wrong: tuple[ProvenFile, ...]


class Scrubber:
    """Reads the model whose proof is the oldest, when it has become old enough; never two at once."""

    def __init__(self, models_dir: Path, hours: float | None, stop: threading.Event) -> None:
        self.models_dir = models_dir
        self.hours = hours
        self.stop = stop
        self._busy = False
        self._findings: SimpleQueue[Finding] = SimpleQueue()

    def look(self, proved: Iterable[Receipt]) -> Finding | None:
        """Begin with the next model if it is time, and return what was found meanwhile, once."""
        with suppress(Empty):
            return self._findings.get_nowait()
        if not self._busy and self.hours is not None:
            oldest = min(proved, key=age_mark, default=None)
            if oldest is not None and time.time() - age_mark(oldest) > self.hours * 3600:
                self._busy = True
                threading.Thread(target=self._read, args=(oldest,), name="scrub", daemon=True).start()
        return None

    def _read(self, receipt: Receipt) -> None:
        try:
            wrong = custody.wrong_files(self.models_dir, receipt, self.stop)
            if not wrong:
                self._renew(receipt)
            self._findings.put(Finding(receipt, tuple(wrong)))
        except Stopped:
            return
        except OSError as error:
            log.warning("%s could not be read again: %s", receipt.model_id, error)
        finally:
            self._busy = False

    def _renew(self, receipt: Receipt) -> None:
        """Write the new date, unless the receipt was withdrawn or replaced while we read."""
        with held(layout.lock_path(self.models_dir, custody.RECEIPTS_LOCK), self.stop):
            if receipts.load(self.models_dir, receipt.model_id) == receipt:
                receipts.save(self.models_dir, replace(receipt, verified_at=datetime.now(UTC).isoformat()))


def age_mark(receipt: Receipt) -> float:
    """Return when a model was proved, in seconds since the epoch; 0 when its receipt does not say."""
    try:
        return datetime.fromisoformat(receipt.verified_at).timestamp()
    except ValueError:
        return 0.0
