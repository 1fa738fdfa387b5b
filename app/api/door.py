"""What every dialect has in common: who may come in, and how a problem becomes an answer.

A dialect is a blueprint, a way to say what went wrong, and a rule for who may ask. Problems are raised as FleetError
(the domain's words) or by werkzeug; one handler for the whole application picks the dialect by the path, because a
404 for an unknown path never reaches a blueprint's own handlers.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flask import Flask, Response, current_app, jsonify, request
from flask_smorest import Blueprint
from marshmallow import Schema
from werkzeug.exceptions import HTTPException

from app import logs
from app.api import auth, bodies, headers, session
from app.api.auth import OF_CLIENTS, Auth, caller, owner, require_own, tokens_of
from app.api.refusals import Problem, Refused, database_is_away, problem_of
from app.core import errors
from app.core.fleet import Fleet
from app.settings import Settings

__all__ = [
    "OF_CLIENTS",
    "SECOND_PORT",
    "Auth",
    "Dialect",
    "Problem",
    "Refused",
    "absolute",
    "caller",
    "fleet",
    "guard",
    "owner",
    "owner_of",
    "problem_of",
    "require_own",
    "root_url",
    "settings",
    "tokens_of",
]

log = logging.getLogger(__name__)

FIRST_FAILURE = 500
"""From here on a status says that it is not the client's fault."""

SECOND_PORT = "imagefleet.second_port"
"""Stands in the WSGI environment of requests to a port that shows one dialect only."""


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
    operators: Sequence[str] = ()
    """Paths below which every change is for operators; a new route there is too, without saying so."""
    error: type[Schema] | None = None
    """What `say` returns, for the OpenAPI documents."""
    title: str = ""
    about: str = ""
    """What it is for, in a sentence or two for somebody who has not seen it before."""
    problems: Sequence[int] = ()
    """What every route of it may answer beside what all doors may, for the OpenAPI documents."""
    statuses: Mapping[int, int] = field(default_factory=dict)
    """Where its clients know another status than all others answer with."""

    def status_of(self, status: int) -> int:
        """Return what a problem of this status is answered with here."""
        return self.statuses.get(status, status)


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


def owner_of(path: str, dialects: Sequence[Dialect]) -> Dialect:
    """Return the dialect whose path this is: the longest prefix wins, the first dialect owns what nobody else has."""
    matching = [(len(p), d) for d in dialects for p in d.prefixes if path == p or path.startswith(p.rstrip("/") + "/")]
    return max(matching, key=lambda pair: pair[0], default=(0, dialects[0]))[1]


def guard(app: Flask, dialects: Sequence[Dialect]) -> None:
    """Put the dialects' rules before every request and behind every problem."""
    headers.add_headers(app, app.extensions["imagefleet.settings"])
    auth.post_gatekeeper(app, app.extensions["imagefleet.settings"])

    @app.before_request
    def let_in() -> Response | None:
        dialect, keeper = owner_of(request.path, dialects), auth.gatekeeper()
        problem = (
            keeper.refusal_of_place(dialect.auth)
            or keeper.refusal(dialect.auth)
            or auth.excess(dialect.auth)
            or auth.needs_operator(dialect.operators)
        )
        if problem is None:
            return None
        response: Response = _answer(dialect, problem)
        if problem.code == "wrong_token" and session.COOKIE in request.cookies:
            session.end(response)  # a browser's token of last year is no longer shown with every request
        if problem.status == 401:
            scheme = "Basic" if dialect.auth is Auth.CLIENT_OR_BASIC else "Bearer"
            response.headers["WWW-Authenticate"] = f'{scheme} realm="imagefleet"'
        return response

    bodies.take_json_as_documented(app)  # behind the rule above: a stranger is told nothing of routes

    @app.errorhandler(Exception)
    def on_error(exc: Exception) -> Response:
        problem = problem_of(exc)
        if problem.status >= FIRST_FAILURE:
            _log(exc)
        response = _answer(owner_of(request.path, dialects), problem)
        if isinstance(exc, HTTPException) and exc.response is None:
            for name, value in exc.get_headers():
                if name.lower() in {"allow", "retry-after", "content-range", "accept-ranges"}:
                    response.headers[name] = value
        return response


def _log(exc: Exception) -> None:
    """Write down what failed; what a door or the fleet refuses on purpose is told to the client only."""
    if database_is_away(exc):  # each request of such a minute fails, and a traceback would say nothing more
        reason = str(getattr(exc, "orig", None) or exc).partition("\n")[0]
        log.error("%s %s: the database is away: %s", request.method, request.path, reason)
    elif not isinstance(exc, (Refused, HTTPException, errors.Unserved)):
        log.error("%s %s failed", request.method, request.path, exc_info=exc)


def _answer(dialect: Dialect, problem: Problem) -> Response:
    status, message = dialect.status_of(problem.status), problem.message
    request_id = logs.request_id.get()
    if status >= FIRST_FAILURE and request_id not in message:  # what goes wrong here is looked for in the log
        message = f"{message} (request {request_id})"
    problem = replace(problem, status=status, message=message)
    response = jsonify(dialect.say(problem))
    response.status_code = problem.status
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    return response
