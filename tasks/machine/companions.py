"""What orders need beside their checkpoint, LoRAs and the like, brought to this machine when the first one asks for it.

The same library brings them that brings what the operator declared, with its locks, proofs, budget and neighbours; it
may do so in another process at the same time. Nobody declares them needed: when room is short they go first.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from provisioning.errors import ProvisioningError
from provisioning.events import Event
from provisioning.outcome import Outcome
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings
from tasks.machine.drivers.contract import ModelFiles, OnStep, Step
from tasks.machine.errors import MachineError, ModelNotProven

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""How often, while something arrives, it is asked whether anybody still wants it."""

STOP_SECONDS = 5.0
"""What a download that nobody wants any more gets to end."""

FilesOf = Callable[[str, str | None], ModelFiles]
Bases = Mapping[str, str | None]
"""What the catalogue calls the families of companions, by id."""

CompanionsOf = Callable[[Sequence[str], Bases, OnStep], Mapping[str, ModelFiles]]


class CompanionMissing(MachineError):
    """What an order needs beside its checkpoint could not be brought here."""

    code = "companion_missing"

    def __init__(self, troubles: Mapping[str, ProvisioningError]) -> None:
        """Take what went wrong, by model id; it is permanent where another machine would meet the same."""
        told = "; ".join(f"{model_id} cannot be had: {trouble}" for model_id, trouble in troubles.items())
        super().__init__(told)
        self.permanent = any(trouble.permanent for trouble in troubles.values())  # type: ignore[misc]  # the error's own


def at_hand(
    files_of: FilesOf, ids: Sequence[str], bases: Bases, _on_step: OnStep | None = None
) -> dict[str, ModelFiles]:
    """Return companions that are here already; raises ModelNotProven."""
    return {each: files_of(each, bases.get(each)) for each in ids}


@dataclass(slots=True)
class OnDemand:
    """Brings companions that are not here yet."""

    settings: Settings
    files_of: FilesOf
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)
    """One process has one status file to write in."""

    def __call__(self, ids: Sequence[str], bases: Bases, on_step: OnStep) -> dict[str, ModelFiles]:
        """Return the proven files of companions; `on_step` is called while they arrive, and raises what stops that.

        Raises CompanionMissing with provisioning's diagnosis.
        """
        if missing := [each for each in ids if not self._is_here(each)]:
            self._bring(missing, on_step)
        return at_hand(self.files_of, ids, bases)

    def _is_here(self, model_id: str) -> bool:
        try:
            self.files_of(model_id, None)
        except ModelNotProven:
            return False
        return True

    def _bring(self, missing: Sequence[str], on_step: OnStep) -> None:
        step = Step("provisioning", 0, 0, 0)
        while not self._one_at_a_time.acquire(timeout=LOOK_SECONDS):
            on_step(step)
        try:
            log.info("bringing %s, which the order needs", ", ".join(missing))
            outcome = self._provision(missing, lambda: on_step(step))
        finally:
            self._one_at_a_time.release()
        if outcome.failed:
            raise CompanionMissing(outcome.failed)

    def _provision(self, missing: Sequence[str], interrupt: Callable[[], None]) -> Outcome:
        """Run provisioning in a thread of its own, and ask again and again whether to go on."""
        provisioner = Provisioner(self.settings, _say)
        results: SimpleQueue[Outcome | Exception] = SimpleQueue()

        def run() -> None:
            try:
                results.put(provisioner.run(missing, needed=False))
            except Exception as exc:  # noqa: BLE001  # it is raised where the companions were asked for
                results.put(exc)

        thread = threading.Thread(target=run, name="companions", daemon=True)
        thread.start()
        try:
            while True:
                interrupt()
                try:
                    result = results.get(timeout=LOOK_SECONDS)
                except Empty:
                    continue
                if isinstance(result, Exception):
                    raise result
                return result
        finally:
            provisioner.stop.set()
            thread.join(STOP_SECONDS)


def _say(event: Event) -> None:
    """Put what provisioning says into the worker's log."""
    if event.name in {"notice", "summary"}:
        level = logging.getLevelNamesMapping().get(str(event.fields.get("level", "info")).upper(), logging.INFO)
        log.log(level, "%s%s", f"{event.model_id}: " if event.model_id else "", event.fields.get("message"))
