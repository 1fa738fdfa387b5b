"""Engines (seed 000): a checkpoint with what goes along with it, kept in the memory of one machine.

The row is the promise here too. Starting chooses a machine and writes that the engine is wanted there; the machine
learns of it with its next check-in, or sooner by a bell in its own queue, loads it, and says so
(app.core.engine_reports). A message that is lost costs three seconds and no start. Stopping goes the same way.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from app.core import bases, engine_places, machines, models, paging, picture_files
from app.core.dispatch import ENGINES, Message, machine_queue
from app.core.errors import (
    BasesDiffer,
    CheckpointNotFound,
    EngineNotFound,
    EngineRunning,
    Invalid,
    ModelNotFound,
)
from app.core.extras import CONTROL_KINDS, Lora, read_all
from app.core.fleet import Fleet, Transaction
from app.core.lifecycle import EngineState, JobState, move_to
from app.core.paging import Listing, Page, Part
from app.core.spec import GenerationSpec
from app.core.tables import Engine, Image, Job, Machine, Model

log = logging.getLogger(__name__)

WEIGHTERS = ("a1111", "sd_embed")
"""How prompts may be weighted. Both name Automatic1111's syntax, with prompts of any length: sd_embed reads it too."""

CONTROL_WORDS = frozenset({*CONTROL_KINDS, "mediapipe", "midaspose"})
"""What an engine's ControlNets may be called beside their ids; the last two as in seed 000."""

