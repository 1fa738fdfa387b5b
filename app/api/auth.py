"""Who may come in: tokens by name and scope, a brake on guessing, and whose orders these are."""

import base64
import binascii
import logging
from collections.abc import Sequence
from enum import Enum
from hashlib import sha256
from uuid import UUID

from flask import Flask, Response, current_app, g, request
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import tokens
from app.api import rates, session, visitors
from app.api.brake import Brake
from app.api.refusals import Problem, Refused
from app.core.tables import Job
from app.settings import Settings
from app.tokens import Keyring, Scope, Token

log = logging.getLogger(__name__)

EXTENSION = "imagefleet.auth"

LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})


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


def tokens_of(auth: Auth, known: Settings, keyring: Keyring | None = None) -> tuple[str, tuple[Token, ...]]:
    """Return which tokens let in, and the name of their setting; none: everybody may come in."""
    ring = known.keyring() if keyring is None else keyring
    if auth in OF_CLIENTS:
        return "API_TOKENS", ring.of(*tokens.CLIENTS)
    if auth is Auth.MACHINE:
        shared = (tokens.of_machines(known.machine_token),) if known.machine_token else ()
        return "MACHINE_TOKEN", shared + ring.of(Scope.MACHINE)
    if auth is Auth.METRICS and known.metrics_token:
        return "METRICS_TOKEN", (tokens.read_bare(known.metrics_token),)
    return "", ()


class Gatekeeper:
    """Says of each request who it is from, and why it may not come in."""

    def __init__(self, known: Settings) -> None:
        """Read the tokens; raises SettingsError."""
        self._known = known
        self._keyring = known.keyring()
        self._began_open = {auth for auth in Auth if not self._tokens(auth)[1]}
        self._brake = self._make_brake()

    def _make_brake(self) -> Brake | None:
        if not self._known.auth_failures_per_minute:
            return None
        secret = [*self._known.api_tokens, self._known.machine_token, *self._known.secret_key]
        key = sha256("\n".join(secret).encode()).digest()
        store = rates.store_at(self._known.live_url, "imagefleet:wrong-tokens")
        return Brake(self._known.auth_failures_per_minute, store, key)

    def _tokens(self, auth: Auth) -> tuple[str, tuple[Token, ...]]:
        return tokens_of(auth, self._known, self._keyring)

    def is_open(self, auth: Auth) -> bool:
        """Say whether everybody may come in; a TOKENS_FILE that has become empty opens nothing."""
        return auth is Auth.OPEN or (auth in self._began_open and not self._tokens(auth)[1])

    def address(self) -> str:
        """Return the address of this request's client."""
        return visitors.address(self._known.trusted_proxies)

    def is_machine(self) -> bool:
        """Say whether the request shows a machine's token, where none is asked for."""
        given = _given(Auth.MACHINE)
        return bool(given) and tokens.find(self._tokens(Auth.MACHINE)[1], given) is not None

    def refusal_of_place(self, auth: Auth) -> Problem | None:
        """Refuse requests that a browser was led to send to a server that trusts its own computer."""
        if auth is Auth.OPEN or (auth is Auth.MACHINE and not self.is_open(auth)):
            return None  # nothing there is anybody's own, or no browser has what it takes
        is_open = self.is_open(Auth.CLIENT)
        return visitors.wrong_host(self._known, is_open=is_open) or visitors.foreign_page(self._known, is_open=is_open)

    def refusal(self, auth: Auth) -> Problem | None:
        """Say why this request may not come in; None when it may."""
        if request.method == "OPTIONS" or self.is_open(auth):
            return None  # where no clients' tokens are set the server is on loopback only: Settings sees to that
        name, known = self._tokens(auth)
        given = _given(auth) or (session.token(self._known) if auth in OF_CLIENTS else "")
        if not given:
            return Problem(401, "missing_token", f"send `Authorization: Bearer <token>` with a token out of {name}")
        address = self.address()
        if self._brake is not None and (seconds := self._brake.seconds_until_heard(address, given)):
            told = f"too many wrong tokens came from this address; ask again in {seconds} s"
            return Problem(429, "too_many_wrong_tokens", told, retry_after=seconds)
        token = tokens.find(known, given)
        if token is None:
            log.warning("a wrong token from %s for %s", address, request.path)
            if self._brake is not None:
                self._brake.count_wrong(address)
            return Problem(401, "wrong_token", f"this token is not in the server's {name}")
        if self._brake is not None:
            self._brake.remember_right(address, given)
        g.token = token
        return None


