"""The census: how many there are of everything at this moment, for those who watch the server from outside.

What has happened is told by counters (`app.core.measures`). What is there now is counted here, and no count looks at
what is over: it reads the part of an index where jobs wait or are drawn and where deliveries are owed, and the machines
with what they hold.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from app.core import presence
from app.core.fleet import Limits
from app.core.lifecycle import DeliveryState, HoldingState, JobState
from app.core.measures import OTHER
from app.core.tables import Delivery, Heartbeat, Holding, Job, Machine

MACHINE_STATES = ("alive", "drained", "sick", "silent", "left")
"""`left` is who said goodbye, and who has been silent for so long that nobody expects it back."""

EXPECTED_BACK = timedelta(hours=1)
"""So long a machine that fell silent is missed."""

MOST_MODELS = 500
"""Models that are named; of the others, those with the smallest numbers, the sum is told as `other`."""

MOST_MACHINES = 500
"""Machines whose memory is told one by one; of the others the sum."""


@dataclass(frozen=True, slots=True)
class Census:
    """What was counted at one moment."""

    jobs: Mapping[tuple[str, str], int]
    """That wait or are drawn, by model and state."""
    oldest_queued: Mapping[tuple[str], float]
    """Seconds for which the job that has waited longest has done so, by model."""
    machines: Mapping[tuple[str], int]
    """By state, out of MACHINE_STATES."""
    readiness: Mapping[tuple[str, str], int]
    """Live machines that are given jobs, by model, and how far they are with it."""
    standstill: Mapping[tuple[str], float]
    """Seconds for which the download that has stood still longest has done so, by model."""
    memory: Mapping[tuple[str, str, str], int]
    """Bytes by machine, kind of device, and `total` or `free`."""
    webhooks_owed: int
    webhooks_overdue: float
    """Seconds for which the delivery that is due longest has been so."""
    silent_parts: Mapping[tuple[str], float]
    """Seconds since each part of the server has last said that it lives."""


def take(session: Session, limits: Limits, now: datetime) -> Census:
    """Count everything that is there."""
    counted, oldest = _jobs(session, now)
    jobs = bounded(counted, MOST_MODELS)
    machines, memory = _machines(session, limits, now)
    readiness, standstill = _holdings(session, limits, now)
    owed, overdue = _webhooks(session, now)
    beats = session.execute(select(Heartbeat.name, Heartbeat.beat_at))
    return Census(
        jobs=jobs,
        oldest_queued=_most(oldest),
        machines=machines,
        # Where a model has jobs, a machine that is ready for it must not be hidden among others: nobody would be ready.
        readiness=bounded(readiness, MOST_MODELS, {model_id for model_id, _state in jobs}),
        standstill=_most(standstill),
        memory=bounded(memory, MOST_MACHINES),
        webhooks_owed=owed,
        webhooks_overdue=overdue,
        silent_parts={(name,): _since(beat, now) for name, beat in beats},
    )


def bounded(counts: Mapping[tuple[str, ...], int], most: int, first: Collection[str] = ()) -> dict[Any, int]:
    """Name at most so many in the first place of the keys; add the others up.

    Those in `first` come before all others, then those with the largest numbers.
    """
    sizes: Counter[str] = Counter()
    for key, count in counts.items():
        sizes[key[0]] += count
    named = set(sorted(sizes, key=lambda name: (name not in first, -sizes[name]))[:most])
    found: Counter[tuple[str, ...]] = Counter()
    for key, count in counts.items():
        found[key if key[0] in named else (OTHER, *key[1:])] += count
    return dict(found)


def _most(seconds: Mapping[tuple[str], float]) -> dict[tuple[str], float]:
    """Name those with the longest times; of the others the longest is that of one who is named."""
    return dict(sorted(seconds.items(), key=lambda pair: -pair[1])[:MOST_MODELS])


def _since(moment: datetime, now: datetime) -> float:
    return max(0.0, (now - moment).total_seconds())


def _jobs(session: Session, now: datetime) -> tuple[dict[tuple[str, ...], int], dict[tuple[str], float]]:
    """Count the jobs that are not over. The index has all that is asked for, and no table is read."""
    counts: dict[tuple[str, ...], int] = {}
    oldest = {}
    for state in (JobState.QUEUED, JobState.PROCESSING):
        query = select(Job.model_id, func.count(), func.min(Job.queued_at)).where(Job.state == state)
        for model_id, count, since in session.execute(query.group_by(Job.model_id)):
            counts[model_id, state.value] = count
            if state == JobState.QUEUED:
                oldest[model_id,] = _since(since, now)
    return counts, oldest


def _machines(
    session: Session, limits: Limits, now: datetime
) -> tuple[dict[tuple[str], int], dict[tuple[str, ...], int]]:
    holds_any = exists().where(Holding.machine_id == Machine.id)
    query = select(
        *(Machine.id, Machine.last_seen_at, Machine.quiet_until, Machine.drained, Machine.sick, Machine.device),
        holds_any,
    )
    states: Counter[str] = Counter()
    memory: dict[tuple[str, ...], int] = {}
    for machine_id, seen_at, quiet_until, drained, sick, device, holds in session.execute(query):
        silent_for = now - presence.last_sign(seen_at, quiet_until)
        if silent_for > timedelta(seconds=limits.silent_after):
            states["silent" if holds and silent_for < EXPECTED_BACK else "left"] += 1
            continue
        if presence.has_left(device):
            states["left"] += 1
            continue
        states["drained" if drained else "sick" if sick else "alive"] += 1
        for kind in ("total", "free"):
            told = device.get(f"memory_{kind}")
            if isinstance(told, int) and told >= 0:
                memory[machine_id, str(device.get("type", ""))[:20], kind] = told
    return {(state,): states[state] for state in MACHINE_STATES}, memory


def _holdings(
    session: Session, limits: Limits, now: datetime
) -> tuple[dict[tuple[str, ...], int], dict[tuple[str], float]]:
    # A machine that is drained or sick draws nothing: where no other is ready, somebody is to be woken.
    serving = func.count().filter(Machine.drained.is_(False), Machine.sick.is_(None))
    query = select(Holding.model_id, Holding.state, serving, func.min(Holding.moved_at)).join(Holding.machine)
    live = query.where(presence.heard_since(now - timedelta(seconds=limits.silent_after)))
    counts: dict[tuple[str, ...], int] = {}
    standstill = {}
    for model_id, state, count, moved_at in session.execute(live.group_by(Holding.model_id, Holding.state)):
        if count:
            counts[model_id, state.value] = count
        if state == HoldingState.DOWNLOADING and moved_at is not None:
            standstill[model_id,] = _since(moved_at, now)
    return counts, standstill


def _webhooks(session: Session, now: datetime) -> tuple[int, float]:
    query = select(func.count(), func.min(Delivery.next_try_at)).where(Delivery.state == DeliveryState.OWED)
    count, next_try_at = session.execute(query).one()
    return count, _since(next_try_at, now) if next_try_at else 0.0
