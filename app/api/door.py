"""What every dialect has in common: who may come in, and how a problem becomes an answer.

A dialect is a blueprint, a way to say what went wrong, and a rule for who may ask. Problems are raised as FleetError
(the domain's words) or by werkzeug; one handler for the whole application picks the dialect by the path, because a
404 for an unknown path never reaches a blueprint's own handlers.
"""

import base64
import binascii
import hmac
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from typing import Any

from flask import Flask, Response, current_app, g, jsonify, request
from flask_smorest import Blueprint
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from app.api import rates
from app.core import errors
from app.core.fleet import Fleet
from app.settings import Settings

log = logging.getLogger(__name__)

SECOND_PORT = "imagefleet.second_port"
"""Stands in the WSGI environment of requests to a port that shows one dialect only."""


class Auth(Enum):
    """Who may ask."""

    OPEN = "open"
    CLIENT = "client"
    CLIENT_OR_BASIC = "client or basic"
    """As CLIENT, and the token may also come as the password of HTTP's basic authentication."""
    MACHINE = "machine"
    METRICS = "metrics"
    """Open unless METRICS_TOKEN is set: Prometheus sends it as `authorization: {credentials: ...}`."""


OF_CLIENTS = frozenset({Auth.CLIENT, Auth.CLIENT_OR_BASIC})


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, before a dialect puts it into its own shape."""

    status: int
    code: str
    message: str
    fields: dict[str, Any] = field(default_factory=dict)
    """Messages by field, where the request's body or query was wrong."""
    facts: dict[str, Any] = field(default_factory=dict)
    retry_after: int | None = None
    """Seconds after which asking again may help, where that is known."""