LISTING = Listing(
    key=Engine.id,
    columns={"created_at": Engine.created_at, "status": Engine.state, "checkpoint": Engine.checkpoint_id},
    default="created_at",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What an engine is made of."""

    checkpoint_id: str
    vae_id: str | None = None
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[str, ...] = ()
    prompt_weighter: str | None = None
    """One of WEIGHTERS; None: the first."""
    controlnets: tuple[str, ...] = ()
    """Words out of CONTROL_WORDS, or ids of models."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of GenerationSpec that its jobs may leave out: scheduler, steps, guidance_scale, width, height."""


def create(tx: Transaction, wanted: EngineSpec) -> Engine:
    """Write an engine down; it is closed until it is started.

    Raises CheckpointNotFound, ModelNotFound, BasesDiffer, Invalid for models of the wrong kind and for defaults that
    can never be drawn, and NotEnoughMemory where no machine that is ready for the checkpoint could ever hold it.
    """
    _require_parts(tx.session, wanted)
    if wanted.prompt_weighter not in {None, *WEIGHTERS}:
        raise Invalid(
            f"prompt_weighter must be one of {', '.join(WEIGHTERS)}, not {wanted.prompt_weighter!r}: prompts are read "
            "in Automatic1111's syntax"
        )
    engine = Engine(
        checkpoint_id=wanted.checkpoint_id,
        vae_id=wanted.vae_id,
        loras=[asdict(lora) for lora in wanted.loras],
        embeddings=list(wanted.embeddings),
        prompt_weighter=wanted.prompt_weighter,
        controlnets=list(wanted.controlnets),
        defaults=dict(wanted.defaults),
        created_at=tx.now,
        updated_at=tx.now,
    )
    example_of(engine)
    engine_places.require_possible(tx, engine)
    tx.session.add(engine)
    tx.session.flush()
    return engine


def _require_parts(session: Session, wanted: EngineSpec) -> None:
    """Hold an engine's parts against the catalogue: they exist, are of the right kind, and of one base."""
    controls = [each for each in wanted.controlnets if each not in CONTROL_WORDS]
    kinds = {
        **({wanted.vae_id: "vae"} if wanted.vae_id else {}),
        **{lora.model_id: "lora" for lora in wanted.loras},
        **dict.fromkeys(wanted.embeddings, "embedding"),
        **dict.fromkeys(controls, "controlnet"),
    }
    found, missing = models.find(session, [wanted.checkpoint_id, *kinds], is_held=True)
    if wanted.checkpoint_id in missing:
        raise CheckpointNotFound(
            f"Checkpoint doesn't exist: no model {wanted.checkpoint_id!r} is in the catalogue",
            model_id=wanted.checkpoint_id,
        )
    if missing:
        raise ModelNotFound(f"{kinds[missing[0]]} {missing[0]!r} doesn't exist in the catalogue", model_id=missing[0])
    checkpoint, *others = found
    for model, kind in ((checkpoint, models.DRAWABLE), *((other, kinds[other.id]) for other in others)):
        if model.kind != kind:
            raise Invalid(f"{model.id!r} is a {model.kind}, and not a {kind}", model_id=model.id)
    _require_one_base([checkpoint, *others])


def _require_one_base(found: Sequence[Model]) -> None:
    checkpoint, *others = found
    if all(bases.fit(checkpoint.base, other.base, other.kind) for other in others):
        return
    made_for = {model.id: model.base for model in found if model.base}
    told = ", ".join(f"{model_id} is made for {base}" for model_id, base in made_for.items())
    raise BasesDiffer(f"base of models are not the same between them: {told}", bases=made_for)


def get(session: Session, engine_id: UUID) -> Engine:
    """Find one engine; raises EngineNotFound."""
    engine = session.get(Engine, engine_id)
    if engine is None:
        raise EngineNotFound(engine_id=str(engine_id))
    return engine


def _locked(session: Session, engine_id: UUID) -> Engine:
    engine = session.get(Engine, engine_id, with_for_update=True, populate_existing=True)
    if engine is None:
        raise EngineNotFound(engine_id=str(engine_id))
    return engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which engines to list."""

    states: Sequence[EngineState] = ()
    """Empty: all."""
    checkpoint_id: str | None = None
    part: Part = Part(sort=LISTING.default)


def page(session: Session, query: Query) -> tuple[Page[Engine], int]:
    """Return the engines of one page, and how many there are on all pages."""
    if query.checkpoint_id is not None and not models.can_be_stored(query.checkpoint_id):
        return Page([], None), 0
    count = _matching(select(func.count()).select_from(Engine), query)
    found = paging.page(session, _matching(select(Engine), query), LISTING, query.part)
    return found, session.scalar(count) or 0


def _matching(query: Select[Any], wanted: Query) -> Select[Any]:
    if wanted.states:
        query = query.where(Engine.state.in_(wanted.states))
    if wanted.checkpoint_id is not None:
        query = query.where(Engine.checkpoint_id == wanted.checkpoint_id)
    return query


def start(tx: Transaction, engine_id: UUID) -> Engine:
    """Choose a machine with room for an engine, and have it loaded there. Asked again it changes nothing.

    Raises EngineNotFound, EngineRunning while it is still being stopped, Unserved when no live machine is ready for its
    checkpoint, and NotEnoughMemory when none of those has room.
    """
    engine = _locked(tx.session, engine_id)
    if engine.state != EngineState.CLOSED:
        if engine.is_wanted:
            return engine
        raise EngineRunning(f"engine is running: {engine.machine_id} still stops it; start it again once it is Closed")
    place = engine_places.choose(tx, engine)
    move_to(engine, EngineState.STARTING)
    engine.is_wanted = True
    engine.machine_id, engine.boot_id = place.machine.id, place.machine.boot_id
    engine.bytes_estimated, engine.bytes_measured = place.estimated, None
    engine.error_code = engine.error = None
    engine.started_at, engine.updated_at = None, tx.now
    _ring(tx, engine)
    log.info("engine %s: starting on %s", engine.id, engine.machine_id)
    return engine


def stop(tx: Transaction, engine_id: UUID) -> Engine:
    """Have an engine leave the memory; the job that it draws ends first. Asked again it changes nothing.

    Raises EngineNotFound.
    """
    engine = _locked(tx.session, engine_id)
    if engine.state == EngineState.CLOSED or not engine.is_wanted:
        return engine
    engine.is_wanted, engine.updated_at = False, tx.now
    machine = tx.session.get(Machine, engine.machine_id)
    if machine is None or not machines.is_alive(machine, tx.limits, tx.now):
        close(tx, engine)  # nobody is there who could say that it has left
        return engine
    _ring(tx, engine)
    log.info("engine %s: stopping on %s", engine.id, engine.machine_id)
    return engine


def _ring(tx: Transaction, engine: Engine) -> None:
    tx.after_commit(Message(ENGINES, machine_queue(str(engine.machine_id)), engine.id))


def close(tx: Transaction, engine: Engine, code: str | None = None, reason: str | None = None) -> None:
    """Note that an engine, whose row is locked, is in no memory any more; its jobs wait until it is started again."""
    move_to(engine, EngineState.CLOSED)
    engine.is_wanted, engine.boot_id, engine.bytes_measured = False, None, None
    engine.error_code, engine.error = code, reason
    engine.updated_at = tx.now
    log.log(logging.WARNING if reason else logging.INFO, "engine %s: closed; %s", engine.id, reason or "it was stopped")


def remove(tx: Transaction, engine_id: UUID, fleet: Fleet) -> None:
    """Delete an engine with all of its jobs and their pictures; raises EngineNotFound, and EngineRunning."""
    engine = _locked(tx.session, engine_id)
    if engine.state != EngineState.CLOSED:
        what = "stop it first" if engine.is_wanted else "it is being stopped, ask again once it is Closed"
        raise EngineRunning(f"engine is running, it is {engine.state}: {what}", state=str(engine.state))
    if drawn := drawn_by(tx.session, engine_id):
        raise EngineRunning(f"engine is running: job {drawn} is still being drawn; cancel it, or wait for its end")
    mine = Job.engine_id == engine_id
    drawn_pictures = select(Image.id, Image.key).join(Job, Job.id == Image.job_id).where(mine)
    gone = tx.session.execute(drawn_pictures).all()
    tx.session.execute(delete(Job).where(mine).execution_options(synchronize_session=False))
    tx.session.delete(engine)
    picture_files.forget(tx, gone, fleet)


def drawn_by(session: Session, engine_id: UUID) -> UUID | None:
    """Return a job that an engine draws at this moment."""
    query = select(Job.id).where(Job.engine_id == engine_id, Job.state == JobState.PROCESSING)
    return session.scalars(query.limit(1)).first()


def example_of(engine: Engine) -> GenerationSpec:
    """Return an order as the engine's jobs are; raises InvalidSpec for what can never be drawn."""
    return GenerationSpec(
        model_id=engine.checkpoint_id,
        prompt="",
        loras=read_all(Lora, engine.loras),
        embeddings=tuple(engine.embeddings),
        vae_id=engine.vae_id,
        **engine.defaults,
    )
