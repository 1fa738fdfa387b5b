"""Routes of the machine protocol, version 1. Everything but a check-in carries an attempt's number, its fence."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Response, current_app, request
from flask_smorest import Blueprint
from marshmallow import ValidationError
from sqlalchemy.orm import Session

from app.api import serving
from app.api.auth import require_machine, require_shared_token
from app.api.door import Auth, Dialect, Problem, fleet
from app.api.machines import check_in_schemas, schemas
from app.core import (
    attempts,
    batches,
    check_in,
    companions,
    counters,
    engines,
    images,
    inputs,
    jobs,
    models,
    offers,
    peers,
    protocol,
    replay,
)
from app.core.engine_reports import EngineReport
from app.core.errors import ProtocolNotSpoken
from app.core.lifecycle import AttemptState
from app.core.machines import HoldingReport, Report
from app.core.presence import Crowd
from app.core.spec import GenerationSpec
from app.core.tables import Attempt, Engine

CROWD = "imagefleet.crowd"

blueprint = Blueprint("machines", __name__, url_prefix="/machines/v1", description="For the fleet's own machines.")


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong: {"code", "message", "facts"}."""
    return {"code": problem.code, "message": problem.message, "facts": problem.facts or problem.fields}


dialect = Dialect(
    "machines",
    ("/machines",),
    Auth.MACHINE,
    say,
    (blueprint,),
    error=schemas.MachinesErrorSchema,
    title="machines, for the fleet's own",
    problems=(426,),
    about="How machines check in, take jobs and deliver pictures. Clients have nothing to do here.",
)


@blueprint.before_request
def let_nobody_speak_for_another() -> None:
    """Hold the machine that a request names against its token, where that is one machine's own."""
    body = request.get_json(silent=True) if request.is_json else None
    told = body.get("machine_id") if isinstance(body, dict) else None
    for machine_id in (told, *request.args.getlist("machine_id")):
        if machine_id is not None:
            require_machine(str(machine_id))


@blueprint.before_request
def take_only_what_is_spoken_here() -> None:
    """Refuse a machine of another version of the protocol; a check-in's machine is shown with the reason."""
    try:
        protocol.require(request.headers.get(protocol.HEADER))
    except ProtocolNotSpoken as exc:
        if request.endpoint == f"{blueprint.name}.{check_machine_in.__name__}":
            _show_turned_away(str(exc))
        raise


def _show_turned_away(reason: str) -> None:
    """Keep why a machine is not let in, as far as it can be read who it is."""
    told = request.get_json(silent=True)
    try:
        who = check_in_schemas.WhoSchema().load(told if isinstance(told, dict) else {})
    except ValidationError:
        return
    with fleet().transaction() as tx:
        check_in.turn_away(tx, Report(**who), reason)


@blueprint.post("/check-in")
@blueprint.arguments(check_in_schemas.CheckInSchema)
@blueprint.response(200, check_in_schemas.OrdersSchema)
def check_machine_in(body: Mapping[str, Any]) -> dict[str, Any]:
    """Say that a machine lives, what it holds and what it draws; learn what to drop."""
    holdings = [HoldingReport(**holding) for holding in body["holdings"]]
    attempts = frozenset((a["job_id"], a["number"]) for a in body["attempts"])
    told = [EngineReport(**engine) for engine in body["engines"]]
    known = {name: value for name, value in body.items() if name != "engines"}
    report = Report(**{**known, "holdings": holdings, "attempts": attempts})
    with fleet().transaction() as tx:
        orders = check_in.check_in(tx, report, told, _crowd())
        wanted = [_wanted(tx.session, engine) for engine in orders.engines]
    abandon = [{"job_id": job_id, "number": number} for job_id, number in orders.abandon]
    return {
        "abandon": abandon,
        "drained": orders.drained,
        "reason": orders.reason,
        "engines": wanted,
        "pause_seconds": orders.pause_seconds,
    }


def _crowd() -> Crowd:
    found: Crowd = current_app.extensions.setdefault(CROWD, Crowd())
    return found


def _wanted(session: Session, engine: Engine) -> dict[str, Any]:
    model = models.get(session, engine.checkpoint_id)
    about = {"base": model.base, "variant": model.variant}
    return {"engine_id": engine.id, "spec": engines.example_of(engine).to_json(), **about}


