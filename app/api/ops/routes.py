"""Routes for those who watch the server: /health says alive, /ready says able to serve and what is missing."""

from typing import Any

from flask_smorest import Blueprint
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.api.door import Auth, Dialect, Problem, fleet
from app.core import machines
from app.core.dispatch import CONTROL_QUEUE

blueprint = Blueprint("ops", __name__, description="Alive and ready.")


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong in one field."""
    return {"status": "error", "error": problem.message}


dialect = Dialect("ops", ("/health", "/ready"), Auth.OPEN, say, (blueprint,))


@blueprint.get("/health")
def health() -> dict[str, str]:
    """Answer as long as the process can; what it depends on is /ready's business."""
    return {"status": "ok"}


@blueprint.get("/ready")
def ready() -> tuple[dict[str, Any], int]:
    """Say whether jobs can be taken and drawn, and name what is down.

    Without its database the server cannot serve (503). Without its broker, or with no machine, it still takes jobs and
    keeps them: that is `degraded`, with status 200.
    """
    parts = {"database": _database(), "broker": _broker(), "machines": "ok"}
    serving: dict[str, int] = {}
    if parts["database"] == "ok":
        serving = _serving()
        parts["machines"] = "ok" if serving else "no live machine is ready for any model"
    down = parts["database"] != "ok"
    status = "down" if down else "ready" if all(state == "ok" for state in parts.values()) else "degraded"
    return {"status": status, "parts": parts, "models": serving}, 503 if down else 200


def _database() -> str:
    try:
        with fleet().reading() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError as exc:
        return f"does not answer: {type(exc).__name__}"
    return "ok"


def _broker() -> str:
    return "does not answer" if fleet().dispatcher.depth(CONTROL_QUEUE) is None else "ok"


def _serving() -> dict[str, int]:
    """Count the machines that are ready, by model."""
    with fleet().reading() as session:
        found = machines.outlooks(session, fleet().limits, fleet().clock())
        return {model_id: len(outlook.ready) for model_id, outlook in sorted(found.items()) if outlook.ready}
