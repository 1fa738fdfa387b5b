"""``--plan``: what would be done, whether it would work, and how long it would take. Nothing is written."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from provisioning import budget, custody, disk, layout, orders
from provisioning.catalogue import Catalogue, Findings
from provisioning.errors import BadEntry, DependencyFailed, ProvisioningError
from provisioning.fetch import Fetcher
from provisioning.lanes import Lanes
from provisioning.orders import Order
from provisioning.scout import forecast
from provisioning.settings import Settings
from provisioning.shopping import receipt_answers
from provisioning.transport import Transport, without_query

ASSUMED_RATE = 125_000_000
"""Bytes per second of the 1 Gbit/s line that minutes are estimated for."""
PROBES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Line:
    """What would become of one model. `missing`: bytes still to fetch; `error` says why it would not work."""

    model_id: str
    needed: bool
    here: bool = False
    size: int | None = None
    missing: int = 0
    url: str | None = None
    save_path: str | None = None
    dependencies: tuple[str, ...] = ()
    error: ProvisioningError | None = None

    @property
    def is_fetched(self) -> bool:
        """Whether its bytes would come: also when something else that it needs would not."""
        return self.error is None or isinstance(self.error, DependencyFailed)

    def to_json(self) -> dict[str, object]:
        """Return the line for programs."""
        error = {"code": self.error.code, "message": str(self.error)} if self.error else None
        return {
            "model": self.model_id,
            "needed": self.needed,
            "here": self.here,
            "size": self.size,
            "missing": self.missing,
            "url": self.url,
            "save_path": self.save_path,
            "dependencies": list(self.dependencies),
            "error": error,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it, in the order in which it would be done."""

    lines: tuple[Line, ...]
    free: int
    trouble: ProvisioningError | None = None
    works: frozenset[str] = field(default_factory=frozenset)

    @property
    def missing(self) -> int:
        """Bytes to fetch."""
        return sum(line.missing for line in self.lines if line.is_fetched)

    @property
    def minutes(self) -> float:
        """Minutes on a line of 1 Gbit/s."""
        return self.missing / ASSUMED_RATE / 60

    def to_json(self) -> dict[str, object]:
        """Return the plan for programs."""
        return {
            "models": [line.to_json() for line in self.lines],
            "bytes_to_fetch": self.missing,
            "disk_free": self.free,
            "disk_free_after": self.free - self.missing,
            "minutes_at_1_gbit": round(self.minutes, 1),
            "works": sorted(self.works),
        }

    def sentences(self) -> list[str]:
        """Return the plan for people."""
        text = [f"  {number}. {_words(line)}" for number, line in enumerate(self.lines, 1)]
        if not self.missing:
            text.append(f"nothing to fetch; disk free: {disk.gigabytes(self.free)}")
        else:
            free, after = disk.gigabytes(self.free), disk.gigabytes(max(0, self.free - self.missing))
            minutes = f"about {max(self.minutes, 0.1):.1f} min at 1 Gbit/s"
            text.append(f"to fetch: {disk.gigabytes(self.missing)}, {minutes}; disk free: {free}, afterwards {after}")
        if self.trouble is not None:
            text.append(str(self.trouble))
        return text


def _words(line: Line) -> str:
    role = "" if line.needed else " (needed by another)"
    if line.error is not None:
        return f"{line.model_id}{role}: WOULD FAIL ({line.error.code}): {line.error}"
    if line.here:
        return f"{line.model_id}{role}: ready"
    size = "size unknown" if line.size is None else disk.gigabytes(line.missing)
    return f"{line.model_id}{role}: {size} from {line.url} to {line.save_path}"


class Lookup(Protocol):
    """Who can say what models are; the fleet's API unless told otherwise."""

    def closure(self, model_ids: Iterable[str]) -> Findings:
        """Look up models and everything they depend on."""


class Planner:
    """Finds out what provisioning would do, by asking and not touching."""

    def __init__(self, settings: Settings, catalogue: Lookup | None = None) -> None:
        self.settings = settings
        stop = threading.Event()
        transport = Transport(settings)
        self.catalogue = catalogue or Catalogue(settings, transport)
        self.fetcher = Fetcher(settings, transport, Lanes(settings.connections, stop), stop)

    def plan(self, model_ids: Iterable[str]) -> Plan:
        """Plan for models; what cannot be found out is an error of its line, or of the plan."""
        listed = tuple(dict.fromkeys(model_ids))
        trouble: ProvisioningError | None = None
        found = Findings()
        try:
            found = self.catalogue.closure(listed)
        except ProvisioningError as error:
            trouble = error
        names = dict.fromkeys([*listed, *found.entries, *found.problems])
        known = {each: self._order(each, listed, found, trouble) for each in names}
        orders.rank(known, listed)
        in_order = sorted(known.values(), key=lambda each: each.rank)
        for order, conflict in orders.conflicts(in_order):
            order.trouble = conflict
        with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
            lines = list(pool.map(self._line, in_order))
        for order, line in zip(in_order, lines, strict=True):
            order.trouble = line.error
            if order.entry and line.size is not None:
                order.entry = replace(order.entry, size_bytes=line.size)
        full = {order.model_id: error for order, error in budget.unfitting(self.settings.models_dir, in_order)}
        lines = [replace(line, error=line.error or full.get(line.model_id)) for line in lines]
        lines = with_obstacles(lines)
        works = frozenset(line.model_id for line in lines if line.needed and line.error is None)
        return Plan(tuple(lines), disk.free_bytes(self.settings.models_dir), trouble, works)

    def _order(
        self, model_id: str, listed: tuple[str, ...], found: Findings, trouble: ProvisioningError | None
    ) -> Order:
        order = Order(model_id, needed=model_id in listed, entry=found.entries.get(model_id))
        order.receipt = custody.intact_receipt(self.settings.models_dir, model_id)
        if order.receipt and order.entry and not receipt_answers(order.receipt, order.entry):
            order.receipt = None
        if order.receipt is None:
            order.trouble = found.problems.get(model_id) or (None if order.entry else trouble or BadEntry())
        return order

    def _line(self, order: Order) -> Line:
        line = Line(order.model_id, order.needed, dependencies=order.dependencies, error=order.trouble)
        if order.receipt is not None:
            return replace(line, here=True, size=sum(file.size for file in order.receipt.files))
        if order.entry is None or order.trouble is not None:
            return line
        entry = order.entry
        line = replace(line, url=without_query(entry.download_url), save_path=entry.save_path, size=entry.size)
        try:
            size = forecast(entry, self.fetcher)
            size = entry.size if size is None else size
            missing = budget.missing_bytes(self.settings.models_dir, replace(entry, size_bytes=size))
            if missing:
                budget.demand_writable(self.settings.models_dir, layout.relative_path(entry.save_path))
            return replace(line, size=size, missing=missing)
        except ProvisioningError as error:
            return replace(line, error=error)


def with_obstacles(lines: Iterable[Line]) -> list[Line]:
    """Give each model that would not be ready for lack of another the error that says which."""
    known = {line.model_id: replace(line, error=None) if line.is_fetched else line for line in lines}
    while True:
        failing = {name for name, line in known.items() if line.error is not None}
        lacking = {name: failing & set(line.dependencies) for name, line in known.items() if name not in failing}
        if not any(lacking.values()):
            return list(known.values())
        for name, others in lacking.items():
            if others:
                text = f"it needs {', '.join(sorted(others))}, which would fail"
                known[name] = replace(known[name], error=DependencyFailed(text))
