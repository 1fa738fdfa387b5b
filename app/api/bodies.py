"""Bodies of the wrong kind: a route that takes JSON is not given anything else.

Read as JSON a form would be no body at all, so its sender would be told of fields that are missing, or an order of
nothing but defaults would be drawn.
"""

from collections.abc import Iterator
from typing import Any

from flask import Flask, current_app, request

from app.api.refusals import Refused

JSON = "application/json"


def take_json_as_documented(app: Flask) -> None:
    """Refuse (415) other bodies than JSON wherever a route is described as taking only that."""

    @app.before_request
    def look() -> None:
        if has_body() and not request.is_json and _takes_only_json():
            given = request.mimetype or "no Content-Type"
            raise Refused(
                415,
                "unsupported_media_type",
                f"the body came with {given}; send it as JSON with `Content-Type: {JSON}`",
            )


def has_body() -> bool:
    """Say whether this request brings a body; one that comes in chunks does not say how long it is."""
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _takes_only_json() -> bool:
    view = current_app.view_functions.get(request.endpoint or "")
    return set(_described(getattr(view, "_apidoc", {}))) == {JSON}


def _described(known: dict[str, Any]) -> Iterator[str]:
    """Return what kinds of body a view is said to take, by its schema or in words of its own."""
    for parameter in known.get("arguments", {}).get("parameters", ()):
        if parameter["in"] == "json":
            yield JSON
    yield from known.get("manual_doc", {}).get("requestBody", {}).get("content", ())
