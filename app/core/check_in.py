"""A machine's check-in: who is alive, which attempts it has lost, which ones it should drop."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from app.core import attempts, engine_reports, machines
from app.core.engine_reports import EngineReport
from app.core.fleet import Transaction
from app.core.lifecycle import AttemptState
from app.core.machines import Report
from app.core.tables import Attempt, Engine, Machine


@dataclass(frozen=True, slots=True)
class Orders:
    """What the server answers to a check-in."""

    abandon: list[tuple[UUID, int]]
    """Attempts that no longer hold their job: stop drawing, throw away."""
    drained: bool
    """It gets no more jobs for now: an operator said so, or it is taken for sick."""
    reason: str | None = None
    """Why it gets none."""
    engines: Sequence[Engine] = ()
    """What it should hold in memory, and nothing else."""


def check_in(tx: Transaction, report: Report, engines: Sequence[EngineReport] = ()) -> Orders:
    """Note that a machine lives, and settle what it and the database disagree about."""
    known = {(a.job_id, a.number): a for a in attempts.running_on(tx.session, report.machine_id)}
    for key, attempt in known.items():
        if key not in report.attempts and (reason := _why_lost(tx, report, attempt)):
            attempts.lose(tx, attempt, reason)
    machine = machines.record(tx, report)
    running = {k for k, attempt in known.items() if attempt.state == AttemptState.RUNNING}
    reason = machines.why_idle(machine)
    wanted = engine_reports.record(tx, machine, engines)
    return Orders(sorted(report.attempts - running), drained=reason is not None, reason=reason, engines=wanted)


def turn_away(tx: Transaction, report: Report, reason: str) -> None:
    """Note that a machine lives which is not understood: nothing is believed that it says, and it is given no jobs.

    What it draws is lost as if it knew nothing of it. Its next start is heard anew.
    """
    check_in(tx, report)
    tx.session.get_one(Machine, report.machine_id).sick = reason


def _why_lost(tx: Transaction, report: Report, attempt: Attempt) -> str | None:
    if attempt.boot_id != report.boot_id:
        return f"machine {report.machine_id} was started anew"
    if attempt.started_at < tx.now - timedelta(seconds=tx.limits.claim_grace):
        return f"machine {report.machine_id} no longer knows of it"
    return None
