"""Machines: what they say when they check in, who is alive, and who holds which model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload, selectinload

from app.core import companions, models, odometers, presence, sickness
from app.core.errors import MachineNotFound
from app.core.fleet import Limits, Transaction
from app.core.lifecycle import HoldingState
from app.core.models import can_be_stored
from app.core.tables import Holding, Machine, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingReport:
    """How far a machine is with one model, in its own words."""

    model_id: str
    state: HoldingState
    bytes_done: int = 0
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    weights_bytes: int | None = None
    """What its networks would take in this machine's memory."""
    drawing_bytes: int | None = None
    """What one picture would take beside them."""
    error_code: str | None = None
    error: str | None = None
    trigger_words: Sequence[str] = ()
    """What its file says that a prompt should have in it."""


TOLD_OF_HOLDINGS = tuple(each.name for each in fields(HoldingReport) if each.name not in {"model_id", "trigger_words"})
"""What is kept of a holding, in the table's columns of the same names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One check-in."""

    machine_id: str
    boot_id: str
    version: str = ""
    device: Mapping[str, Any] = field(default_factory=dict)
    needed: Sequence[str] = ()
    holdings: Sequence[HoldingReport] = ()
    attempts: frozenset[tuple[UUID, int]] = frozenset()
    """What it is drawing or delivering."""
    boot: Mapping[str, Any] | None = None
    """How it came up."""
    is_idle: bool = False
    """It has nothing to do, and knows that it may be told to be quiet for a while."""


class Availability(StrEnum):
    """How far the fleet is with a model."""

    READY = "ready"
    DOWNLOADING = "downloading"
    ERROR = "error"
    ABSENT = "absent"
    """No live machine is asked to hold it."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Who could draw a model: the live machines that said anything about it."""

    holdings: Sequence[Holding]

    @property
    def ready(self) -> list[Holding]:
        """Return those that hold its proof and consume its queue."""
        return [h for h in self.holdings if h.state == HoldingState.READY]

    @property
    def working(self) -> list[Holding]:
        """Return those of the ready ones that are given jobs."""
        return [h for h in self.ready if not why_idle(h.machine)]

    @property
    def coming(self) -> list[Holding]:
        """Return those that are fetching it."""
        on_the_way = {HoldingState.WANTED, HoldingState.DOWNLOADING, HoldingState.VERIFYING}
        return [h for h in self.holdings if h.state in on_the_way]

    @property
    def failed(self) -> list[Holding]:
        """Return those that could not get it."""
        return [h for h in self.holdings if h.state == HoldingState.ERROR]

    @property
    def availability(self) -> Availability:
        """Return how far the machine is that is furthest."""
        if self.ready:
            return Availability.READY
        if self.coming:
            return Availability.DOWNLOADING
        return Availability.ERROR if self.failed else Availability.ABSENT

    @property
    def fraction(self) -> float | None:
        """Return how much of it has come, 0 to 1; None where nobody knows."""
        if self.ready:
            return 1.0
        known = [min(1.0, h.bytes_done / h.bytes_total) for h in self.coming if h.bytes_total]
        return max(known, default=None)

    def reason(self, model_id: str) -> str | None:
        """Say in one sentence why it is not ready; None when it is."""
        return None if self.ready else why_waiting(self, model_id, 0)


def record(tx: Transaction, report: Report) -> Machine:
    """Write down what a machine said; only what changed is written."""
    machine = tx.session.get(Machine, report.machine_id, with_for_update=True) or _first_seen(tx, report)
    odometers.count(tx, machine.device or {}, report.device, is_new_process=machine.boot_id != report.boot_id)
    sickness.note_boot(tx, machine, report.boot_id)
    machine.version = report.version
    machine.device = dict(report.device)
    machine.needed = list(report.needed)
    machine.boot = None if report.boot is None else dict(report.boot)
    machine.last_seen_at, machine.quiet_until = tx.now, None
    tx.session.flush()
    _record_holdings(tx, machine, report.holdings)
    return machine


