"""Headers that every answer has: the request's id, and what browsers must not make of it."""

import re
from collections.abc import Mapping
from uuid import uuid4

from flask import Flask, Response, request

from app import logs
from app.settings import Settings

REQUEST_ID = "X-Request-Id"
WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Ids that are taken from a request: they stand in logs and headers, so nothing else may ride along."""

ALWAYS: Mapping[str, str] = {
    # Take a picture or an answer for nothing else than we say it is.
    "X-Content-Type-Options": "nosniff",
    # Show it in nobody's frame; older browsers know the first, newer ones the policy.
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # Tell no other site where the visitor comes from.
    "Referrer-Policy": "no-referrer",
    # Share no window with a page that opened us, and be no part of other sites' pages.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What an answer says unless its own view says otherwise, as the pages do."""


def add_headers(app: Flask, known: Settings) -> None:
    """Give each request of an application its id, and each answer its headers; before all that may refuse one."""

    @app.before_request
    def take_request_id() -> None:
        given = request.headers.get(REQUEST_ID, "")
        logs.request_id.set(given if WELL_FORMED.fullmatch(given) else uuid4().hex)

    @app.after_request
    def complete(response: Response) -> Response:
        return _hardened(response, known)

    @app.teardown_request
    def forget_request_id(_exc: BaseException | None) -> None:
        logs.request_id.set("")


def _hardened(response: Response, known: Settings) -> Response:
    response.headers[REQUEST_ID] = logs.request_id.get()
    if "Access-Control-Allow-Origin" in response.headers:  # other sites may have it, the operator says
        response.headers.setdefault("Cross-Origin-Resource-Policy", "cross-origin")
    for name, value in ALWAYS.items():
        response.headers.setdefault(name, value)
    if response.mimetype == "application/json":
        response.headers.setdefault("Cache-Control", "no-store")
    if known.hsts_seconds and known.public_url.startswith("https://"):
        response.headers["Strict-Transport-Security"] = f"max-age={known.hsts_seconds}"
    return response
