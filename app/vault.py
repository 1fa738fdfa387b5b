"""Encrypting what must not lie in the database as it is: the secrets of webhooks."""

import base64
import logging
import os
import secrets
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.core.errors import Unreadable

log = logging.getLogger(__name__)


class FernetVault:
    """Fernet (AES-128-CBC and HMAC-SHA-256) with SECRET_KEY, or with a key that this computer makes once.

    The first of several keys encrypts and all of them decrypt: a new one is put in front, and the old one is taken out
    once nothing is owed any more that was ordered under it.
    """

    def __init__(self, keys: Sequence[str], path: Path) -> None:
        self._keys = keys
        self._path = path

    def seal(self, text: str) -> str:
        """Encrypt."""
        return self._fernet.encrypt(text.encode()).decode()

    def unseal(self, sealed: str) -> str:
        """Decrypt; raises Unreadable for what was encrypted with another key."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise Unreadable("it was encrypted with another key: SECRET_KEY has changed, or differs here") from None

    @cached_property
    def _fernet(self) -> MultiFernet:
        """Made when it is first needed: most commands never see a secret."""
        return MultiFernet([_fernet_of(key) for key in self._keys or [_own_key(self._path)]])


def _fernet_of(key: str) -> Fernet:
    # Whatever text an operator chose becomes 32 bytes; SECRET_KEY has to be long and random, no password to stretch.
    return Fernet(base64.urlsafe_b64encode(sha256(key.encode()).digest()))


def _own_key(path: Path) -> str:
    """Read this computer's own key, or make it; of many processes that come at once, one makes it for all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename it fails where another process was faster
            log.info("made %s, which encrypts the secrets of webhooks; keep it with the database", path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text(encoding="ascii")