def _given(auth: Auth) -> str:
    """Read the token that a request shows; nothing where there is none."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if auth is Auth.CLIENT_OR_BASIC and scheme.lower() == "basic":
        return _password(text)
    return text.strip() if scheme.lower() == "bearer" else ""


def bearer_token() -> str:
    """Return the bearer token that the request shows; nothing where there is none."""
    return _given(Auth.CLIENT)


def _password(credentials: str) -> str:
    """Read the password of basic authentication, RFC 7617; nothing where there is none."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def post_gatekeeper(app: Flask, known: Settings) -> None:
    """Give an application its gatekeeper."""
    app.after_request(note_change)
    app.extensions[EXTENSION] = Gatekeeper(known)


def gatekeeper() -> Gatekeeper:
    """Return this application's gatekeeper."""
    found: Gatekeeper = current_app.extensions[EXTENSION]
    return found


def excess(auth: Auth) -> Problem | None:
    """Count this request, and say when the next one will be taken if this one is too many; None when it is not."""
    gate = rates.gate()
    if gate is None or auth not in OF_CLIENTS or request.method == "OPTIONS":
        return None
    seconds = gate.seconds_until_open(caller())
    if not seconds:
        return None
    told = f"a client may send {gate.most} requests in a minute (REQUESTS_PER_MINUTE); ask again in {seconds} s"
    return Problem(429, "too_many_requests", told, retry_after=seconds)


def caller() -> str:
    """Name who asks, for what is kept from one request to the next: by token, or by address where none is needed."""
    token: Token | None = g.get("token")
    if token is not None:
        return token.owner
    return sha256(f"address {gatekeeper().address()}".encode()).hexdigest()[:32]


def owner() -> str:
    """Name whose orders these are: by token; all are one owner's where none is needed."""
    token: Token | None = g.get("token")
    return "" if token is None else token.owner


def is_client() -> bool:
    """Say whether the request's token is one of a client, who changes nothing that is not its own."""
    token: Token | None = g.get("token")
    return token is not None and token.scope is Scope.CLIENT


def needs_operator(paths: Sequence[str]) -> Problem | None:
    """Refuse a client's token what changes the fleet: every request below these paths that is more than a look."""
    if request.method in LOOKS or not any(request.path == p or request.path.startswith(f"{p}/") for p in paths):
        return None
    g.changes_fleet = True
    if not is_client():
        return None
    told = f"this changes the fleet, and the token {owner()!r} is a client's; use one with the scope operator"
    return Problem(403, "operator_needed", told)


def note_change(response: Response) -> Response:
    """Write down who changed the fleet."""
    if g.get("changes_fleet") and g.get("token"):
        log.info("%s: %s %s, answered %d", owner(), request.method, request.path, response.status_code)
    return response


def require_own(session: Session, *job_ids: UUID) -> None:
    """Refuse (403) to change jobs of others for a client's token; ids that are nobody's are not looked at."""
    if not is_client():
        return
    found = session.execute(select(Job.id, Job.owner).where(Job.id.in_(job_ids)))
    if others := [str(job_id) for job_id, whose in found if whose != owner()]:
        told = f"job {', '.join(others)} was ordered with another token; only that one or an operator's may change it"
        raise Refused(403, "not_your_job", told)


def require_machine(machine_id: str) -> None:
    """Refuse (403) what a machine's token says in another machine's name."""
    token: Token | None = g.get("token")
    if token is None or token.may_speak_for(machine_id):
        return
    told = f"the token {token.name!r} speaks for machine {token.machine_id!r} only, not for {machine_id!r}"
    raise Refused(403, "wrong_machine", told)


def require_shared_token() -> None:
    """Refuse (403) to make a machine with a token of its own anybody's neighbour.

    Neighbours show each other their token: whoever is shut out one by one must not be able to collect those of others.
    """
    token: Token | None = g.get("token")
    if token is not None and token.name:
        told = f"machines are neighbours under MACHINE_TOKEN only, and {token.name!r} is one machine's own token"
        raise Refused(403, "no_neighbours", told)
