"""Jobs of engines: what they take from their engine, which machine may draw them, and what they wait for."""

from dataclasses import replace
from uuid import UUID

from app.core import engines
from app.core.errors import EngineNotFound, NotClaimable
from app.core.extras import Lora, read_all
from app.core.fleet import Transaction
from app.core.lifecycle import EngineState, move_to
from app.core.spec import GenerationSpec
from app.core.tables import Engine, Machine

IN_MEMORY = frozenset({EngineState.READY, EngineState.WORKING})


def furnish(tx: Transaction, engine_id: UUID, spec: GenerationSpec) -> GenerationSpec:
    """Fill an order with what its engine brings along; what the order says itself comes first.

    Holds the engine until the transaction ends, so that no job is accepted for one that is being deleted. Raises
    EngineNotFound.
    """
    engine = tx.session.get(Engine, engine_id, with_for_update={"read": True, "key_share": True})
    if engine is None:
        raise EngineNotFound(engine_id=str(engine_id))
    own = {lora.model_id for lora in spec.loras}
    loras = tuple(lora for lora in read_all(Lora, engine.loras) if lora.model_id not in own)
    return replace(
        spec,
        model_id=engine.checkpoint_id,
        loras=loras + spec.loras,
        embeddings=tuple(dict.fromkeys((*engine.embeddings, *spec.embeddings))),
        vae_id=spec.vae_id or engine.vae_id,
        **{name: value for name, value in engine.defaults.items() if getattr(spec, name) is None},
    )


def require_held(tx: Transaction, engine_id: UUID, machine: Machine) -> None:
    """Raise NotClaimable unless this machine, as it runs now, holds the engine ready for its jobs."""
    engine = engines.get(tx.session, engine_id)
    here = (engine.machine_id, engine.boot_id) == (machine.id, machine.boot_id)
    if not (here and engine.is_wanted and engine.state in IN_MEMORY):
        raise NotClaimable(f"engine {engine_id} is not ready on machine {machine.id!r}")


def settle(tx: Transaction, engine_id: UUID | None) -> None:
    """Let an engine be Working while one of its jobs is drawn, and Ready otherwise."""
    if engine_id is None:
        return
    tx.session.flush()
    # As much of a lock as does not hold up those who only order from it.
    engine = tx.session.get(Engine, engine_id, with_for_update={"key_share": True}, populate_existing=True)
    if engine is None or engine.state not in IN_MEMORY:
        return
    state = EngineState.WORKING if engines.drawn_by(tx.session, engine_id) else EngineState.READY
    if engine.state != state:
        move_to(engine, state)


def why_waiting(engine: Engine, ahead: int) -> str:
    """Say in one sentence what a queued job of an engine waits for."""
    if engine.state == EngineState.CLOSED:
        why = f" ({engine.error})" if engine.error else ""
        return f"engine {engine.id} is Closed{why}; it must be started: {how_to_start(engine)}"
    if not engine.is_wanted:
        return f"engine {engine.id} is being stopped; it must be started again: {how_to_start(engine)}"
    if engine.state == EngineState.STARTING:
        return f"engine {engine.id} is being loaded by {engine.machine_id}"
    queue = {0: "it is next", 1: "1 job is before it"}.get(ahead, f"{ahead} jobs are before it")
    return f"{queue}; engine {engine.id} on {engine.machine_id} draws it"


def how_to_start(engine: Engine) -> str:
    """Name the request that starts an engine."""
    return f"PATCH /v1/engines/{engine.id}/start"