class Refused(Exception):  # it reads as what happened to the request
    """A door does not take this request; `problem` says why."""

    def __init__(self, status: int, code: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.problem = Problem(status, code, message, fields=fields)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One outward API."""

    name: str
    prefixes: tuple[str, ...]
    """Paths that belong to it, also those that do not exist."""
    auth: Auth
    say: Callable[[Problem], Any]
    """Turn a problem into this dialect's body."""
    blueprints: Sequence[Blueprint] = ()


STATUS: dict[type[errors.FleetError], int] = {
    errors.NotFound: 404,
    errors.Invalid: 422,
    errors.Conflict: 409,
    errors.TooManyJobs: 429,
    errors.Unserved: 503,
    errors.FleetError: 500,
}


def fleet() -> Fleet:
    """Return the fleet this application serves."""
    found: Fleet = current_app.extensions["imagefleet"]
    return found


def settings() -> Settings:
    """Return the settings this application was made with."""
    found: Settings = current_app.extensions["imagefleet.settings"]
    return found


def root_url() -> str:
    """Return under which address this request's client reaches our main port; it ends with a slash."""
    known = settings()
    other = known.fleet_url if SECOND_PORT in request.environ else request.url_root
    return (known.public_url or other).rstrip("/") + "/"


def absolute(path: str) -> str:
    """Turn a path of ours into the address by which this client reaches it."""
    return root_url() + path.lstrip("/")


def guard(app: Flask, dialects: Sequence[Dialect]) -> None:
    """Put the dialects' rules before every request and behind every problem."""

    def dialect_of(path: str) -> Dialect:
        matching = [
            (len(p), d) for d in dialects for p in d.prefixes if path == p or path.startswith(p.rstrip("/") + "/")
        ]
        return max(matching, key=lambda pair: pair[0], default=(0, dialects[0]))[1]

    @app.before_request
    def let_in() -> Response | None:
        dialect = dialect_of(request.path)
        problem = _refusal(dialect.auth, settings()) or _excess(dialect.auth)
        if problem is None:
            return None
        response: Response = _answer(dialect, problem)
        if problem.status == 401:
            scheme = "Basic" if dialect.auth is Auth.CLIENT_OR_BASIC else "Bearer"
            response.headers["WWW-Authenticate"] = f'{scheme} realm="imagefleet"'
        return response

    @app.errorhandler(Exception)
    def on_error(exc: Exception) -> Response:
        problem = problem_of(exc)
        # What a door or the fleet refuses on purpose is told to the client; only surprises need a traceback.
        if problem.status >= 500 and not isinstance(exc, (Refused, HTTPException, errors.Unserved)):
            log.error("%s %s failed", request.method, request.path, exc_info=exc)
        response = _answer(dialect_of(request.path), problem)
        if isinstance(exc, HTTPException) and exc.response is None:
            for name, value in exc.get_headers():
                if name.lower() in {"allow", "retry-after", "content-range", "accept-ranges"}:
                    response.headers[name] = value
        return response


def _answer(dialect: Dialect, problem: Problem) -> Response:
    response = jsonify(dialect.say(problem))
    response.status_code = problem.status
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    return response


def _refusal(auth: Auth, known: Settings) -> Problem | None:
    """Say why this request may not come in; None when it may."""
    name, tokens = _known_tokens(auth, known)
    if not tokens or request.method == "OPTIONS":
        return None  # where no clients' tokens are set the server is on loopback only: Settings sees to that
    given = request.headers.get("Authorization", "")
    scheme, _, token = given.partition(" ")
    if auth is Auth.CLIENT_OR_BASIC and scheme.lower() == "basic":
        scheme, token = "bearer", _password(token)
    if scheme.lower() != "bearer" or not token.strip():
        return Problem(401, "missing_token", f"send `Authorization: Bearer <token>` with a token out of {name}")
    # All are compared, each in constant time: neither which one matched nor how far tells anything.
    matches = [hmac.compare_digest(token.strip().encode(), known_token.encode()) for known_token in tokens]
    if not any(matches):
        return Problem(401, "wrong_token", f"this token is not in the server's {name}")
    g.token_number = matches.index(True)
    return None


def _known_tokens(auth: Auth, known: Settings) -> tuple[str, tuple[str, ...]]:
    """Return which tokens let in, and the name of their setting; none: everybody may come in."""
    if auth is Auth.OPEN:
        return "", ()
    if auth in OF_CLIENTS:
        return "API_TOKENS", known.api_tokens
    name, token = (
        ("METRICS_TOKEN", known.metrics_token) if auth is Auth.METRICS else ("MACHINE_TOKEN", known.machine_token)
    )
    return name, (token,) if token else ()


def _excess(auth: Auth) -> Problem | None:
    """Count this request, and say when the next one will be taken if this one is too many; None when it is not."""
    gate = rates.gate()
    if gate is None or auth not in OF_CLIENTS or request.method == "OPTIONS":
        return None
    seconds = gate.seconds_until_open(caller())
    if not seconds:
        return None
    told = f"a client may send {gate.most} requests in a minute (REQUESTS_PER_MINUTE); ask again in {seconds} s"
    return Problem(429, "too_many_requests", told, retry_after=seconds)


def _password(credentials: str) -> str:
    """Read the password of basic authentication, RFC 7617; nothing where there is none."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def caller() -> str:
    """Name who asks, for what is kept from one request to the next: by token, or by address where none is needed."""
    number = g.get("token_number")
    who = f"address {request.remote_addr}" if number is None else f"token {settings().api_tokens[number]}"
    return sha256(who.encode()).hexdigest()[:32]


def owner() -> str:
    """Name whose orders these are: by token; all are one owner's where none is needed."""
    return "" if g.get("token_number") is None else caller()


def problem_of(exc: Exception) -> Problem:
    """Translate what was raised into a problem that any dialect can tell."""
    if isinstance(exc, Refused):
        return exc.problem
    if isinstance(exc, errors.FleetError):
        status = next(STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS)
        retry_after = exc.retry_after if isinstance(exc, errors.TooManyJobs) else None
        return Problem(status, exc.code, str(exc), facts=exc.facts, retry_after=retry_after)
    if isinstance(exc, HTTPException):
        return _http_problem(exc)
    if isinstance(exc, RecursionError):
        return Problem(400, "invalid_request", "the body is nested too deeply to be read")
    if isinstance(exc, SQLAlchemyError):
        return Problem(500, "database_error", "the database did not answer as it should; the server's log says more")
    return Problem(500, "internal_error", "something went wrong in the server; its log says more")


def _http_problem(exc: HTTPException) -> Problem:
    data = getattr(exc, "data", None) or {}
    messages = data.get("messages", {})
    if messages:  # webargs: {"json": {"prompt": ["Missing data for required field."]}}
        fields = {name: texts for location in messages.values() for name, texts in _by_field(location).items()}
        return Problem(exc.code or 422, "invalid_request", _in_words(fields), fields=fields)
    status = exc.code or 500
    words = {
        400: "the body is not what its Content-Type says; send JSON with `Content-Type: application/json`",
        404: f"there is nothing at {request.path}",
        405: f"{request.method} is not possible at {request.path}",
        413: f"the request is larger than the server's {settings().max_upload_mb} MB (MAX_UPLOAD_MB)",
        415: "send the body as JSON with `Content-Type: application/json`",
    }
    code = (exc.name or "error").lower().replace(" ", "_")
    return Problem(status, code, words.get(status, exc.description or exc.name or "error"))


def _by_field(location: Any) -> dict[str, Any]:
    return location if isinstance(location, dict) else {"body": location}


def _in_words(fields: dict[str, Any]) -> str:
    sentences = []
    for name, texts in sorted(fields.items(), key=lambda item: str(item[0])):
        text = " ".join(texts) if isinstance(texts, list) and all(isinstance(t, str) for t in texts) else str(texts)
        sentences.append(text if name in {"_schema", "body"} else f"{name}: {text}")
    return "; ".join(sentences)
