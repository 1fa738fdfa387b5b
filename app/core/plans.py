"""What a machine would have to fetch for a MACHINE_MODELS_NEEDED, before anything is fetched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import machines, models
from app.core.lifecycle import HoldingState
from app.core.tables import Model

NEAR = 3
"""How many similar ids are offered for an unknown one."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One model of a plan."""

    model: Model
    needed: bool
    """Asked for by name; otherwise another one depends on it."""
    held: bool
    """The machine has it already."""

    @property
    def bytes_to_fetch(self) -> int | None:
        """Return what has to be fetched; None when the catalogue does not know."""
        if self.held:
            return 0
        if self.model.size_bytes is not None:
            return self.model.size_bytes
        return None if self.model.file_size_gb is None else round(self.model.file_size_gb * models.BYTES_PER_GB)


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be fetched, in this order, and what stands in the way."""

    models: Sequence[Planned]
    unknown: Mapping[str, Sequence[str]]
    """Ids that are not in the catalogue, each with similar ones that are."""
    disk_free: int | None = None
    """Bytes on the machine's disk, where one was named."""

    @property
    def bytes_to_fetch(self) -> int:
        """Return the bytes to fetch, as far as the catalogue knows sizes."""
        return sum(planned.bytes_to_fetch or 0 for planned in self.models)

    @property
    def disk_after(self) -> int | None:
        """Return the bytes that would be left on the machine's disk."""
        return None if self.disk_free is None else self.disk_free - self.bytes_to_fetch

    @property
    def would_work(self) -> bool:
        """Say whether every model is known and fits."""
        return not self.unknown and (self.disk_after is None or self.disk_after > 0)


def plan(session: Session, wanted: Sequence[str], machine_id: str | None = None) -> Plan:
    """Plan for these models, each with all it depends on before it; cycles do no harm.

    With a machine's id, what it holds is not fetched again; raises MachineNotFound.
    """
    machine = machines.get(session, machine_id) if machine_id else None
    held = {h.model_id for h in machine.holdings if h.state == HoldingState.READY} if machine else set()
    known, missing = _closure(session, wanted)
    order: list[str] = []
    for model_id in wanted:
        _put_in_order(model_id, known, order, set())
    planned = [Planned(known[i], needed=i in wanted, held=i in held) for i in order]
    near = _near(session, missing)
    return Plan(planned, near, machine.device.get("disk_free") if machine else None)


def _closure(session: Session, wanted: Sequence[str]) -> tuple[dict[str, Model], list[str]]:
    """Look up what is wanted and all it depends on, a query for each level."""
    known: dict[str, Model] = {}
    missing: list[str] = []
    ask = list(dict.fromkeys(wanted))
    while ask:
        found, unknown = models.find(session, ask)
        known.update({model.id: model for model in found})
        missing += unknown
        ask = list(dict.fromkeys(d for m in found for d in m.dependencies if d not in known and d not in missing))
    return known, missing


def _put_in_order(model_id: str, known: Mapping[str, Model], order: list[str], above: set[str]) -> None:
    """Append a model behind all it depends on."""
    if model_id in order or model_id in above or model_id not in known:
        return
    for dependency in known[model_id].dependencies:
        _put_in_order(dependency, known, order, above | {model_id})
    order.append(model_id)


def _near(session: Session, missing: Sequence[str]) -> dict[str, Sequence[str]]:
    ids = session.scalars(select(Model.id)).all() if missing else []
    return {model_id: get_close_matches(model_id, ids, n=NEAR) for model_id in missing}
