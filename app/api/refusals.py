"""What went wrong, before a dialect puts it into its own shape."""

import sqlite3
from dataclasses import dataclass, field
from typing import Any

from flask import current_app, request
from sqlalchemy.exc import DataError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from werkzeug.exceptions import HTTPException

from app import logs
from app.core import errors


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong."""

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


STATUS: dict[type[errors.FleetError], int] = {
    errors.NotFound: 404,
    errors.Invalid: 422,
    errors.Conflict: 409,
    errors.TooManyJobs: 429,
    # Its header Upgrade is for versions of HTTP itself, and the web server's own; the facts name ours.
    errors.ProtocolNotSpoken: 426,
    errors.Unserved: 503,
    errors.FleetError: 500,
}

BYTES_PER_MB = 10**6

UNSERVED_SECONDS = 30
"""When to order again what no machine holds: some time in which one may have fetched it."""

AWAY_SECONDS = 5
"""When to ask again while the database is away: it is started anew, or another takes its place, within some seconds."""

OF_THE_BODY = frozenset({"_schema", "body"})
"""What stands in the place of a field's name where the whole body is meant."""

WORDS = {
    "Invalid JSON body.": "the body cannot be read as JSON; look at its quotes and commas",
    "Invalid input type.": 'the body must be an object of JSON: {"name": value, ...}',
}
"""What webargs and marshmallow say of a body, and what helps its sender."""

UNFIT = (RecursionError, DataError, UnicodeEncodeError)
"""What comes of a request that schemas have let through, and that nobody can read or keep."""


def problem_of(exc: Exception) -> Problem:
    """Translate what was raised into a problem that any dialect can tell."""
    if isinstance(exc, Refused):
        return exc.problem
    if isinstance(exc, errors.FleetError):
        status = next(STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS)
        retry_after = exc.retry_after if isinstance(exc, errors.TooManyJobs) else None
        if isinstance(exc, errors.Unserved):
            retry_after = UNSERVED_SECONDS
        return Problem(status, exc.code, str(exc), facts=exc.facts, retry_after=retry_after)
    if isinstance(exc, HTTPException):
        return _http_problem(exc)
    if isinstance(exc, UNFIT):
        return _unfit(exc)
    return _failure(exc)


def _failure(exc: Exception) -> Problem:
    if database_is_away(exc):
        told = "the database cannot be asked just now; ask again in some seconds"
        return Problem(503, "database_away", told, retry_after=AWAY_SECONDS)
    more = f"the server's log says more under request {logs.request_id.get()}"
    if isinstance(exc, SQLAlchemyError):
        return Problem(500, "database_error", f"the database did not answer as it should; {more}")
    return Problem(500, "internal_error", f"something went wrong in the server; {more}")


def database_is_away(exc: Exception) -> bool:
    """Say whether the database could not be reached, or had no time: the same request may succeed later.

    A schema that is not ours is told as an OperationalError too, by SQLite, and stays wrong.
    """
    if isinstance(exc, NoConnectionFree):
        return True
    if not isinstance(exc, DBAPIError):
        return False
    is_passing = isinstance(exc, OperationalError) and not _is_wrong_for_sqlite(exc.orig)
    return is_passing or exc.connection_invalidated


def _is_wrong_for_sqlite(cause: BaseException | None) -> bool:
    return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR


def _unfit(exc: Exception) -> Problem:
    if isinstance(exc, RecursionError):
        return Problem(400, "invalid_request", "the body is nested too deeply to be read")
    told = "it has a text or a number in it that no database holds, such as U+0000 or half of a surrogate pair"
    return Problem(422, "cannot_be_stored", told)


def _http_problem(exc: HTTPException) -> Problem:
    data = getattr(exc, "data", None) or {}
    messages = data.get("messages", {})
    if messages:  # webargs: {"json": {"prompt": ["Missing data for required field."]}}
        fields = {name: texts for location in messages.values() for name, texts in _by_field(location).items()}
        return Problem(exc.code or 422, "invalid_request", _in_words(fields), fields=fields)
    status = exc.code or 500
    words = {
        400: "the body is not what its Content-Type says; send JSON with `Content-Type: application/json`",
        404: f"there is nothing at {request.path}; /doc shows every route",
        405: f"{request.method} is not possible at {request.path}{_instead(exc)}",
        413: f"the request is larger than the server's {_most_mb()} MB (MAX_UPLOAD_MB)",
        415: "send the body as JSON with `Content-Type: application/json`",
    }
    code = (exc.name or "error").lower().replace(" ", "_")
    return Problem(status, code, words.get(status, exc.description or exc.name or "error"))


def _instead(exc: HTTPException) -> str:
    known = getattr(exc, "valid_methods", None) or ()
    return "; send " + " or ".join(sorted(set(known) - {"HEAD", "OPTIONS"})) if known else ""


def _by_field(location: Any) -> dict[str, Any]:
    found = location if isinstance(location, dict) else {"body": location}
    return {name: _in_our_words(texts) if name in OF_THE_BODY else texts for name, texts in found.items()}


def _in_our_words(texts: Any) -> Any:
    return [WORDS.get(text, text) for text in texts] if isinstance(texts, list) else texts


def _in_words(fields: dict[str, Any]) -> str:
    sentences = []
    for name, texts in sorted(fields.items(), key=lambda item: str(item[0])):
        text = " ".join(texts) if isinstance(texts, list) and all(isinstance(t, str) for t in texts) else str(texts)
        sentences.append(text if name in OF_THE_BODY else f"{name}: {text}")
    return "; ".join(sentences)


def _most_mb() -> int:
    return int(current_app.config["MAX_CONTENT_LENGTH"]) // BYTES_PER_MB
