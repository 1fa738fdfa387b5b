"""Plans for machines, made on the server: provisioning's own planner, with the catalogue read from SQL."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.core import machines, models
from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState
from app.core.tables import Model
from app.selves import own_address
from app.settings import Settings
from provisioning.catalogue import Entry, Findings, unknown
from provisioning.errors import BadEntry
from provisioning.plan import Line, Planner, with_obstacles

COLUMNS = (
    *("id", "name", "download_url", "file_size_gb", "hash", "auth_required", "auth_provider", "save_path"),
    *("dependencies", "description", "size_bytes"),
)
"""What provisioning reads of an entry."""

NOWHERE = Path("/nonexistent/imagefleet")
"""A models folder in which nothing lies: what the machine holds is known from its check-in."""


@dataclass(frozen=True, slots=True)
class SqlCatalogue:
    """The catalogue as provisioning asks it, without going through HTTP."""

    fleet: Fleet
    base_url: str
    """What we serve ourselves has an address only from where the asker reached us."""

    def closure(self, model_ids: Iterable[str]) -> Findings:
        """Look models up and all they depend on, a query for each round; cycles are fine."""
        found = Findings()
        ask = list(dict.fromkeys(model_ids))
        with self.fleet.reading() as session:
            while ask:
                rows, missing = models.find(session, ask)
                for model in rows:
                    self._add(found, model)
                for model_id, similar in models.near(session, missing).items():
                    found.problems[model_id] = unknown(model_id, similar, ())
                wanted = (each for entry in found.entries.values() for each in entry.dependencies)
                ask = [each for each in dict.fromkeys(wanted) if each not in found]
        return found

    def _add(self, found: Findings, model: Model) -> None:
        if model.download_url.startswith("file:"):
            # This server's disk is not the machine's, and nobody is to learn what lies on it.
            found.problems[model.id] = BadEntry(f"{model.id} is a file on the machine; only there it can be looked at")
            return
        try:
            row = {name: getattr(model, name) for name in COLUMNS}
            found.entries[model.id] = Entry.from_json(row, self.base_url)
        except BadEntry as exc:
            found.problems[model.id] = exc


def plan_for(
    fleet: Fleet,
    settings: Settings,
    wanted: Sequence[str],
    base_url: str,
    machine_id: str | None = None,
) -> dict[str, Any]:
    """Say what a machine with these models would fetch, asking each origin for one byte.

    With a machine's id, what it holds is not counted, and its disk is; raises MachineNotFound.
    """
    held: frozenset[str] = frozenset()
    disk_free: int | None = None
    if machine_id is not None:
        with fleet.reading() as session:
            machine = machines.get(session, machine_id)
            held = frozenset(h.model_id for h in machine.holdings if h.state == HoldingState.READY)
            disk_free = machine.device.get("disk_free")
    ours = own_address(settings, base_url)
    asked = replace(settings.downloads, fleet_url=ours, models_dir=NOWHERE, hf_cache=None)
    plan = Planner(asked, SqlCatalogue(fleet, ours)).plan(wanted)
    lines = with_obstacles(_as_held(line) if line.model_id in held else line for line in plan.lines)
    missing = sum(line.missing for line in lines if line.is_fetched)
    fits = disk_free is None or disk_free > missing
    return {
        "would_work": fits and all(line.error is None for line in lines),
        "models": [line.to_json() for line in lines],
        "bytes_to_fetch": missing,
        "disk_free_after": None if disk_free is None else disk_free - missing,
        "minutes_at_1_gbit": round(replace(plan, lines=tuple(lines)).minutes, 2),
    }


def _as_held(line: Line) -> Line:
    return replace(line, here=True, missing=0, error=None)
