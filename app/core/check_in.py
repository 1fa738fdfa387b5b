"""A machine's check-in: who is alive, which attempts it has lost, which ones it should drop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from app.core import attempts, engine_reports, machines
from app.core.engine_reports import EngineReport
from app.core.fleet import Transaction
from app.core.lifecycle import AttemptState
from app.core.machines import Report
from app.core.presence import Crowd
from app.core.protocol import CHECK_IN_SECONDS
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
    pause_seconds: float = CHECK_IN_SECONDS
    """After which it should check in again, as long as it has nothing to do."""


def check_in(
    tx: Transaction, report: Report, engines: Sequence[EngineReport] = (), crowd: Crowd | None = None
) -> Orders:
    """Note that a machine lives, and settle what it and the database disagree about.

    An idle machine of a large `crowd` is told to be quiet for a while.
    """
    known = {(a.job_id, a.number): a for a in attempts.running_on(tx.session, report.machine_id)}
    for key, attempt in known.items():
        if key not in report.attempts and (reason := _why_lost(tx, report, attempt)):
            attempts.lose(tx, attempt, reason)
    machine = machines.record(tx, report)
    running = {k for k, attempt in known.items() if attempt.state == AttemptState.RUNNING}
    reason = machines.why_idle(machine)
    wanted = engine_reports.record(tx, machine, engines)
    orders = Orders(sorted(report.attempts - running), drained=reason is not None, reason=reason, engines=wanted)
    if crowd is None or not report.is_idle or orders.abandon or orders.drained:
        return orders
    return replace(orders, pause_seconds=_quieted(tx, machine, crowd))


def _quieted(tx: Transaction, machine: Machine, crowd: Crowd) -> float:
    """Let a machine be quiet for as long as the crowd asks for; returns the seconds until its next check-in."""
    pause = crowd.pause(tx)
    # Asked again now that the machine is locked: a claim may have come between, and what draws must be heard of soon.
    if pause <= CHECK_IN_SECONDS or attempts.running_on(tx.session, machine.id):
        return CHECK_IN_SECONDS
    machine.quiet_until = tx.now + timedelta(seconds=pause)
    return pause


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
