"""Service: whether anybody draws what is ordered, and what it waits for if not: for models and for engines."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from app.core import engine_jobs, engines, machines
from app.core.errors import Unserved
from app.core.fleet import Limits, Transaction
from app.core.tables import Job


def require_served(tx: Transaction, model_id: str, engine_id: UUID | None) -> None:
    """Raise Unserved where no live machine holds the model, or the engine if there is one."""
    if engine_id is not None:
        engine = engines.get(tx.session, engine_id)
        if engine.state not in engine_jobs.IN_MEMORY:
            raise Unserved(engine_jobs.why_waiting(engine, 0), engine_id=str(engine_id))
    elif not machines.outlook(tx.session, model_id, tx.limits, tx.now).ready:
        raise Unserved(f"no live machine holds {model_id!r} at the moment; ask again later", model_id=model_id)


def why_waiting(session: Session, job: Job, ahead: int, limits: Limits, now: datetime) -> str:
    """Say in one sentence what a queued job waits for, with `ahead` others before it."""
    if job.engine_id is not None:
        return engine_jobs.why_waiting(engines.get(session, job.engine_id), ahead)
    return machines.why_waiting(machines.outlook(session, job.model_id, limits, now), job.model_id, ahead)
