"""The roster: all machines and all that they hold, read at once, for those who look at the fleet as a whole.

Columns and no objects: a thousand machines that hold a hundred models each are a hundred thousand holdings.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import median
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import closures, forecasts, presence
from app.core.fleet import Limits
from app.core.lifecycle import HoldingState
from app.core.tables import Holding, Machine, Model

REMEMBERED = timedelta(days=1)
"""A machine that has been silent for longer is not counted: rented ones go and never come back under their names."""

BYTES_PER_GB = 10**9


class Standing(StrEnum):
    """Whether a machine is given jobs."""

    WORKING = "working"
    DRAINED = "drained"
    SICK = "sick"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Post:
    """A machine, as far as plans go."""

    machine_id: str
    standing: Standing
    device: Mapping[str, Any]
    needed: Sequence[str]

    @property
    def device_name(self) -> str:
        """Return the kind of device, as paces know it."""
        return str(self.device.get("name", ""))[:200]


@dataclass(frozen=True, slots=True)
class Hold:
    """One machine and one model."""

    machine_id: str
    model_id: str
    state: HoldingState
    ready_in: float | None
    """Seconds; 0 for what is ready, None where its download does not move or has not begun."""
    bytes_total: int | None
    bytes_per_second: float | None
    """As it arrives, or as it has arrived."""
    weights_bytes: int | None
    drawing_bytes: int | None
    bytes_to_come: int = 0
    """Of those in total, where they are known."""


@dataclass(frozen=True, slots=True)
class Roster:
    """The fleet at one moment."""

    posts: Mapping[str, Post]
    """By id, those that were seen in the last day."""
    holds: Mapping[str, Sequence[Hold]]
    """By model."""

    def speed(self) -> float | None:
        """Return the bytes a second at which a machine of this fleet fetches a model; None where none was measured.

        The middle one of the machines' best: a small file is over before its speed shows.
        """
        best: dict[str, float] = {}
        for hold in (each for holds in self.holds.values() for each in holds):
            if hold.bytes_per_second:
                best[hold.machine_id] = max(best.get(hold.machine_id, 0.0), hold.bytes_per_second)
        return median(best.values()) if best else None


def read(session: Session, limits: Limits, now: datetime) -> Roster:
    """Read the machines that were seen lately, and what they hold."""
    rows = session.execute(
        select(
            *(Machine.id, Machine.last_seen_at, Machine.quiet_until),
            *(Machine.drained, Machine.sick, Machine.device, Machine.needed),
        ).where(Machine.last_seen_at >= now - REMEMBERED)
    )
    silent_since = now - timedelta(seconds=limits.silent_after)
    posts = {row.id: Post(row.id, _standing(row, silent_since), row.device, row.needed) for row in rows}
    holds: dict[str, list[Hold]] = {}
    for hold in _holds(session, now):
        if hold.machine_id in posts:
            holds.setdefault(hold.model_id, []).append(hold)
    return Roster(posts, holds)


def _standing(row: Any, silent_since: datetime) -> Standing:
    if presence.last_sign(row.last_seen_at, row.quiet_until) < silent_since:
        return Standing.SILENT
    return Standing.DRAINED if row.drained else Standing.SICK if row.sick else Standing.WORKING


def _ready_in(row: Any, now: datetime) -> float | None:
    return forecasts.arrives_in(row, now)


_COLUMNS = (
    *(Holding.machine_id, Holding.model_id, Holding.bytes_total, Holding.bytes_per_second),
    *(Holding.weights_bytes, Holding.drawing_bytes),
)


def _holds(session: Session, now: datetime) -> Iterable[Hold]:
    seen = select(*_COLUMNS).join(Holding.machine).where(Machine.last_seen_at >= now - REMEMBERED)
    # Moments are slow to read, and only what is on its way needs them: that is little, where the ready ones are many.
    for row in session.execute(seen.where(Holding.state == HoldingState.READY)):
        yield Hold(row[0], row[1], HoldingState.READY, 0.0, *row[2:])
    coming = seen.add_columns(Holding.state, Holding.bytes_done, Holding.updated_at)
    for row in session.execute(coming.where(Holding.state != HoldingState.READY)):
        to_come = max(0, (row.bytes_total or 0) - row.bytes_done)
        yield Hold(row[0], row[1], row.state, _ready_in(row, now), *row[2:6], to_come)


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue, as far as plans go."""

    id: str
    dependencies: Sequence[str]
    size: int | None
    """Bytes, as machines have seen it or else as the catalogue says; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What models take on a disk, with all that they depend on."""

    entries: Mapping[str, Entry] = field(default_factory=dict)

    def closure(self, model_ids: Iterable[str]) -> frozenset[str]:
        """Name models and all that they depend on, as far as the catalogue has them; cycles are fine."""
        found: set[str] = set()
        ask = list(model_ids)
        while ask:
            model_id = ask.pop()
            if model_id not in found and model_id in self.entries:
                found.add(model_id)
                ask += self.entries[model_id].dependencies
        return frozenset(found)

    def totals(self) -> Mapping[str, int | None]:
        """Add up each model with all that it depends on, each once; None where the size of one is not known."""
        graph = {model_id: entry.dependencies for model_id, entry in self.entries.items()}
        return closures.totals(graph, {model_id: entry.size for model_id, entry in self.entries.items()})


MOST_AT_ONCE = 1000
"""How many ids one question names; databases bound the parameters of a statement."""


def parts(model_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut many ids into as many as one question may name."""
    return (model_ids[first : first + MOST_AT_ONCE] for first in range(0, len(model_ids), MOST_AT_ONCE))


def sizes_of(session: Session, model_ids: Iterable[str], roster: Roster) -> Sizes:
    """Look up what models take, and all that they depend on; some questions for each step away from them."""
    entries: dict[str, Entry] = {}
    ask = sorted(set(model_ids))
    while ask:
        missing: set[str] = set()
        for part in parts(ask):
            query = select(Model.id, Model.dependencies, Model.size_bytes, Model.file_size_gb)
            for row in session.execute(query.where(Model.id.in_(part))):
                entries[row.id] = Entry(row.id, row.dependencies, _size(row, roster))
                missing.update(row.dependencies)
        ask = sorted(missing - entries.keys() - set(ask))
    return Sizes(entries)


def _size(row: Any, roster: Roster) -> int | None:
    seen = [hold.bytes_total for hold in roster.holds.get(row.id, ()) if hold.bytes_total]
    told = row.size_bytes if row.size_bytes is not None else row.file_size_gb and round(row.file_size_gb * BYTES_PER_GB)
    return max(seen) if seen else told