@blueprint.post("/jobs/<uuid:job_id>/claim")
@blueprint.arguments(schemas.ClaimRequestSchema)
@blueprint.response(200, schemas.ClaimSchema)
@blueprint.alt_response(409, schema=schemas.MachinesErrorSchema)
def claim(body: dict[str, Any], job_id: UUID) -> dict[str, Any]:
    """Take the next job of the model that a bell was rung for: its `job_id` is in the answer; 409 when none waits.

    A machine that says how many pictures it draws `together` is given others with it, in `also`.
    """
    together = body.pop("together")
    with fleet().transaction() as tx:
        first = attempts.claim(tx, job_id, **body)
        also = batches.take_along(tx, first, together)
        tx.session.flush()
        found = _claimed(tx.session, first)
        return {**found, "also": [_claimed(tx.session, each) for each in also]} if also else found


def _claimed(session: Session, attempt: Attempt) -> dict[str, Any]:
    job = attempts.job_of(session, attempt)
    model = jobs.model_of(session, job)
    beside = companions.about(session, GenerationSpec.from_json(job.spec))
    about: dict[str, Any] = {"base": model.base, "variant": model.variant, "companions": beside}
    if job.traceparent:
        about["traceparent"] = job.traceparent
    if seats := replay.seats(session, job):
        about["seats"] = seats
    return {"job_id": job.id, "attempt": attempt.number, "spec": job.spec, **about}


@blueprint.get("/inputs/<input_id>")
@blueprint.doc(**serving.PICTURE)
def get_input(input_id: str) -> Response:
    """Hand out a picture that an order begins with, by its SHA-256; 404 when it is gone."""
    with fleet().reading() as session:
        found = inputs.get(session, input_id)
    return Response(inputs.read(fleet(), found), mimetype=found.media_type)


@blueprint.put("/jobs/<uuid:job_id>/attempts/<int:number>/images/<int:position>")
@blueprint.arguments(schemas.PictureQuerySchema, location="query")
@blueprint.doc(requestBody=serving.UPLOAD)
@blueprint.response(201, schemas.PictureSchema)
@blueprint.alt_response(409, schema=schemas.MachinesErrorSchema)
def put_image(about: Mapping[str, Any], job_id: UUID, number: int, position: int) -> dict[str, Any]:
    """Deliver a picture as the request's body; the same one twice changes nothing."""
    upload = images.Upload(
        job_id=job_id,
        attempt=number,
        position=position,
        media_type=request.mimetype,
        data=request.get_data(),
        **about,
    )
    with counters.stale_results_counted(fleet()):
        return {"image_id": images.receive(fleet(), upload)}


@blueprint.post("/jobs/<uuid:job_id>/attempts/<int:number>/finish")
@blueprint.arguments(schemas.FinishSchema)
@blueprint.response(200, schemas.FinishedSchema)
@blueprint.alt_response(409, schema=schemas.MachinesErrorSchema)
def finish(body: Mapping[str, Any], job_id: UUID, number: int) -> dict[str, Any]:
    """End an attempt: `completed` once every picture is delivered, `error`, or `lost` to hand the job back."""
    outcome = attempts.Outcome(
        state=AttemptState(body["state"]),
        error_code=body["error_code"],
        error=body["error"],
        permanent=body["permanent"],
        timings=body["timings"],
        receipts=body["receipts"],
    )
    with counters.stale_results_counted(fleet()), fleet().transaction() as tx:
        job = attempts.finish(tx, job_id, number, body["machine_id"], outcome)
        tx.and_then(lambda: fleet().live.forget(job_id))
        return {"status": job.state.value}


@blueprint.post("/peers")
@blueprint.arguments(schemas.AnnouncementSchema)
@blueprint.response(200, schemas.PeersSchema)
def announce(body: Mapping[str, Any]) -> dict[str, Any]:
    """Say which files a machine can hand to its neighbours; learn which neighbours have what it still fetches."""
    require_shared_token()
    with fleet().transaction() as tx:
        found = peers.announce(tx, body["url"], [peers.Shared(**file) for file in body["files"]])
    return {"peers": {k: [{"url": url, "complete": done} for url, done in rows] for k, rows in found.items()}}


@blueprint.post("/models")
@blueprint.arguments(schemas.OffersSchema)
@blueprint.response(200, schemas.AcceptedSchema)
def offer(body: Mapping[str, Any]) -> dict[str, Any]:
    """Say which models another server has that draws for a machine; learn what they are called in the catalogue."""
    with fleet().transaction() as tx:
        return {"ids": offers.accept(tx, [offers.Offer(**model) for model in body["models"]])}
