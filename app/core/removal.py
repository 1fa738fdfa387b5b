"""Taking models out of the catalogue: who needs one still."""

import json
from collections.abc import Iterator

from sqlalchemy import Text, cast, select
from sqlalchemy.orm import Session

from app.core import models
from app.core.errors import ModelInUse
from app.core.fleet import Transaction
from app.core.lifecycle import JobState
from app.core.spec import GenerationSpec
from app.core.tables import Engine, Job, Model

UNENDED = (JobState.QUEUED, JobState.PROCESSING)


def remove(tx: Transaction, model_id: str) -> None:
    """Take a model out of the catalogue; raises ModelNotFound, and ModelInUse that says who needs it.

    Jobs need their model also when they have ended: they tell with what they were drawn, and may be ordered again.
    """
    model = models.locked(tx.session, model_id, to_remove=True)
    if reason := next(_reasons(tx.session, model_id), None):
        raise ModelInUse(reason, model_id=model_id)
    tx.session.delete(model)


def _reasons(session: Session, model_id: str) -> Iterator[str]:
    """Say what keeps a model, the most urgent first."""
    mine = select(Job.state).where(Job.model_id == model_id)
    waiting = session.scalar(mine.where(Job.state.in_(UNENDED)).limit(1)) is not None
    if waiting or session.scalar(mine.limit(1)) is not None:
        yield (
            f"model {model_id!r} has jobs{' that wait or run' if waiting else ' in the history'}; "
            "take it out of MACHINE_MODELS_NEEDED instead, and machines stop holding it"
        )
    for engine in session.scalars(select(Engine)):
        if model_id in _parts(engine):
            yield f"engine {engine.id} is made of model {model_id!r}; delete the engine first"
    if waiting_id := _waiting_with(session, model_id):
        yield f"job {waiting_id} waits or runs with model {model_id!r}; cancel it, or wait for its end"
    quoted = cast(Model.dependencies, Text).contains(json.dumps(model_id), autoescape=True)
    if other := session.scalar(select(Model.id).where(quoted, Model.id != model_id).limit(1)):
        yield f"model {other!r} depends on model {model_id!r}; delete that first, or change its dependencies"


def _parts(engine: Engine) -> set[str | None]:
    loras = (lora["model_id"] for lora in engine.loras)
    return {engine.checkpoint_id, engine.vae_id, *loras, *engine.embeddings, *engine.controlnets}


def _waiting_with(session: Session, model_id: str) -> str | None:
    """Return a job that has not ended and takes a model along; its spec as text finds those that might."""
    quoted = cast(Job.spec, Text).contains(json.dumps(model_id), autoescape=True)
    for job in session.scalars(select(Job).where(Job.state.in_(UNENDED), quoted)):
        if model_id in GenerationSpec.from_json(job.spec).companions:
            return str(job.id)
    return None
