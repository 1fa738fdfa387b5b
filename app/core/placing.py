"""The facts that a placement is made from: what is ordered, how long it takes, and what lies on which machine."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core import capacity, paces, placement, roster
from app.core.fleet import Limits
from app.core.lifecycle import HoldingState
from app.core.models import DRAWABLE
from app.core.placement import HORIZON_SECONDS, Advice
from app.core.placement_facts import Facts, MachineFacts, ModelFacts
from app.core.roster import Hold, Post, Roster, Standing
from app.core.tables import Engine, Job, Model

LATELY = timedelta(hours=1)
"""How far back orders count: demand that comes again and again should find its machines warm."""

UNKNOWN_JOB_SECONDS = 10.0
"""What a job of a model is taken to last while no job of any model was measured."""

LEFT_ALONE = {
    Standing.DRAINED: "left alone: an operator keeps it from taking jobs",
    Standing.SICK: "left alone: the fleet takes it for sick and gives it no jobs; `imagefleet machines list` says why",
    Standing.SILENT: "left alone: it no longer checks in",
}


REMOTE = "remote"
"""The type of device of a machine whose drawing another server does."""

NOT_OURS = "left alone: its models are those of the server that draws for it"


def propose(session: Session, limits: Limits, now: datetime) -> Advice:
    """Propose for each machine that was seen in the last day what it should hold next."""
    found = roster.read(session, limits, now)
    drawable = set(session.scalars(select(Model.id).where(Model.kind == DRAWABLE)))
    on_disk: dict[str, set[str]] = {}
    coming: dict[str, list[Hold]] = {}
    for hold in (each for holds in found.holds.values() for each in holds):
        if hold.state == HoldingState.READY:
            on_disk.setdefault(hold.machine_id, set()).add(hold.model_id)
        elif hold.state != HoldingState.ERROR:
            coming.setdefault(hold.machine_id, []).append(hold)
    models = _models(session, found, drawable, now)
    needed = (model_id for post in found.posts.values() for model_id in post.needed)
    held = (model_id for model_ids in on_disk.values() for model_id in model_ids)
    pinned = _pinned(session)
    machines = [
        _machine(post, on_disk.get(post.machine_id, ()), coming.get(post.machine_id, ()), pinned)
        for _, post in sorted(found.posts.items())
    ]
    sizes = roster.sizes_of(session, {*models, *needed, *held}, found)
    return placement.advise(Facts(machines, models, sizes, found.speed()))


def _models(session: Session, found: Roster, drawable: Iterable[str], now: datetime) -> Mapping[str, ModelFacts]:
    demands = capacity.demand_of(session)
    query = select(Job.model_id, func.count()).where(Job.created_at >= now - LATELY).group_by(Job.model_id)
    recent: dict[str, int] = {model_id: count for model_id, count in session.execute(query)}  # noqa: C416  # rows are no pairs to mypy
    model_ids = sorted({*drawable, *demands})
    known = {key: pace for part in roster.parts(model_ids) for key, pace in paces.known_of(session, part).items()}
    lasting = {model_id: pace.job for (model_id, device), pace in known.items() if not device and pace.job}
    usual = sum(lasting.values()) / len(lasting) if lasting else UNKNOWN_JOB_SECONDS
    facts = {}
    for model_id in model_ids:
        demand = demands.get(model_id, capacity.Demand())
        ordered = demand.waiting / HORIZON_SECONDS + recent.get(model_id, 0) / LATELY.total_seconds()
        facts[model_id] = ModelFacts(
            id=model_id,
            jobs=demand.waiting + demand.running,
            recent=recent.get(model_id, 0),
            work=ordered * lasting.get(model_id, usual),
            memory=_memory(found.holds.get(model_id, ())),
        )
    return facts


def _memory(holds: Iterable[Hold]) -> int | None:
    """Return what drawing with a model takes, as the machines that hold it have estimated."""
    measured = [hold.weights_bytes + (hold.drawing_bytes or 0) for hold in holds if hold.weights_bytes]
    return max(measured, default=None)


def _pinned(session: Session) -> Mapping[str, frozenset[str]]:
    """Name, by machine, the checkpoints of the engines that are wanted there."""
    found: dict[str, set[str]] = {}
    query = select(Engine.machine_id, Engine.checkpoint_id).where(Engine.is_wanted, Engine.machine_id.is_not(None))
    for machine_id, checkpoint_id in session.execute(query):
        found.setdefault(str(machine_id), set()).add(checkpoint_id)
    return {machine_id: frozenset(ids) for machine_id, ids in found.items()}


def _machine(
    post: Post, on_disk: Iterable[str], coming: Iterable[Hold], pinned: Mapping[str, frozenset[str]]
) -> MachineFacts:
    free = _number(post.device, "disk_free")
    return MachineFacts(
        id=post.machine_id,
        needed=tuple(post.needed),
        on_disk=frozenset(on_disk),
        disk_free=None if free is None else max(0, free - sum(hold.bytes_to_come for hold in coming)),
        memory=_number(post.device, "memory_total") or None,
        pinned=pinned.get(post.machine_id, frozenset()),
        why_left_alone=LEFT_ALONE.get(post.standing) or (NOT_OURS if post.device.get("type") == REMOTE else None),
    )


def _number(device: Mapping[str, Any], name: str) -> int | None:
    """Read what a machine has said of itself; it may say anything."""
    value = device.get(name)
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
