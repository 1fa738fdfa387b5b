"""What a machine may advertise, and how far it is with the rest: by receipts on its disk, or a server's list."""

import fcntl
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from provisioning import layout, receipts, status
from tasks.machine.shelf import Shelf


class Proofs(Protocol):
    """Knows which models this machine can draw with at this moment."""

    @property
    def needed(self) -> Sequence[str]:
        """Return the ids that its operator declared."""

    def ready(self) -> frozenset[str]:
        """Return the models whose queues may be consumed."""

    def holdings(self, joined: frozenset[str]) -> list[dict[str, Any]]:
        """Say how far this machine is with each model, as a check-in has it.

        Only what is in `joined`, the queues that are consumed, counts as ready; what is proven and not consumed is
        `verifying`.
        """


@dataclass(frozen=True, slots=True)
class Receipts:
    """Proofs of files on this machine's disk, as provisioning leaves them."""

    models_dir: Path
    needed: tuple[str, ...]
    shelf: Shelf = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shelf", Shelf(self.models_dir))  # the only way for a frozen one

    def ready(self) -> frozenset[str]:
        """Return what is needed and has a receipt that still fits its files: a stat each, some microseconds."""
        return frozenset(receipts.ready_models(self.models_dir) & set(self.needed))

    def holdings(self, joined: frozenset[str]) -> list[dict[str, Any]]:
        """Join what provisioning says with what this worker consumes."""
        holdings = []
        for model_id, model in status.read(self.models_dir).models.items():
            if model.needed and model_id not in self.needed:
                continue  # another machine on this host needs it, and tells of it
            state = str(model.state)
            if model_id in joined:
                state = "ready"
            elif state == "ready" and model_id in self.needed:
                state = "verifying"
            holdings.append(
                {
                    "model_id": model_id,
                    "state": state,
                    "bytes_done": model.bytes_done,
                    "bytes_total": model.bytes_total,
                    "bytes_per_second": model.bytes_per_second,
                    "error_code": model.error.code if model.error else None,
                    "error": model.error.message if model.error else None,
                },
            )
        told = {holding["model_id"] for holding in holdings}
        for model_id in self.needed:
            if model_id not in told:
                state = "ready" if model_id in joined else "wanted"
                holdings.append({"model_id": model_id, "state": state})
        return self._with_companions(holdings)

    def _with_companions(self, holdings: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tell of what was brought here for single orders too, and of the words that files ask for."""
        told = {holding["model_id"]: holding for holding in holdings}
        for model_id, item in self.shelf.companions().items():
            holding = told.get(model_id)
            if holding is None:
                holding = {"model_id": model_id, "state": "ready"}
                holdings.append(holding)
            holding["trigger_words"] = list(item.trigger_words)
        return holdings


class Disk:
    """What there is to say of the disk that the models are on."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._handle: int | None = None

    def about(self) -> dict[str, int]:
        """Say how much room there is for models, bytes, and what was done to fill it.

        Of several workers that share a folder one tells what was done, or the fleet would count it several times.
        """
        folder = next(path for path in (self._models_dir, *self._models_dir.parents) if path.exists())
        usage = shutil.disk_usage(folder)
        totals = asdict(status.read(self._models_dir).totals) if self._tells() else {}
        return {"disk_free": usage.free, "disk_total": usage.total, **totals}

    def _tells(self) -> bool:
        """Say whether this process is the one; when that one ends, another takes its place."""
        if self._handle is not None:
            return True
        try:
            handle = os.open(layout.status_path(self._models_dir).with_suffix(".teller"), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:  # nothing was ever written there either
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._handle = handle
        return True
