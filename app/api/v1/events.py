"""v1: what happens to a job, as a stream and as a list, and its preview."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urljoin
from uuid import UUID

from flask import Response, request

from app.api.door import Refused, absolute, fleet, root_url
from app.api.streaming import KEEP_ALIVE, GoOn, streamed
from app.api.v1 import telling, translate
from app.api.v1.blueprint import blueprint
from app.api.v1.event_schemas import KINDS, EventQuerySchema, EventSchema, TimelineSchema
from app.api.v1.schemas import V1ErrorSchema
from app.core import jobs
from app.core.lifecycle import JobState
from app.core.live import Progress
from app.core.timeline import News, Place, Reader

STREAMED = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string", "enum": KINDS},
        "data": {"type": "string", "description": "JSON, as the timeline has it"},
    },
}
"""One server-sent event, by the fields that are read from its lines."""


@blueprint.get("/jobs/<uuid:job_id>/events")
@blueprint.arguments(EventQuerySchema, location="query")
@blueprint.response(200, content_type="text/event-stream", schema=STREAMED)
@blueprint.alt_response(204, description="all events up to the last one are known: do not come back")
@blueprint.alt_response(404, schema=V1ErrorSchema)
@blueprint.alt_response(503, schema=V1ErrorSchema, description="too many streams are open; poll instead")
@blueprint.doc(parameters=[{"in": "header", "name": "Last-Event-ID", "schema": {"type": "string"}}])
def stream_events(query: Mapping[str, Any], job_id: UUID) -> Response:
    """Stream what happens to a job as server-sent events, from its beginning or after `Last-Event-ID`.

    The ids of events stay valid for ever: whoever comes back with one gets all that came later, whatever was restarted
    meanwhile. `progress` events are kept while the job runs and some minutes longer. The stream ends after `ended`.
    """
    reader = Reader(fleet(), job_id, _last_event_id(query))
    reader.find()
    if reader.is_over:
        return Response(status=204)  # https://html.spec.whatwg.org/multipage/server-sent-events.html: no reconnecting
    url = partial(urljoin, root_url())
    instead = f"poll {absolute(f'/v1/jobs/{job_id}/timeline')} instead, or try again later"
    return streamed(lambda go_on: _stream(reader, go_on, url), instead)


def _stream(reader: Reader, go_on: GoOn, url: translate.UrlFor) -> Iterator[str]:
    yield f"retry: {telling.RETRY_MILLISECONDS}\n\n"
    schema = EventSchema()
    yield from telling.as_they_come(
        lambda: (schema.dump(_to_json(news, reader, url)) for news in reader.look()),
        lambda: not reader.is_over and go_on(),
        KEEP_ALIVE,
        lambda: reader.is_over,
    )


@blueprint.get("/jobs/<uuid:job_id>/timeline")
@blueprint.arguments(EventQuerySchema, location="query")
@blueprint.response(200, TimelineSchema)
@blueprint.alt_response(404, schema=V1ErrorSchema)
def list_events(query: Mapping[str, Any], job_id: UUID) -> dict[str, Any]:
    """List what has happened to a job: the events that its stream would send, for those who poll."""
    reader = Reader(fleet(), job_id, query.get("last_event_id"))
    found = [_to_json(news, reader, absolute) for news in reader.look()]
    return {"events": found, "last_event_id": str(reader.place), "is_over": reader.is_over}


@blueprint.get("/jobs/<uuid:job_id>/preview")
@blueprint.response(200, content_type="image/jpeg", schema={"type": "string", "format": "binary"})
@blueprint.alt_response(404, schema=V1ErrorSchema)
def show_preview(job_id: UUID) -> Response:
    """Show the picture that is being drawn, as far as it is."""
    with fleet().reading() as session:
        state = jobs.state_of(session, job_id)
    preview = fleet().live.preview(job_id) if state == JobState.PROCESSING else None
    if preview is None:
        when = "one comes after some of its steps" if state == JobState.PROCESSING else "there are some while it runs"
        raise Refused(404, "no_preview", f"job {job_id} is {state} and has no preview; {when}")
    response = Response(preview, mimetype="image/jpeg")
    response.headers["Cache-Control"] = "no-store"
    return response


def _last_event_id(query: Mapping[str, Any]) -> Place | None:
    """Take the id from the header, which browsers send when they come back, or else from the query."""
    found: Place | None = query.get("last_event_id")
    if given := request.headers.get("Last-Event-ID", "").strip():
        try:
            return Place.parse(given)
        except ValueError as exc:
            raise Refused(
                422, "invalid_request", f"Last-Event-ID: {exc}; send one of this job's events, or none"
            ) from exc
    return found


def _to_json(news: News, reader: Reader, url: translate.UrlFor) -> dict[str, Any]:
    place, what = news
    if isinstance(what, Progress):
        return {"id": str(place), **telling.progress_to_json(what)}
    assert reader.job is not None  # it has just told of it
    return {"id": str(place), **telling.event_to_json(what, reader.job, url)}
