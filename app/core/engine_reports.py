"""What machines say of the engines that they hold, and what they are told to hold."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select

from app.core import engines, heartbeats, machines, presence
from app.core.fleet import Transaction
from app.core.lifecycle import EngineState, move_to
from app.core.tables import Engine, Machine

log = logging.getLogger(__name__)

MACHINE_LOST = "machine_lost"
MACHINE_IDLE = "machine_takes_no_jobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """How far one machine is with one engine, in its own words."""

    engine_id: UUID
    state: EngineState
    """STARTING while it is loaded, READY once its queue is consumed, CLOSED when it could not be held."""
    bytes_estimated: int | None = None
    bytes_measured: int | None = None
    error_code: str | None = None
    error: str | None = None


def record(tx: Transaction, machine: Machine, reports: Sequence[EngineReport]) -> Sequence[Engine]:
    """Bring the engines of a machine to what it says of them; returns those that it should hold."""
    told = {report.engine_id: report for report in reports}
    for engine in _open_on(tx, machine):
        if engine.boot_id != machine.boot_id:
            engines.close(tx, engine, MACHINE_LOST, f"machine {machine.id} was started anew")
            continue
        if engine.is_wanted and (reason := machines.why_idle(machine)):
            engine.is_wanted, engine.error_code, engine.error = False, MACHINE_IDLE, reason
        _settle(tx, engine, told.get(engine.id))
    return [engine for engine in _open_on(tx, machine) if engine.is_wanted]


def _open_on(tx: Transaction, machine: Machine) -> Sequence[Engine]:
    query = select(Engine).where(Engine.machine_id == machine.id, Engine.state != EngineState.CLOSED)
    return tx.session.scalars(query.order_by(Engine.id).with_for_update()).all()


def _settle(tx: Transaction, engine: Engine, report: EngineReport | None) -> None:
    if report is None:
        if not engine.is_wanted:
            engines.close(tx, engine, engine.error_code, engine.error)
        elif engine.state != EngineState.STARTING:
            engines.close(tx, engine, MACHINE_LOST, f"machine {engine.machine_id} holds it no longer")
        return  # it was not told yet
    if report.state == EngineState.CLOSED:
        code, reason = (report.error_code, report.error) if engine.is_wanted else (engine.error_code, engine.error)
        engines.close(tx, engine, code, reason)
        return
    engine.bytes_estimated = report.bytes_estimated or engine.bytes_estimated
    engine.bytes_measured = report.bytes_measured
    if report.state == EngineState.READY and engine.state == EngineState.STARTING and engine.is_wanted:
        move_to(engine, EngineState.READY)
        engine.started_at = engine.updated_at = tx.now
        log.info("engine %s: ready on %s, %s bytes", engine.id, engine.machine_id, engine.bytes_measured)


def close_of_silent_machines(tx: Transaction) -> int:
    """Close the engines of machines that no longer check in, though they could be heard; returns how many."""
    limit = tx.now - timedelta(seconds=tx.limits.silent_after)
    listening = heartbeats.listening_since(tx.session, heartbeats.API, tx.now)
    if listening is None or listening >= limit:
        return 0
    query = (
        select(Engine)
        .join(Machine, Machine.id == Engine.machine_id)
        .where(Engine.state != EngineState.CLOSED, presence.silent_since(limit))
        .order_by(Engine.id)
    )
    lost = tx.session.scalars(query.with_for_update(of=Engine, skip_locked=True)).all()
    for engine in lost:
        reason = f"machine {engine.machine_id} has been silent for {tx.limits.silent_after:g} s"
        engines.close(tx, engine, MACHINE_LOST, reason)
    return len(lost)
