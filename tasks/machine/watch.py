"""The machine's eyes: receipts to queues every second, a check-in every few."""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from provisioning import receipts
from tasks.machine.client import FleetClient
from tasks.machine.drivers.contract import ModelFiles
from tasks.machine.engines import EngineKeeper
from tasks.machine.errors import FleetAway, ModelNotProven, Refused, TooOld
from tasks.machine.proofs import Proofs
from tasks.machine.readiness import QueueGate
from tasks.machine.smoke import SmokeFailed, SmokeTest
from tasks.machine.work import Worker

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the receipts are held against the files: a stat each, some microseconds."""

CHECK_IN_SECONDS = 3.0
"""The server takes a machine for lost after 10 seconds of silence: two check-ins may fail."""


def files_of(models_dir: Path, model_id: str, base: str | None) -> ModelFiles:
    """Find a proven model's file, or the folder of its files, and those of all that it depends on.

    Raises ModelNotProven when the proof of any of them no longer holds.
    """
    found: dict[str, ModelFiles] = {}
    asked = [model_id]
    for each in asked:  # it grows: what a dependency depends on is needed too, and a cycle ends where it began
        receipt = receipts.load(models_dir, each)
        if receipt is None or not receipts.is_intact(models_dir, receipt):
            needed_by = "" if each == model_id else f", and {model_id} depends on it"
            raise ModelNotProven(f"{each} has no valid receipt on this machine any more{needed_by}")
        found[each] = _files_of(models_dir, receipt)
        asked += [dependency for dependency in receipt.dependencies if dependency not in asked]
    return replace(found.pop(model_id), base=base, parts=tuple(found.values()))


def _files_of(models_dir: Path, receipt: receipts.Receipt) -> ModelFiles:
    inside = os.path.commonpath([file.path for file in receipt.files])
    hashes = {os.path.relpath(file.path, inside): file.hash for file in receipt.files}
    if set(hashes) == {"."}:
        hashes = {Path(inside).name: receipt.files[0].hash}
    proof = "+".join(file.hash for file in receipt.files)
    return ModelFiles(receipt.model_id, models_dir / inside, proof, hashes=hashes)


@dataclass(slots=True)
class Watch:
    """Looks at the disk, steers the queues, and tells the server."""

    proofs: Proofs
    client: FleetClient
    worker: Worker
    gate: QueueGate
    version: str
    device: Callable[[], dict[str, Any]]
    smoke: SmokeTest | None = None
    """None: a valid receipt is enough to be advertised."""
    engines: EngineKeeper | None = None
    """None: this machine holds no engines."""
    on_too_old: Callable[[], None] = lambda: None
    """Called once when the server says that it no longer speaks with machines of this version."""
    boot: Callable[[], dict[str, Any] | None] = lambda: None
    """Return how this machine came up."""
    pulse: Callable[[], None] = lambda: None
    """Called after every look."""
    _is_hurried: bool = False
    """Somebody rang: the next check-in is due now."""
    _leaving: bool = False
    """Told to stop: no queue is joined any more, the running job is brought to its end."""
    _over: threading.Event = field(default_factory=threading.Event)
    _welcome: bool = False
    """Whether a check-in of this process has succeeded: before it, no claim would."""
    _drained: bool = False
    """The fleet gives this machine no jobs: an operator said so, or it is taken for sick."""
    _is_full: bool = False
    """So much finished work waits to be delivered that no more is taken on."""
    _was_away: bool = False

    def start(self) -> None:
        """Begin watching, and bringing home what an earlier process left, in the background."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()
        # Pictures may take minutes on a thin line; a machine that does not check in meanwhile would be taken for lost.
        threading.Thread(target=self._bring_home, name="courier", daemon=True).start()

    def leave(self) -> None:
        """Leave all queues; the server goes on hearing of the running job."""
        self._leaving = True
        self.gate.follow(frozenset())

    def say_goodbye(self) -> None:
        """Tell the server that nothing is to be had here any more, and be silent from now on."""
        if self._over.is_set():  # it does not listen to this machine
            return
        self._over.set()
        try:
            self.client.check_in({**self._report(), "holdings": [], "engines": self._farewell()})
        except (FleetAway, Refused) as exc:
            log.info("left without a goodbye: %s", exc)

    def look(self) -> None:
        """Hold proofs against what is there, and join or leave queues accordingly."""
        ready = self.proofs.ready()
        if self.smoke is not None:
            ready = frozenset(model_id for model_id in ready if self.smoke.allows(model_id))
        self._look_at_spool()
        may_work = self._welcome and not self._drained and not self._leaving and not self._is_full
        if may_work:
            self.gate.follow(ready, self.engines.ready() if self.engines else frozenset())
        else:
            self.gate.follow(frozenset())

    def hurry(self) -> None:
        """Check in at the next look: the fleet has something to say about engines."""
        self._is_hurried = True

    def _farewell(self) -> list[dict[str, Any]]:
        return self.engines.farewell() if self.engines else []

    def check_in(self) -> None:
        """Tell the server what there is, and drop what it says has gone to somebody else."""
        try:
            orders = self.client.check_in(self._report())
        except TooOld as exc:
            log.error("%s", exc)  # noqa: TRY400  # the sentence is the whole news
            self._over.set()
            self.leave()
            self.on_too_old()
            return
        except (FleetAway, Refused) as exc:
            if not self._was_away:
                log.warning("could not check in: %s; trying again every %g s", exc, CHECK_IN_SECONDS)
            self._was_away = True
            return
        if self._was_away or not self._welcome:
            log.info("checked in")
        self._was_away, self._welcome = False, True
        self._obey(drained=bool(orders["drained"]), reason=str(orders.get("reason") or "an operator said so"))
        self.worker.abandon({(UUID(a["job_id"]), a["number"]) for a in orders["abandon"]})
        if self.engines is not None:
            self.engines.follow(orders.get("engines", ()))

    def turned_away(self, reason: str) -> None:
        """Leave all queues at once: a claim was answered with why this machine gets no jobs. A check-in may undo it."""
        self._obey(drained=True, reason=reason)
        self.gate.follow(frozenset())

    def _obey(self, *, drained: bool, reason: str) -> None:
        if drained and not self._drained:
            log.warning("drained: %s; leaving all queues, and finishing what is being drawn", reason)
        if self._drained and not drained:
            log.warning("no longer drained: joining the queues of the models that are ready")
        self._drained = drained

    def _look_at_spool(self) -> None:
        is_full = self.worker.spool.is_full()
        if is_full and not self._is_full:
            log.error("the spool is full: no more jobs are taken until the API has taken what is there")
        if self._is_full and not is_full:
            log.warning("the spool has room again: taking jobs")
        self._is_full = is_full

    def _bring_home(self) -> None:
        while not self._over.is_set():
            pause = LOOK_SECONDS
            try:
                if self._welcome and not self._was_away:
                    self.worker.deliver_rest()
            except FleetAway as exc:
                log.warning("finished work is kept: %s", exc)
                pause = CHECK_IN_SECONDS
            except Exception:  # the outermost edge of this thread: what is kept must be tried again
                log.exception("delivering failed once; going on")
                pause = CHECK_IN_SECONDS
            self._over.wait(pause)

    def _run(self) -> None:
        next_check_in, told = 0.0, self._news()
        while not self._over.is_set():
            try:
                # Joining or leaving a queue is news that clients wait for, and so is what becomes of an engine.
                if time.monotonic() >= next_check_in or self._is_hurried or self._news() != told:
                    told, next_check_in = self._news(), time.monotonic() + CHECK_IN_SECONDS
                    self._is_hurried = False
                    self.check_in()
                self.look()
                self.pulse()
            except Exception:  # the outermost edge of this thread: without it the machine would be taken for lost
                log.exception("watching failed once; going on")
            self._over.wait(LOOK_SECONDS if self._welcome else LOOK_SECONDS / 4)

    def _news(self) -> tuple[frozenset[str], list[dict[str, Any]]]:
        return self.gate.joined, self._engine_reports()

    def _engine_reports(self) -> list[dict[str, Any]]:
        return self.engines.reports(self.gate.joined_engines) if self.engines else []

    def _report(self) -> dict[str, Any]:
        boot = self.boot()
        return {
            "version": self.version,
            "device": {**self.device(), **self._counts(), **(self.engines.device() if self.engines else {})},
            "engines": self._engine_reports(),
            "needed": list(self.proofs.needed),
            **({"boot": boot} if boot else {}),
            "holdings": self._holdings(),
            "attempts": [{"job_id": str(job_id), "number": number} for job_id, number in self.worker.attempts()],
        }

    def _counts(self) -> dict[str, int]:
        """Return what has happened since this process began."""
        known = self.worker
        return {"swaps": known.swaps, "hits": known.hits, "misses": known.misses, "refused": known.spool.refused}

    def _holdings(self) -> list[dict[str, Any]]:
        """Return what the proofs say, with why a proven model is not advertised all the same."""
        holdings = self.proofs.holdings(self.gate.joined)
        for holding in holdings:
            if self.engines is not None:
                holding.update(self.engines.weight_of(holding["model_id"]))
            reason = self.smoke.problem_of(holding["model_id"]) if self.smoke else None
            if reason and holding["state"] == "verifying":
                holding |= {"state": "error", "error_code": SmokeFailed.code, "error": reason}
        return holdings
