"""How far each model on this machine is: the words, the legal moves, and the file that the machine's check-in reads.

Reading needs the standard library only.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from provisioning import layout


class State(StrEnum):
    """Where a model is on its way to being served."""

    WANTED = "wanted"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    READY = "ready"
    ERROR = "error"


MOVES: Mapping[State, frozenset[State]] = {
    # Straight to verifying: the file lies there already and is hashed. Straight to ready: so does its receipt.
    State.WANTED: frozenset({State.DOWNLOADING, State.VERIFYING, State.READY, State.ERROR}),
    # Back to wanted: another process has taken over, or we were stopped.
    State.DOWNLOADING: frozenset({State.VERIFYING, State.WANTED, State.ERROR}),
    # Back to downloading: the bytes were wrong once, or a repository has more files.
    State.VERIFYING: frozenset({State.READY, State.DOWNLOADING, State.WANTED, State.ERROR}),
    State.READY: frozenset({State.WANTED}),
    State.ERROR: frozenset({State.WANTED}),
}


class IllegalMove(Exception):
    """A model cannot go from this state to that one."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a model is in state error."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model's progress. `needed`: the operator declared it; otherwise it is here because another depends on it."""

    state: State = State.WANTED
    bytes_done: int = 0
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    error: Problem | None = None
    needed: bool = False
    pid: int | None = None
    moments: Mapping[str, float] = field(default_factory=dict)
    """When it first came into each state, in seconds since 1970."""

    def to_json(self) -> dict[str, object]:
        """Return the status as it is written."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ModelStatus":
        """Read a status. Raises `ValueError`, `KeyError` or `TypeError` when it is none of ours."""
        error = content.get("error")
        return cls(
            state=State(content["state"]),
            bytes_done=int(content.get("bytes_done") or 0),
            bytes_total=content.get("bytes_total"),
            bytes_per_second=content.get("bytes_per_second"),
            error=Problem(str(error["code"]), str(error["message"])) if error else None,
            needed=bool(content.get("needed")),
            pid=content.get("pid"),
            moments=_moments(content),
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """What all processes have done for this folder since its first status was written."""

    downloaded_bytes: int = 0
    verification_failures: int = 0
    """Files that came, or lay there, and were not what the catalogue says."""

    def __add__(self, more: "Totals") -> "Totals":
        return Totals(
            self.downloaded_bytes + more.downloaded_bytes, self.verification_failures + more.verification_failures
        )


@dataclass(frozen=True, slots=True)
class Status:
    """What provisioning last said about every model on this machine."""

    updated_at: datetime | None = None
    pid: int | None = None
    models: Mapping[str, ModelStatus] = field(default_factory=dict)
    totals: Totals = Totals()
    moments: Mapping[str, float] = field(default_factory=dict)
    """When the process that wrote it `began`, had `looked_up` every model and had `planned`, in seconds since 1970."""


def move(status: ModelStatus, to: State, problem: Problem | None = None) -> ModelStatus:
    """Return the status after a move. Nothing else changes a state. Raises `IllegalMove`."""
    if to not in MOVES[status.state]:
        raise IllegalMove(f"a model cannot go from {status.state} to {to}")
    return replace(status, state=to, error=problem, bytes_per_second=None)


def read(models_dir: Path) -> Status:
    """Return what provisioning last wrote; an empty status when there is nothing that can be read."""
    try:
        content = json.loads(layout.status_path(models_dir).read_bytes())
        return Status(
            updated_at=datetime.fromisoformat(content["updated_at"]).astimezone(UTC),
            pid=content.get("pid"),
            models={str(name): ModelStatus.from_json(each) for name, each in content["models"].items()},
            totals=Totals(**{name: int(each) for name, each in content.get("totals", {}).items()}),
            moments=_moments(content),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Status()


def _moments(content: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(moment) for name, moment in (content.get("moments") or {}).items()}


def of_other_processes(models: Mapping[str, ModelStatus]) -> dict[str, ModelStatus]:
    """Return what other processes say that are still alive."""
    return {name: each for name, each in models.items() if each.pid != os.getpid() and _is_alive(each.pid)}


def _is_alive(pid: int | None) -> bool:
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
