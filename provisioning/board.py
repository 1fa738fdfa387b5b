"""The board: every model's state in one place. Only it moves states, writes the status file, and tells listeners."""

import logging
import os
import threading
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from provisioning import layout, status
from provisioning.errors import ProvisioningError
from provisioning.events import Event, Listener
from provisioning.locks import held
from provisioning.status import ModelStatus, Problem, State

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
"""How old the file may become while nothing happens: who reads it sees that somebody is still there."""
WRITE_SECONDS = 0.5
"""Progress is written at most so often; a move is written at once."""
RATE_SECONDS = 2.0
"""The speed shown is the mean over about so long."""


class Board:
    """The states of this process's models, mirrored to ``status.json``."""

    def __init__(self, models_dir: Path, tell: Listener) -> None:
        self.models_dir = models_dir
        self.tell = tell
        self._models: dict[str, ModelStatus] = {}
        self._marks: dict[str, tuple[float, int]] = {}
        self._heard: dict[str, int] = {}
        """Bytes of a model that is being fetched, when it was last told of."""
        self._grown = status.Totals()
        """What was counted since the file was last written."""
        self._moments = {"began": time.time()}
        self._written = 0.0
        self._complained = False
        self._lock = threading.RLock()
        self._never = threading.Event()

    def __getitem__(self, model_id: str) -> ModelStatus:
        return self._models[model_id]

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._models

    def all(self) -> dict[str, ModelStatus]:
        """Return a copy of every model's status."""
        with self._lock:
            return dict(self._models)

    def declare(self, model_id: str, *, needed: bool, bytes_total: int | None = None) -> None:
        """Put a model on the board as wanted, or complete what is known about one that is there."""
        with self._lock:
            known = self._models.get(model_id)
            if known is None:
                self._models[model_id] = ModelStatus(needed=needed, bytes_total=bytes_total, pid=os.getpid())
                self._tell_state(model_id)
            else:
                total = known.bytes_total if bytes_total is None else bytes_total
                self._models[model_id] = replace(known, needed=known.needed or needed, bytes_total=total)
            self._write()

    def move(self, model_id: str, to: State, error: ProvisioningError | None = None) -> None:
        """Move a model to another state; staying where it is is no move."""
        with self._lock:
            known = self._models[model_id]
            problem = Problem(error.code, str(error)) if error else None
            if known.state == to and known.error == problem:
                return
            moments = {str(to): time.time(), **known.moments}
            self._models[model_id] = replace(status.move(known, to, problem), moments=moments)
            self._marks.pop(model_id, None)
            self._heard.pop(model_id, None)
            self._write()
            self._tell_state(model_id)

    def progress(self, model_id: str, done: int, total: int | None) -> None:
        """Note how many bytes of a model have arrived."""
        with self._lock:
            now = time.monotonic()
            rate = self._rate(model_id, done, now)
            known = self._models[model_id]
            # The first it hears of a fetch is what an earlier one had left there.
            came = max(0, done - self._heard.get(model_id, done))
            self._heard[model_id] = done
            self._grown += status.Totals(downloaded_bytes=came)
            self._models[model_id] = replace(known, bytes_done=done, bytes_total=total, bytes_per_second=rate)
            if now - self._written >= WRITE_SECONDS:
                self._write()
        fields = {"bytes_done": done, "bytes_total": total, "bytes_per_second": rate}
        self.tell(Event("progress", model_id, fields))

    def note(self, name: str) -> None:
        """Note when something was reached first."""
        with self._lock:
            if name not in self._moments:
                self._moments[name] = time.time()
                self._write()

    def was_wrong(self) -> None:
        """Count a file that is not what the catalogue says."""
        with self._lock:
            self._grown += status.Totals(verification_failures=1)
            self._write()

    def beat(self) -> None:
        """Write the status again if it has become old."""
        with self._lock:
            if time.monotonic() - self._written > BEAT_SECONDS:
                self._write()

    def _rate(self, model_id: str, done: int, now: float) -> float | None:
        since, before = self._marks.setdefault(model_id, (now, done))
        if done < before:
            self._marks[model_id] = (now, done)
            return None
        elapsed = now - since
        if elapsed < 0.05:
            return self._models[model_id].bytes_per_second
        rate = (done - before) / elapsed
        if elapsed > RATE_SECONDS:
            middle = RATE_SECONDS / 2
            self._marks[model_id] = (now - middle, done - round(rate * middle))
        return rate

    def _tell_state(self, model_id: str) -> None:
        known = self._models[model_id]
        fields: dict[str, object] = {"state": str(known.state), "needed": known.needed}
        if known.error:
            fields["error"] = {"code": known.error.code, "message": known.error.message}
        self.tell(Event("state", model_id, fields))

    def _write(self) -> None:
        """Write the status file. A disk that is full must not keep the models from being brought home."""
        self._written = time.monotonic()
        path = layout.status_path(self.models_dir)
        try:
            with held(path.with_suffix(".lock"), self._never):
                known = status.read(self.models_dir)
                others = status.of_other_processes(known.models)
                models = {**others, **{name: _louder(each, others.get(name)) for name, each in self._models.items()}}
                layout.write_whole(
                    path,
                    {
                        "updated_at": datetime.now(UTC).isoformat(),
                        "pid": os.getpid(),
                        "models": {name: each.to_json() for name, each in models.items()},
                        "moments": self._moments,
                        "totals": asdict(known.totals + self._grown),
                    },
                    durable=False,
                )
                self._grown = status.Totals()
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("the status file %s cannot be written: %s", path, error)


def _louder(ours: ModelStatus, theirs: ModelStatus | None) -> ModelStatus:
    """While we wait for another process that is bringing the model, its progress is what is true."""
    if theirs and ours.state is State.WANTED and theirs.state in {State.DOWNLOADING, State.VERIFYING}:
        return replace(theirs, needed=ours.needed or theirs.needed)
    return ours