def _first_seen(tx: Transaction, report: Report) -> Machine:
    machine = Machine(id=report.machine_id, boot_id=report.boot_id, first_seen_at=tx.now, last_seen_at=tx.now)
    try:
        with tx.session.begin_nested():
            tx.session.add(machine)
    except IntegrityError:  # another check-in of the same machine was faster
        return tx.session.get_one(Machine, report.machine_id, with_for_update=True)
    return machine


def _record_holdings(tx: Transaction, machine: Machine, reports: Sequence[HoldingReport]) -> None:
    known = {h.model_id: h for h in tx.session.scalars(select(Holding).where(Holding.machine_id == machine.id))}
    words: dict[str, Sequence[str]] = {}
    for report in {report.model_id: report for report in reports}.values():
        holding = known.pop(report.model_id, None)
        if report.trigger_words and (holding is None or holding.state != report.state):
            words[report.model_id] = report.trigger_words  # told with each check-in, and new with the first one
        if holding is None:
            holding = Holding(machine_id=machine.id, model_id=report.model_id)
            tx.session.add(holding)
        if (holding.state, holding.bytes_done) != (report.state, report.bytes_done):
            holding.moved_at = tx.now
        speed = holding.bytes_per_second
        for name in TOLD_OF_HOLDINGS:
            setattr(holding, name, getattr(report, name))  # a machine tells what is; the table of moves is its own
        if holding.bytes_per_second is None and report.state != HoldingState.DOWNLOADING:
            holding.bytes_per_second = speed  # how fast it came says how fast it would come to another machine
        # One before another server may hold thousands, and says the same of nearly all of them every few seconds. How
        # long a download still takes is counted from when it was last told of.
        if tx.session.is_modified(holding) or report.state == HoldingState.DOWNLOADING:
            holding.updated_at = tx.now
    for gone in known.values():
        tx.session.delete(gone)
    companions.learn_trigger_words(tx, words)


def get(session: Session, machine_id: str) -> Machine:
    """Find one machine with its holdings; raises MachineNotFound."""
    return _found(session, machine_id)


def _found(session: Session, machine_id: str, **how: Any) -> Machine:
    how["options"] = (selectinload(Machine.holdings),)
    machine = session.get(Machine, machine_id, **how) if can_be_stored(machine_id) else None
    if machine is None:
        raise MachineNotFound(f"no machine {machine_id!r} has ever checked in", machine_id=machine_id)
    return machine


def listing(session: Session) -> Sequence[Machine]:
    """Return all machines by id, with their holdings."""
    return session.scalars(select(Machine).options(selectinload(Machine.holdings)).order_by(Machine.id)).all()


def is_alive(machine: Machine, limits: Limits, now: datetime) -> bool:
    """Say whether a machine has checked in lately; being silent is a question of time, not a state."""
    sign = presence.last_sign(machine.last_seen_at, machine.quiet_until)
    return sign >= now - timedelta(seconds=limits.silent_after)


def takes_jobs(limits: Limits, now: datetime) -> ColumnElement[bool]:
    """Say in SQL whether a machine is alive and nothing keeps it from being given jobs."""
    return takes_jobs_since(now - timedelta(seconds=limits.silent_after))


def takes_jobs_since(moment: presence.Moment) -> ColumnElement[bool]:
    """Say the same of machines that were heard since a moment, which may be filled in later."""
    return and_(presence.heard_since(moment), Machine.drained.is_(False), Machine.sick.is_(None))


def why_idle(machine: Machine) -> str | None:
    """Say why a machine is given no jobs; None when it is."""
    if machine.drained:
        return f"machine {machine.id!r} is drained: an operator wants it to take no more jobs"
    return machine.sick


def drain(tx: Transaction, machine_id: str) -> Machine:
    """Let a machine finish what it draws and take no more; raises MachineNotFound."""
    machine = _locked(tx.session, machine_id)
    machine.drained = True
    return machine


