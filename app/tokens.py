"""Tokens: who may come in, under which name, and to do what. Pure but for `TOKENS_FILE`, which is read when it changes.

A token is written in one of these forms, in `API_TOKENS` or on a line of `TOKENS_FILE`:

    s3cret                          every right of clients and operators, as bare tokens always had
    alice:client:s3cret             orders, looks, and changes what is her own
    ops:operator:s3cret             changes the fleet too
    vast-1:machine:s3cret           a machine of the fleet, which can be shut out alone
    vast-1:machine@gpu-7:s3cret     the same, and it may speak as gpu-7 (with several GPUs gpu-7-0, gpu-7-1, ...) only

`sha256:` and 64 digits may stand in a secret's place: then the token itself is nowhere on the server.
"""

import hmac
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from app.core.protocol import MACHINE_ID

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,30}")
"""Shorter than the 32 digits that stand for a bare token wherever a name does: nobody can take another's place."""

HASHED = "sha256:"
DIGITS = re.compile(r"[0-9a-f]{64}")


class Scope(StrEnum):
    """What a token is for."""

    CLIENT = "client"
    OPERATOR = "operator"
    MACHINE = "machine"


CLIENTS = (Scope.OPERATOR, Scope.CLIENT)
"""Scopes that order pictures; an operator may do all that a client may."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is known; it shows nothing of its secret."""

    name: str
    """Empty for a bare one."""
    scope: Scope
    digest: bytes = field(repr=False)
    owner: str
    """Stands for it in rows and logs: its name, or digits out of which nothing can be read."""
    machine_id: str | None = None
    """The only machine it may speak for."""

    def may_speak_for(self, machine_id: str) -> bool:
        """Say whether this is the token of a machine; a host with several GPUs puts their numbers behind its id."""
        own = self.machine_id
        return own is None or machine_id == own or bool(re.fullmatch(rf"{re.escape(own)}-\d+", machine_id))


def read(text: str) -> Token:
    """Read a token in one of its forms; raises ValueError for what is none, which never shows the text."""
    name, scope, secret = _parts(text)
    kind, at, machine_id = scope.partition("@")
    if kind not in set(Scope) or not secret:
        raise ValueError("expected name:scope:secret with one of the scopes client, operator and machine")
    if at and not (kind == Scope.MACHINE and MACHINE_ID.fullmatch(machine_id)):
        raise ValueError("expected name:machine@machine-id:secret")
    known = read_bare(secret)
    return replace(known, name=name, scope=Scope(kind), owner=name or known.owner, machine_id=machine_id or None)


def read_bare(text: str) -> Token:
    """Read a token that stands alone in its setting: a text, or its hash."""
    digest = bytes.fromhex(text.removeprefix(HASHED)) if _is_hashed(text) else _digest(text)
    return Token("", Scope.OPERATOR, digest, owner_of_bare(text))


def of_machines(text: str) -> Token:
    """Read the token that all machines share."""
    return replace(read_bare(text), scope=Scope.MACHINE)


def _parts(text: str) -> tuple[str, str, str]:
    name, first, rest = text.partition(":")
    scope, second, secret = rest.partition(":")
    if _is_hashed(text) or not (first and second):
        return "", Scope.OPERATOR, text
    if not NAME.fullmatch(name):
        raise ValueError("expected a name of 31 letters, digits, dots, dashes at most, with a letter in front")
    return name, scope, secret


def _is_hashed(secret: str) -> bool:
    if not secret.startswith(HASHED):
        return False
    if not DIGITS.fullmatch(secret.removeprefix(HASHED)):
        raise ValueError("expected 64 hexadecimal digits in small letters behind sha256:")
    return True


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


def owner_of_bare(secret: str) -> str:
    """Return what stands for a token without a name."""
    return sha256(f"token {secret}".encode()).hexdigest()[:32]


def read_all(texts: Iterable[str]) -> tuple[Token, ...]:
    """Read tokens; raises ValueError for one that is none, and for two of one name."""
    found = tuple(read(text) for text in texts)
    names = [token.name for token in found if token.name]
    if len(names) != len(set(names)):
        raise ValueError("two tokens have one name")
    return found


def several(value: str) -> tuple[str, ...]:
    """Read a list of tokens with commas between them; they stay texts, and are none that cannot be read."""
    texts = tuple(item.strip() for item in value.split(",") if item.strip())
    read_all(texts)
    return texts


def lines_of(path: Path) -> tuple[str, ...]:
    """Read a file with a token on each line; `#` begins a line that is for people. Raises OSError and ValueError."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return several(",".join(line for line in lines if line and not line.startswith("#")))


def plain(texts: Sequence[str], scopes: Collection[Scope] = CLIENTS) -> str:
    """Return the first secret of these scopes that is known in the clear, by the order of the scopes; or nothing."""
    for scope in scopes:
        for text in texts:
            secret = _parts(text)[2]
            if read(text).scope == scope and not _is_hashed(secret):
                return secret
    return ""


def find(tokens: Iterable[Token], given: str) -> Token | None:
    """Find the token that was given.

    All are compared, each in constant time and by their digests: neither which one matched, nor how far, nor how long
    it is tells anything.
    """
    digest = _digest(given)
    matches = [(hmac.compare_digest(digest, token.digest), token) for token in tokens]
    return next((token for is_it, token in matches if is_it), None)


class Keyring:
    """The tokens of `API_TOKENS` and of `TOKENS_FILE`; a change of the file is seen by the next request.

    A file that has become unreadable changes nothing, and the log says so: shutting everybody out, or letting everybody
    in, would be worse than what was right a moment ago.
    """

    def __init__(self, texts: Sequence[str], path: Path | None = None) -> None:
        """Read them; raises OSError and ValueError."""
        self._texts = tuple(texts)
        self._path = path
        self._seen = _state_of(path)
        self._tokens = read_all([*self._texts, *(lines_of(path) if path else ())])

    def __iter__(self) -> Iterator[Token]:
        self._look()
        return iter(self._tokens)

    def of(self, *scopes: Scope) -> tuple[Token, ...]:
        """Return the tokens of some scopes."""
        return tuple(token for token in self if token.scope in scopes)

    def _look(self) -> None:
        state = _state_of(self._path)
        if self._path is None or state == self._seen:
            return
        self._seen = state
        try:
            self._tokens = read_all([*self._texts, *lines_of(self._path)])
        except (OSError, ValueError) as exc:
            reason = _without_content(exc)  # a traceback would show some of the file
            log.error("TOKENS_FILE cannot be read, the tokens stay as they were: %s", reason)  # noqa: TRY400
        else:
            log.info("TOKENS_FILE has changed: there are %d tokens now", len(self._tokens))


def _state_of(path: Path | None) -> tuple[int, ...]:
    if path is None:
        return ()
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _without_content(exc: Exception) -> str:
    """Say what is wrong with a file of secrets."""
    return str(exc) if isinstance(exc, OSError) or type(exc) is ValueError else type(exc).__name__
