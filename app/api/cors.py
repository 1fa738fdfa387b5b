"""Pages of other web sites: which of them may use the API from their visitors' browsers (the Fetch standard, CORS).

Closed unless CORS_ORIGINS names them. Tokens travel in a header that a page has to know, never in cookies, so nobody's
visitor lends a page more than the page has itself; `Access-Control-Allow-Credentials` is therefore never sent.
"""

from collections.abc import Collection, Sequence

from flask import Flask, Response, request

from app.api.door import OF_CLIENTS, Dialect, owner_of

FOR_ALL = "*"

OPEN_TO_BROWSERS = frozenset({"catalog"})
"""Dialects that need no token, and which a page may have use for; those of clients all are."""

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
REQUEST_HEADERS = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, X-Request-Id"
ANSWER_HEADERS = (
    "Content-Location, ETag, Idempotent-Replayed, Location, Preference-Applied, Retry-After, X-Request-Id, "
    "WWW-Authenticate"
)
PREFLIGHT_SECONDS = "600"
"""How long a browser may remember what it was allowed; browsers cap it themselves."""


def allow(app: Flask, dialects: Sequence[Dialect], origins: Collection[str]) -> None:
    """Let pages of these origins use the dialects that are for clients; none: nothing is added to any answer."""
    if not origins:
        return

    @app.after_request
    def tell_browsers(response: Response) -> Response:
        dialect = owner_of(request.path, dialects)
        if dialect.auth not in OF_CLIENTS and dialect.name not in OPEN_TO_BROWSERS:
            return response
        if FOR_ALL not in origins:
            response.vary.add("Origin")  # a cache must not give one page what was meant for another
        origin = request.headers.get("Origin", "")
        if not origin or (FOR_ALL not in origins and origin.lower() not in origins):
            return response
        response.headers["Access-Control-Allow-Origin"] = FOR_ALL if FOR_ALL in origins else origin
        response.headers["Access-Control-Expose-Headers"] = ANSWER_HEADERS
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response.headers["Access-Control-Allow-Methods"] = METHODS
            response.headers["Access-Control-Allow-Headers"] = REQUEST_HEADERS
            response.headers["Access-Control-Max-Age"] = PREFLIGHT_SECONDS
            response.vary.update(("Access-Control-Request-Method", "Access-Control-Request-Headers"))
        return response