def undrain(tx: Transaction, machine_id: str) -> Machine:
    """Give a machine jobs again, also one that was taken for sick; raises MachineNotFound."""
    machine = _locked(tx.session, machine_id)
    machine.drained = False
    sickness.forgive(tx, machine)
    return machine


def _locked(session: Session, machine_id: str) -> Machine:
    # One question: between two of them somebody may forget it.
    return _found(session, machine_id, with_for_update=True, populate_existing=True)


def outlook(session: Session, model_id: str, limits: Limits, now: datetime) -> Outlook:
    """Find the live machines that hold a model, fetch it, or failed to."""
    return Outlook(session.scalars(_live_holdings(limits, now).where(Holding.model_id == model_id)).all())


def outlooks(session: Session, limits: Limits, now: datetime) -> Mapping[str, Outlook]:
    """Find, for every model at once, the live machines that hold it, fetch it, or failed to."""
    by_model: dict[str, list[Holding]] = {}
    for holding in session.scalars(_live_holdings(limits, now)):
        by_model.setdefault(holding.model_id, []).append(holding)
    return {model_id: Outlook(holdings) for model_id, holdings in by_model.items()}


def drawable(session: Session, limits: Limits, now: datetime) -> list[tuple[Model, bool]]:
    """Return the models that pictures can be drawn with, by id, and whether a live machine is ready for each."""
    found = outlooks(session, limits, now)
    known = models.listing(session, kind=models.DRAWABLE)
    return [(model, model.id in found and bool(found[model.id].ready)) for model in known]


def offered(session: Session, limits: Limits, now: datetime) -> list[Model]:
    """Return the models that live machines can be asked to draw with: ready ones first, then those on their way."""
    found = outlooks(session, limits, now)
    known = [model for model in models.listing(session, kind=models.DRAWABLE) if model.id in found]
    ready = [model for model in known if found[model.id].ready]
    return ready + [model for model in known if model not in ready and found[model.id].coming]


def _live_holdings(limits: Limits, now: datetime) -> Select[Holding]:
    return (
        select(Holding)
        .join(Holding.machine)
        .options(joinedload(Holding.machine))
        .where(presence.heard_since(now - timedelta(seconds=limits.silent_after)))
        .order_by(Holding.machine_id)
    )


def why_waiting(outlook: Outlook, model_id: str, ahead: int) -> str:
    """Say in one sentence what a queued job waits for."""
    if working := outlook.working:
        queue = {0: "it is next", 1: "1 job is before it"}.get(ahead, f"{ahead} jobs are before it")
        return f"{queue}; {_names(working)} can draw {model_id}"
    if outlook.ready:
        reasons = "; ".join(str(why_idle(h.machine)) for h in outlook.ready)
        return f"only {_names(outlook.ready)} can draw {model_id}, and no jobs are given there: {reasons}"
    if outlook.coming:
        return f"no machine is ready for {model_id} yet: " + "; ".join(map(_on_the_way, outlook.coming))
    if outlook.failed:
        return f"no machine could get {model_id}: " + "; ".join(f"{h.machine_id}: {h.error}" for h in outlook.failed)
    return f"no live machine holds {model_id} or is fetching it; start one with MACHINE_MODELS_NEEDED={model_id}"


def _names(holdings: Sequence[Holding]) -> str:
    return ", ".join(h.machine_id for h in holdings)


def _on_the_way(holding: Holding) -> str:
    if holding.state == HoldingState.DOWNLOADING and holding.bytes_total:
        return f"{holding.machine_id} is downloading it, {100 * holding.bytes_done / holding.bytes_total:.0f} % done"
    words = {
        HoldingState.WANTED: "is going to fetch it",
        HoldingState.DOWNLOADING: "is downloading it",
        HoldingState.VERIFYING: f"says: {holding.error}" if holding.error else "is checking its hash",
    }
    return f"{holding.machine_id} {words[holding.state]}"
