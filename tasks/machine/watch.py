"""The machine's eyes: receipts to queues every second, a check-in every few."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from app.core.protocol import CHECK_IN_SECONDS
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


BROKER_AWAY = "it is proven; its queue is joined once this machine reaches its broker (BROKER_URL, network, password)"
"""Why a model is not ready yet, where nothing is wrong with the model."""

SAY_AGAIN_SECONDS = 60.0
"""How often a machine that is not heard says so in its log: what stands there last would else be that it is ready."""


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
    _say_again_at: float = 0.0
    _pause: float = CHECK_IN_SECONDS
    """After so many seconds the server wants to hear of this machine again, as long as it has nothing to do."""
    _claims: int = 0
    """How many there had been at the last check-in; a claim takes back what that allowed."""

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
        report = self._report()
        last = {"device": {**report["device"], "left": True}, "holdings": [], "engines": self._farewell()}
        try:
            self.client.check_in({**report, **last})
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
        claims = self.worker.claims
        try:
            orders = self.client.check_in(self._report())
        except TooOld as exc:
            log.error("%s", exc)  # noqa: TRY400  # the sentence is the whole news
            self._over.set()
            self.leave()
            self.on_too_old()
            return
        except (FleetAway, Refused) as exc:
            if not self._was_away or time.monotonic() >= self._say_again_at:
                log.warning("could not check in: %s; trying again every %g s", exc, CHECK_IN_SECONDS)
                self._say_again_at = time.monotonic() + SAY_AGAIN_SECONDS
            self._was_away, self._pause = True, CHECK_IN_SECONDS
            return
        if self._was_away or not self._welcome:
            log.info("checked in")
        self._was_away, self._welcome, self._claims = False, True, claims
        self._pause = float(orders.get("pause_seconds", CHECK_IN_SECONDS))  # an older server does not say it
        self._obey(drained=bool(orders["drained"]), reason=str(orders.get("reason") or "an operator said so"))
        self.worker.abandon({(UUID(a["job_id"]), a["number"]) for a in orders["abandon"]})
        if self.engines is not None:
            self.engines.follow(orders.get("engines", ()))

    def turned_away(self, reason: str) -> None:
        """Leave all queues at once: a claim was answered with why this machine gets no jobs. A check-in may undo it."""
        self._obey(drained=True, reason=reason)
        self.gate.follow(frozenset())

    def patience(self) -> float:
        """Return the seconds from one check-in to the next, as things are."""
        if self._pause <= CHECK_IN_SECONDS or self._claims != self.worker.claims:
            return CHECK_IN_SECONDS
        return self._pause if self._is_idle([*self._holdings(), *self._engine_reports()]) else CHECK_IN_SECONDS

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
        checked_in_at, told = -math.inf, self._news()
        while not self._over.is_set():
            try:
                # Joining or leaving a queue is news that clients wait for, and so is what becomes of an engine.
                if time.monotonic() >= checked_in_at + self.patience() or self._is_hurried or self._news() != told:
                    told, checked_in_at = self._news(), time.monotonic()
                    self._is_hurried = False
                    self.check_in()
                self.look()
                self.pulse()
            except Exception:  # the outermost edge of this thread: without it the machine would be taken for lost
                log.exception("watching failed once; going on")
            self._over.wait(LOOK_SECONDS if self._welcome else LOOK_SECONDS / 4)

    def _news(self) -> tuple[frozenset[str], list[dict[str, Any]]]:
        return self.gate.joined, self._engine_reports()

    def _is_idle(self, reports: Sequence[Mapping[str, Any]]) -> bool:
        """Say whether nothing happens here, models and engines included, that the server should soon hear of."""
        is_busy = self._leaving or self._drained or self.worker.attempts()
        return not is_busy and all(each["state"] == "ready" for each in reports)

    def _engine_reports(self) -> list[dict[str, Any]]:
        return self.engines.reports(self.gate.joined_engines) if self.engines else []

    def _report(self) -> dict[str, Any]:
        boot, holdings, engines = self.boot(), self._holdings(), self._engine_reports()
        return {
            "version": self.version,
            "device": {**self.device(), **self._counts(), **(self.engines.device() if self.engines else {})},
            "engines": engines,
            "needed": list(self.proofs.needed),
            **({"boot": boot} if boot else {}),
            "holdings": holdings,
            "idle": self._is_idle([*holdings, *engines]),
            "attempts": [{"job_id": str(job_id), "number": number} for job_id, number in self.worker.attempts()],
        }

    def _counts(self) -> dict[str, int]:
        """Return what has happened since this process began."""
        known = self.worker
        return {"swaps": known.swaps, "hits": known.hits, "misses": known.misses, "refused": known.spool.refused}

    def _holdings(self) -> list[dict[str, Any]]:
        """Return what the proofs say, with why a proven model is not advertised all the same."""
        holdings = self.proofs.holdings(self.gate.joined)
        proven = frozenset[str]() if self.gate.is_attached else self.proofs.ready()
        for holding in holdings:
            if holding["state"] in {"wanted", "verifying"} and holding["model_id"] in proven:
                holding |= {"state": "verifying", "error_code": "broker_away", "error": BROKER_AWAY}
            if self.engines is not None:
                holding.update(self.engines.weight_of(holding["model_id"]))
            reason = self.smoke.problem_of(holding["model_id"]) if self.smoke else None
            if reason and holding["state"] == "verifying":
                holding |= {"state": "error", "error_code": SmokeFailed.code, "error": reason}
        return holdings
