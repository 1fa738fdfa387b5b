"""The census: how many there are of everything, for those who watch the server from outside."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core import counters, machines
from app.core.fleet import Limits
from app.core.lifecycle import DeliveryState, JobState
from app.core.tables import Delivery, Job, Machine

MACHINE_STATES = ("alive", "drained", "sick", "silent")


@dataclass(frozen=True, slots=True)
class Census:
    """What was counted at one moment."""

    jobs: Mapping[tuple[str, JobState], int]
    """By model and state."""
    oldest_queued: Mapping[str, float]
    """Seconds for which the job that has waited longest has done so, by model."""
    machines: Mapping[str, int]
    """By state, out of MACHINE_STATES."""
    deliveries: Mapping[DeliveryState, int]
    counters: Mapping[str, int]


def take(session: Session, limits: Limits, now: datetime) -> Census:
    """Count everything; each count reads an index and no table, but for the machines, which are few."""
    by_state = select(Job.model_id, Job.state, func.count()).group_by(Job.model_id, Job.state)
    oldest = select(Job.model_id, func.min(Job.queued_at)).where(Job.state == JobState.QUEUED).group_by(Job.model_id)
    deliveries = select(Delivery.state, func.count()).group_by(Delivery.state)
    states = Counter(_state_of(machine, limits, now) for machine in session.scalars(select(Machine)))
    return Census(
        jobs={(model_id, state): count for model_id, state, count in session.execute(by_state)},
        oldest_queued={m: max(0.0, (now - since).total_seconds()) for m, since in session.execute(oldest)},
        machines={state: states[state] for state in MACHINE_STATES},
        deliveries={state: count for state, count in session.execute(deliveries)},  # noqa: C416  # rows are no pairs to mypy
        counters=counters.read_all(session),
    )


def _state_of(machine: Machine, limits: Limits, now: datetime) -> str:
    if not machines.is_alive(machine, limits, now):
        return "silent"
    return "drained" if machine.drained else "sick" if machine.sick else "alive"
