"""The machine's eyes: receipts to queues every second, a check-in every few."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from provisioning import receipts, status
from tasks.machine.client import FleetClient
from tasks.machine.drivers.contract import ModelFiles
from tasks.machine.errors import FleetAway, ModelNotProven, Refused
from tasks.machine.readiness import QueueGate
from tasks.machine.smoke import SmokeFailed, SmokeTest
from tasks.machine.work import Worker

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the receipts are held against the files: a stat each, some microseconds."""

CHECK_IN_SECONDS = 3.0
"""The server takes a machine for lost after 10 seconds of silence: two check-ins may fail."""


def files_of(models_dir: Path, model_id: str, base: str | None) -> ModelFiles:
    """Find a proven model's file, or the folder of its files; raises ModelNotProven when its proof no longer holds."""
    receipt = receipts.load(models_dir, model_id)
    if receipt is None or not receipts.is_intact(models_dir, receipt):
        raise ModelNotProven(f"{model_id} has no valid receipt on this machine any more")
    path = models_dir / os.path.commonpath([file.path for file in receipt.files])
    return ModelFiles(model_id, path, "+".join(file.hash for file in receipt.files), base)


def _disk(models_dir: Path) -> dict[str, int]:
    """Say how much room there is for models, bytes."""
    folder = next(path for path in (models_dir, *models_dir.parents) if path.exists())
    usage = shutil.disk_usage(folder)
    return {"disk_free": usage.free, "disk_total": usage.total}


@dataclass(slots=True)
class Watch:
    """Looks at the disk, steers the queues, and tells the server."""

    models_dir: Path
    needed: tuple[str, ...]
    client: FleetClient
    worker: Worker
    gate: QueueGate
    version: str
    device: Callable[[], dict[str, Any]]
    smoke: SmokeTest | None = None
    """None: a valid receipt is enough to be advertised."""
    _leaving: bool = False
    """Told to stop: no queue is joined any more, the running job is brought to its end."""
    _over: threading.Event = field(default_factory=threading.Event)
    _welcome: bool = False
    """Whether a check-in of this process has succeeded: before it, no claim would."""
    _drained: bool = False
    _was_away: bool = False

    def start(self) -> None:
        """Begin watching in the background."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def leave(self) -> None:
        """Leave all queues; the server goes on hearing of the running job."""
        self._leaving = True
        self.gate.follow(frozenset())

    def say_goodbye(self) -> None:
        """Tell the server that nothing is to be had here any more, and be silent from now on."""
        self._over.set()
        try:
            self.client.check_in({**self._report(), "holdings": []})
        except (FleetAway, Refused) as exc:
            log.info("left without a goodbye: %s", exc)

    def look(self) -> None:
        """Hold receipts against files, and join or leave queues accordingly."""
        ready = receipts.ready_models(self.models_dir) & set(self.needed)
        if self.smoke is not None:
            ready = frozenset(model_id for model_id in ready if self.smoke.allows(model_id))
        may_work = self._welcome and not self._drained and not self._leaving
        self.gate.follow(frozenset(ready) if may_work else frozenset())

    def check_in(self) -> None:
        """Tell the server what there is, and drop what it says has gone to somebody else."""
        try:
            orders = self.client.check_in(self._report())
        except (FleetAway, Refused) as exc:
            if not self._was_away:
                log.warning("could not check in: %s; trying again every %g s", exc, CHECK_IN_SECONDS)
            self._was_away = True
            return
        if self._was_away or not self._welcome:
            log.info("checked in")
        self._was_away, self._welcome, self._drained = False, True, bool(orders["drained"])
        self.worker.abandon({(UUID(a["job_id"]), a["number"]) for a in orders["abandon"]})

    def _run(self) -> None:
        next_check_in, joined = 0.0, self.gate.joined
        while not self._over.is_set():
            try:
                # Joining or leaving a queue is news that clients wait for.
                if time.monotonic() >= next_check_in or self.gate.joined != joined:
                    joined, next_check_in = self.gate.joined, time.monotonic() + CHECK_IN_SECONDS
                    self.check_in()
                    if not self._was_away:
                        self.worker.deliver_rest()
                self.look()
            except FleetAway as exc:
                log.warning("finished work is kept: %s", exc)
            except Exception:  # the outermost edge of this thread: without it the machine would be taken for lost
                log.exception("watching failed once; going on")
            self._over.wait(LOOK_SECONDS if self._welcome else LOOK_SECONDS / 4)

    def _report(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "device": {**self.device(), **_disk(self.models_dir)},
            "needed": list(self.needed),
            "holdings": self._holdings(),
            "attempts": [{"job_id": str(job_id), "number": number} for job_id, number in self.worker.attempts()],
        }

    def _holdings(self) -> list[dict[str, Any]]:
        """Join what provisioning says with what this worker consumes: only that counts as ready."""
        joined = self.gate.joined
        holdings = []
        for model_id, model in status.read(self.models_dir).models.items():
            if model.needed and model_id not in self.needed:
                continue  # another machine on this host needs it, and tells of it
            state = str(model.state)
            if model_id in joined:
                state = "ready"
            elif state == "ready" and model_id in self.needed:
                state = "verifying"
            error = model.error
            if state == "verifying" and self.smoke and (reason := self.smoke.problem_of(model_id)):
                state, error = "error", status.Problem(SmokeFailed.code, reason)
            holdings.append(
                {
                    "model_id": model_id,
                    "state": state,
                    "bytes_done": model.bytes_done,
                    "bytes_total": model.bytes_total,
                    "bytes_per_second": model.bytes_per_second,
                    "error_code": error.code if error else None,
                    "error": error.message if error else None,
                },
            )
        told = {holding["model_id"] for holding in holdings}
        for model_id in self.needed:
            if model_id not in told:
                state = "ready" if model_id in joined else "wanted"
                holdings.append({"model_id": model_id, "state": state})
        return holdings
