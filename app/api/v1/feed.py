"""v1: what happens to all jobs of a client, as one stream and as a list: for pages that watch many jobs at once."""

import random
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urljoin

from flask import Response, request

from app.api.auth import is_client, owner
from app.api.door import Refused, absolute, fleet, root_url
from app.api.streaming import GoOn, streamed
from app.api.v1 import telling, translate
from app.api.v1.blueprint import blueprint
from app.api.v1.event_schemas import ALIVE, BEGAN, KINDS, FeedEventSchema, FeedQuerySchema, FeedSchema
from app.api.v1.schemas import V1ErrorSchema
from app.core.feed import Feed, Spot, Told

LONGEST_SECONDS = 600.0
"""After so long a stream ends and its client comes back: seats go round, and so does the look at its token."""

STREAMED = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string", "enum": [*KINDS, BEGAN, ALIVE]},
        "data": {"type": "string", "description": "JSON, as /v1/timeline has it"},
    },
}
"""One server-sent event, by the fields that are read from its lines."""


@blueprint.get("/events")
@blueprint.arguments(FeedQuerySchema, location="query")
@blueprint.response(200, content_type="text/event-stream", schema=STREAMED)
@blueprint.alt_response(503, schema=V1ErrorSchema, description="too many streams are open; poll instead")
@blueprint.doc(parameters=[{"in": "header", "name": "Last-Event-ID", "schema": {"type": "string"}}])
def stream_feed(query: Mapping[str, Any]) -> Response:
    """Stream what happens to all jobs of this token, from now on or after `Last-Event-ID`; to an operator's, all jobs.

    Nothing is left out, whatever was restarted meanwhile; the last seconds before a break may be told again, by the
    same `job_id` and `number`. `progress` tells of the moment and has no id.
    """
    spot = _last_event_id(query)
    whose = _whose()
    url = partial(urljoin, root_url())
    instead = f"poll {absolute('/v1/timeline')} instead, or try again later"
    return streamed(lambda go_on: _stream(Feed(fleet(), whose, spot), go_on, url), instead, is_watcher=True)


def _stream(feed: Feed, go_on: GoOn, url: translate.UrlFor) -> Iterator[str]:
    # All pages lose a server that is restarted in the same moment, and must not come back in the same moment.
    yield f"retry: {telling.RETRY_MILLISECONDS + random.randrange(telling.RETRY_MILLISECONDS)}\n\n"  # noqa: S311  # no secret
    yield telling.as_text({"id": str(feed.spot), "event": BEGAN})
    begun_at = time.monotonic()
    schema = FeedEventSchema()
    alive = telling.as_text({"event": ALIVE})  # no comment: pages cannot hear those
    yield from telling.as_they_come(
        lambda: map(schema.dump, _look(feed, url)),
        lambda: go_on() and time.monotonic() - begun_at < LONGEST_SECONDS,
        alive,
        lambda: feed.is_behind,
    )


@blueprint.get("/timeline")
@blueprint.arguments(FeedQuerySchema, location="query")
@blueprint.response(200, FeedSchema)
def list_feed(query: Mapping[str, Any]) -> dict[str, Any]:
    """List what has happened to all jobs of this token since an event: what its stream would send, for those who poll.

    Without `last_event_id` it tells only how far running jobs are, and the id from which to go on.
    """
    feed = Feed(fleet(), _whose(), query.get("last_event_id"))
    events = _look(feed, absolute)
    return {"events": events, "last_event_id": str(feed.spot), "more": feed.is_behind}


def _look(feed: Feed, url: translate.UrlFor) -> list[dict[str, Any]]:
    happened = [_told(told, url) for told in feed.look()]
    moments = [{"job_id": job_id, **telling.progress_to_json(moment)} for job_id, moment in feed.progress()]
    return happened + moments


def _told(told: Told, url: translate.UrlFor) -> dict[str, Any]:
    about = {"id": str(told.spot), "job_id": told.job.id, "number": told.event.number}
    return about | telling.event_to_json(told.event, told.job, url)


def _whose() -> str | None:
    return owner() if is_client() else None


def _last_event_id(query: Mapping[str, Any]) -> Spot | None:
    """Take the id from the header, which browsers send when they come back, or else from the query."""
    found: Spot | None = query.get("last_event_id")
    if given := request.headers.get("Last-Event-ID", "").strip():
        try:
            return Spot.parse(given)
        except ValueError as exc:
            told = f"Last-Event-ID: {exc}; send one of this feed's events, or none"
            raise Refused(422, "invalid_request", told) from exc
    return found
