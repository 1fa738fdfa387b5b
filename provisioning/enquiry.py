"""Asking the catalogue in the background, so that an API that is down keeps nobody from watching what is here."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from provisioning.catalogue import Catalogue, Findings
from provisioning.errors import LookupFailed, ProvisioningError

log = logging.getLogger(__name__)

PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.0)
"""Shares of the first wait (five seconds) between questions to an API that does not answer: short at first, it may
just be starting beside us."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question about some ids: findings, or why there are none."""

    asked: Sequence[str]
    found: Findings | None = None
    trouble: ProvisioningError | None = None


class Enquiry:
    """One question at a time. Everything but the asking itself happens in the thread that calls."""

    def __init__(self, catalogue: Catalogue, wake: threading.Event, first_wait: float) -> None:
        self.first_wait = first_wait
        self.catalogue = catalogue
        self.wake = wake
        self.failures = 0
        self.due = 0.0
        self._busy = False
        self._answers: SimpleQueue[Answer] = SimpleQueue()

    @property
    def may_ask(self) -> bool:
        """Whether no question is open and the last failure is long enough ago."""
        return not self._busy and time.monotonic() >= self.due

    def ask(self, model_ids: Sequence[str], timeout: float) -> None:
        """Start asking."""
        self._busy = True
        threading.Thread(target=self._ask, args=(list(model_ids), timeout), name="lookup", daemon=True).start()

    def _ask(self, model_ids: list[str], timeout: float) -> None:
        try:
            answer = Answer(model_ids, found=self.catalogue.closure(model_ids, timeout))
        except ProvisioningError as error:
            answer = Answer(model_ids, trouble=error)
        except Exception as error:
            log.exception("looking up %s failed", ", ".join(model_ids))
            answer = Answer(model_ids, trouble=LookupFailed(f"{type(error).__name__}: {error}"))
        self._answers.put(answer)
        self.wake.set()

    def answer(self) -> Answer | None:
        """Return an answer that has come in, once."""
        try:
            answer = self._answers.get_nowait()
        except Empty:
            return None
        if answer.trouble is None:
            self.failures = 0
        else:
            self.failures += 1
            self.due = time.monotonic() + self.pause
        self._busy = False
        return answer

    @property
    def pause(self) -> float:
        """Seconds until the next question after the failures so far."""
        return self.first_wait * PAUSES[min(self.failures, len(PAUSES)) - 1] if self.failures else 0.0
