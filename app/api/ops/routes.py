"""Routes for those who watch the server: /health says alive, /ready says able to serve, /metrics counts."""

import time
from datetime import timedelta
from typing import Any

from flask import Response, current_app, request
from flask_smorest import Blueprint
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.api.door import Auth, Dialect, Problem, fleet
from app.api.ops import metrics, schemas
from app.core import census, counters, machines
from app.core.census import Census
from app.core.dispatch import CONTROL_QUEUE

KEPT_SECONDS = 5.0
"""How long a count is good for: whoever asks more often costs the database next to nothing."""

MOST_OF_THE_TIME = 20
"""A count that takes long is kept so many times as long: with a million jobs that wait, counting still takes no more
than a twentieth of the time."""

KEPT = "imagefleet.metrics"

blueprint = Blueprint("ops", __name__, description="Alive, ready, and counted.")


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong in one field."""
    return {"status": "error", "error": problem.message}


dialect = Dialect(
    "ops",
    ("/health", "/ready"),
    Auth.OPEN,
    say,
    (blueprint,),
    error=schemas.OpsErrorSchema,
    title="ops, for those who watch the server",
    about="Is the server alive, and can it serve? Load balancers and Kubernetes ask this.",
)
counted = Dialect(
    "metrics",
    ("/metrics",),
    Auth.METRICS,
    say,
    (),
    error=schemas.OpsErrorSchema,
    title="metrics, for Prometheus",
    about="Counts of jobs, machines and deliveries in Prometheus' text format.",
)


@blueprint.get("/health")
@blueprint.response(200, schemas.HealthSchema)
def health() -> dict[str, str]:
    """Answer as long as the process can; what it depends on is /ready's business."""
    return {"status": "ok"}


@blueprint.get("/ready")
@blueprint.response(200, schemas.ReadySchema)
@blueprint.alt_response(503, schema=schemas.ReadySchema, description="the database does not answer", success=True)
def ready() -> tuple[dict[str, Any], int]:
    """Say whether jobs can be taken and drawn, and name what is down.

    Without its database the server cannot serve (503). Without its broker, or with no machine, it still takes jobs and
    keeps them: that is `degraded`, with status 200.
    """
    parts = {"database": "ok", "broker": _broker(), "machines": "ok"}
    serving: dict[str, int] = {}
    try:
        serving = _serving()
    except SQLAlchemyError as exc:
        parts["database"] = f"does not answer: {type(exc).__name__}"
    down = parts["database"] != "ok"
    if not down and not serving:
        parts["machines"] = "no live machine is ready for any model"
    status = "down" if down else "ready" if all(state == "ok" for state in parts.values()) else "degraded"
    return {"status": status, "parts": parts, "models": serving}, 503 if down else 200


@blueprint.get("/metrics")
@blueprint.response(200, content_type="text/plain", schema={"type": "string"})
def show_metrics() -> Response:
    """Tell what there is and what has happened, for Prometheus; as OpenMetrics to those who ask for it."""
    counters.write(fleet())
    with fleet().reading() as session:
        found = _census(session)
        # Never kept: asked of another process in between, a counter would seem to go back.
        text, media_type = metrics.to_text(found, counters.read_all(session), request.headers.get("Accept", ""))
    return Response(text, content_type=media_type)


def _census(session: Session) -> Census:
    """Count what there is, or return what was counted a moment ago."""
    now = fleet().clock()
    kept_until, found = current_app.extensions.get(KEPT, (now, None))
    if found is None or now >= kept_until:
        began = time.monotonic()
        found = census.take(session, fleet().limits, now)
        took = time.monotonic() - began
        current_app.extensions[KEPT] = (now + timedelta(seconds=max(KEPT_SECONDS, took * MOST_OF_THE_TIME)), found)
    kept: Census = found
    return kept


def _broker() -> str:
    return "does not answer" if fleet().dispatcher.depth(CONTROL_QUEUE) is None else "ok"


def _serving() -> dict[str, int]:
    """Count the machines that are ready, by model."""
    with fleet().reading() as session:
        found = machines.outlooks(session, fleet().limits, fleet().clock())
        return {model_id: len(outlook.ready) for model_id, outlook in sorted(found.items()) if outlook.ready}
