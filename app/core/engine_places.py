"""Where an engine can be: which machines are ready for it, and which of them have room.

A machine says with each check-in how many bytes an engine could have there (`engine_room`: what is measured to be free,
and what models hold that may leave), and for each model what its networks take and what one picture takes beside them
(app.core.tables.Holding), both read from the headers of the files that it holds.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.core import machines
from app.core.errors import NotEnoughMemory, Unserved
from app.core.fleet import Transaction
from app.core.lifecycle import EngineState, HoldingState
from app.core.tables import Engine, Holding, Machine

ROOM, MOST = "engine_room", "engine_most"
"""What a machine tells of its device, bytes; missing where it cannot hold engines, null where it does not know."""


@dataclass(frozen=True, slots=True)
class Place:
    """What an engine would find on one machine. Bytes; None: not known there, so that it has to be tried."""

    machine: Machine
    estimated: int | None
    """What its networks will take."""
    needed: int | None
    """What has to be free: networks that are not there yet, and what one picture takes."""
    room: int | None
    companions: int
    """How many of its LoRAs and the like the machine holds already."""

    @property
    def fits(self) -> bool:
        """Say whether there is room, as far as anybody knows."""
        return self.needed is None or self.room is None or self.needed <= self.room


def choose(tx: Transaction, engine: Engine) -> Place:
    """Return the best place for an engine: where what goes along with it is, then where most room is.

    Raises Unserved when no machine is ready for its checkpoint, and NotEnoughMemory when none of those has room.
    """
    found = _places(tx, engine, ROOM)
    if not found:
        outlook = machines.outlook(tx.session, engine.checkpoint_id, tx.limits, tx.now)
        if outlook.working:
            raise Unserved(f"{', '.join(h.machine_id for h in outlook.working)}: the driver there holds no engines")
        raise Unserved(machines.why_waiting(outlook, engine.checkpoint_id, 0), model_id=engine.checkpoint_id)
    fitting = [place for place in found if place.fits]
    if not fitting:
        raise _too_little(found, "there is room for")
    return max(fitting, key=lambda place: (place.companions, place.room or 0))


def require_possible(tx: Transaction, engine: Engine) -> None:
    """Raise NotEnoughMemory where the engine could not be held even if nothing else were in memory."""
    found = _places(tx, engine, MOST)
    if found and not any(place.fits for place in found):
        raise _too_little(found, "there is memory for")


def _too_little(found: Sequence[Place], there: str) -> NotEnoughMemory:
    told = "; ".join(
        f"{place.machine.id} needs {(place.needed or 0) / 1e9:.2f} GB, and {there} {(place.room or 0) / 1e9:.2f} GB"
        for place in found
    )
    return NotEnoughMemory(
        f"Not enough VRAM to start: {told}; stop another engine, or give a machine more memory",
        machines={place.machine.id: {"needed": place.needed, "room": place.room} for place in found},
    )


def _places(tx: Transaction, engine: Engine, room: str) -> list[Place]:
    """Return what an engine would find on the machines that are ready for its checkpoint."""
    since = tx.now - timedelta(seconds=tx.limits.silent_after)
    ready = (
        select(Holding)
        .join(Machine, Machine.id == Holding.machine_id)
        .options(joinedload(Holding.machine))
        .where(Holding.model_id == engine.checkpoint_id, Holding.state == HoldingState.READY)
        .where(machines.takes_jobs_since(since))
        .order_by(Holding.machine_id)
    )
    holdings = [each for each in tx.session.scalars(ready) if room in each.machine.device]
    ids = [each.machine_id for each in holdings]
    beside, others = _companions(tx.session, engine, ids), _engines_of(tx.session, ids)
    return [_place(engine, each, beside[each.machine_id], others[each.machine_id], room) for each in holdings]


def _place(engine: Engine, holding: Holding, beside: Sequence[Holding], others: Sequence[Engine], room: str) -> Place:
    free, weights = holding.machine.device[room], holding.weights_bytes
    needed = None
    if weights is not None:
        is_there = room == ROOM and any(other.checkpoint_id == engine.checkpoint_id for other in others)
        extra = sum(each.weights_bytes or each.bytes_total or 0 for each in beside)
        needed = (0 if is_there else weights) + (holding.drawing_bytes or 0) + extra
    if free is not None and room == ROOM:
        # What is still being loaded is not in the machine's figure yet.
        free -= sum(other.bytes_estimated or 0 for other in others if other.state == EngineState.STARTING)
    return Place(holding.machine, weights, needed, free, len(beside))


def _companions(session: Session, engine: Engine, machine_ids: Sequence[str]) -> Mapping[str, list[Holding]]:
    """Return what machines hold of an engine's VAE, LoRAs and embeddings, by machine."""
    wanted = [engine.vae_id, *(lora["model_id"] for lora in engine.loras), *engine.embeddings]
    query = select(Holding).where(Holding.machine_id.in_(machine_ids), Holding.model_id.in_([w for w in wanted if w]))
    found: dict[str, list[Holding]] = defaultdict(list)
    for holding in session.scalars(query.where(Holding.state == HoldingState.READY)):
        found[holding.machine_id].append(holding)
    return found


def _engines_of(session: Session, machine_ids: Sequence[str]) -> Mapping[str, list[Engine]]:
    query = select(Engine).where(Engine.machine_id.in_(machine_ids), Engine.state != EngineState.CLOSED)
    found: dict[str, list[Engine]] = defaultdict(list)
    for engine in session.scalars(query):
        found[str(engine.machine_id)].append(engine)
    return found
