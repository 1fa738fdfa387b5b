"""Asking an Automatic1111 server, and saying in our words what it answers when it does not do as asked."""

import re
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from tasks.machine.drivers.a1111.errors import NotHere, ServerAway, ServerFailed, ServerGone, ServerOutOfMemory
from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.errors import MachineError

API = "/sdapi/v1"

CONNECT_SECONDS = 3.05
"""Just over TCP's first retransmission."""

ANSWER_SECONDS = 5.0
"""For everything but drawing. While it loads a model it may be slow to answer, so one miss says little."""

LONGEST_REASON = 1000
"""Characters of its own words that are kept with the attempt."""

BLOB = re.compile(r"[A-Za-z0-9+/=_-]{120,}")
"""Pictures in base64: it repeats what it was sent."""

MEMORY = re.compile(r"OutOfMemoryError|out of memory", re.IGNORECASE)

REFUSED_FOR_GOOD = range(400, 500)
FOR_NOW = frozenset({408, 409, 423, 425, 429})
NOT_LET_IN = frozenset({401, 403, 407})
NO_SUCH_ROUTE = frozenset({405, 501})


class Silent(ServerAway):
    """The server took the question and has not answered it in time."""


class Server:
    """One server, at one address."""

    def __init__(self, url: str, auth: str = "") -> None:
        """Take its address and `user:password`, or a bearer token, or nothing."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")
        if host[0] and not auth:
            auth = unquote(host[0])
        path = parts.path.rstrip("/").removesuffix(API)
        self.url = urlunsplit((parts.scheme, host[2], path, "", ""))
        """Without secrets."""
        self.name = f"Automatic1111 at {self.url}"
        user, colon, password = auth.partition(":")
        token = auth.removeprefix("Bearer ")
        is_bearer = not colon or token != auth
        self._basic = None if is_bearer else (user, password)
        self._headers = {"Authorization": f"Bearer {token}"} if is_bearer and token else {}
        self._secrets = [secret for secret in ((token,) if is_bearer else (auth, password)) if secret]

    def get(self, path: str, *, seconds: float = ANSWER_SECONDS, **query: Any) -> Any:
        """Ask for something below `/sdapi/v1`, or with a slash before it beside that; raises MachineError."""
        return self._ask("GET", path, seconds, params=query)

    def post(self, path: str, body: Any = None, *, seconds: float = ANSWER_SECONDS) -> Any:
        """Have something done; raises MachineError."""
        return self._ask("POST", path, seconds, json=body if body is not None else {})

    def _ask(self, method: str, path: str, seconds: float, **request: Any) -> Any:
        url = f"{self.url}{path}" if path.startswith("/") else f"{self.url}{API}/{path}"
        timeout = (CONNECT_SECONDS, seconds)
        try:
            response = requests.request(
                method,
                url,
                auth=self._basic,
                headers=self._headers,
                timeout=timeout,
                allow_redirects=False,  # it would be asked again without its password, and as a GET
                **request,
            )
        except requests.ReadTimeout as exc:
            raise Silent(f"{self.name} did not answer {path} within {seconds:g} s") from exc
        except requests.RequestException as exc:
            if _never_reached(exc):
                raise ServerAway(f"{self.name} does not answer: {_cause(exc)}") from exc
            raise ServerGone(f"{self.name} broke off its answer to {path}: {_cause(exc)}") from exc
        if not response.ok or response.is_redirect:
            raise self._problem(path, response)
        try:
            return response.json()
        except requests.JSONDecodeError as exc:
            kind = response.headers.get("Content-Type", "nothing that says what it is")
            said = f", {words}" if (words := self._words(response.text)) else ""
            raise ServerFailed(f"{self.name} answered {path} with {kind} instead of JSON{said}") from exc

    def _problem(self, path: str, response: requests.Response) -> MachineError:
        status, reason = response.status_code, self._reason(response)
        said = f"{self.name} answered {path} with {status}: {reason}"
        if response.is_redirect:
            return ServerAway(
                f"{self.name} leads on to {response.headers['Location']}: set A1111_BASE_URL to where it is"
            )
        if status in NOT_LET_IN:
            return ServerAway(f"{said}; A1111_AUTH must be its user:password, or its token")
        if status in NO_SUCH_ROUTE or (status == 404 and reason == "Not Found"):
            return NotHere(f"{said}; is it an Automatic1111 that was started with --api?")
        if status in REFUSED_FOR_GOOD and status not in FOR_NOW:
            return CannotDraw(said)
        return ServerOutOfMemory(said) if MEMORY.search(reason) else ServerFailed(said)

    def _reason(self, response: requests.Response) -> str:
        try:
            body = response.json()
        except requests.JSONDecodeError:
            return self._words(re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", response.text, flags=re.DOTALL))
        if not isinstance(body, dict):
            return self._words(str(body))
        detail = body.get("detail")
        if isinstance(detail, list):  # of its web framework: which field, and what is wrong with it
            detail = "; ".join(_field(problem) for problem in detail)
        kind = body.get("error") if body.get("error") != "HTTPException" else None
        told = [str(part) for part in (kind, detail, body.get("errors")) if part]
        return self._words(": ".join(dict.fromkeys(told)))

    def _words(self, text: str) -> str:
        """Return what it said, short, in one line, and without secrets or pictures."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = " ".join(BLOB.sub("…", text).split())
        return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"


def _field(problem: Any) -> str:
    if not isinstance(problem, dict):
        return str(problem)
    place = ".".join(str(part) for part in problem.get("loc") or ())
    return f"{place}: {problem.get('msg')}"


def _never_reached(exc: requests.RequestException) -> bool:
    """Say whether no connection came about, so that nothing can have been done."""
    reason = getattr(exc.args[0], "reason", None) if exc.args else None
    return isinstance(exc, requests.ConnectTimeout) or isinstance(reason, (NewConnectionError, ConnectTimeoutError))


def _cause(exc: requests.RequestException) -> str:
    """Say in short what happened to the connection; the whole text would repeat the address with its secrets."""
    reason = getattr(exc.args[0], "reason", None) if exc.args else None
    return type(reason or exc).__name__
