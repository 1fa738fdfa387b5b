"""Looks at tokens and keys: who could come in. No secret is ever shown, not even in part."""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from app import tokens
from app.doctor.findings import Finding, Part, Patient, broken, fine, warning
from app.parse import SettingsError
from app.settings import is_loopback
from app.tokens import HASHED

SHORTEST = 20
"""Characters; of random letters and digits that is more than 100 bits."""

EXAMPLES = re.compile(
    r"(?:(?:a-|another-)?long-random-text|s3cret.*|secret|change-?me.*|password|passw0rd|token|admin|test|demo|imagefleet"
    r"|default|example|<.*>|x+|0+|1234.*|0123abcd|hf_xxx)",
    re.IGNORECASE,
)
"""What stands in documentation, and what people type while they try."""

MAKE_ONE = "make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


def access(patient: Patient) -> Iterator[Finding]:
    """Look whether tokens are there, and whether they could be guessed."""
    settings = patient.settings
    try:
        keyring = settings.keyring()
    except SettingsError as exc:
        yield broken(str(exc), "correct it; docs/security.md has the forms of a token")
        return
    is_open = not keyring.of(*tokens.CLIENTS)
    if is_open and Part.SERVER in patient.parts:
        yield fine(f"there are no tokens: the server is open, and only this computer reaches {settings.host}")
    weak = list(_weak(_secrets(settings.api_tokens), "API_TOKENS"))
    if settings.tokens_file:
        weak += _weak(_secrets(tokens.lines_of(settings.tokens_file)), "TOKENS_FILE")
    weak += _weak([settings.machine_token], "MACHINE_TOKEN")
    weak += _weak([settings.metrics_token], "METRICS_TOKEN")
    weak += _weak(settings.secret_key, "SECRET_KEY")
    yield from weak
    if not weak and not is_open:
        yield fine("no token is one of the documentation's examples, or short")
    if Part.SERVER in patient.parts:
        yield from _missing(patient, is_open=is_open)
    elif not patient.machine_token:
        yield broken("MACHINE_TOKEN is not set: the fleet lets no machine in without", "set the fleet's MACHINE_TOKEN")


def _secrets(texts: Iterable[str]) -> list[str]:
    """Return the secrets that are known in the clear."""
    found = (text.split(":", 2)[2] if text.count(":") >= 2 and not text.startswith(HASHED) else text for text in texts)
    return [secret for secret in found if not secret.startswith(HASHED)]


def _weak(secrets: Iterable[str], name: str) -> Iterator[Finding]:
    known = [secret for secret in secrets if secret]
    if any(EXAMPLES.fullmatch(secret) for secret in known):
        yield broken(f"{name} holds an example out of the documentation, which everybody can read", MAKE_ONE)
    elif any(len(secret) < SHORTEST or len(set(secret)) < SHORTEST // 3 for secret in known):
        yield warning(f"{name} holds a token that could be guessed (fewer than {SHORTEST} letters)", MAKE_ONE)


def _missing(patient: Patient, *, is_open: bool) -> Iterator[Finding]:
    settings = patient.settings
    is_reached = not is_loopback(settings.host)
    if is_reached and not settings.metrics_token:
        yield warning(
            f"/metrics is open to everybody who reaches {settings.host}:{settings.port}",
            f"set METRICS_TOKEN, and the same in Prometheus; {MAKE_ONE}",
        )
    if is_reached and urlsplit(settings.public_url).scheme != "https":
        yield warning(
            f"{settings.host}:{settings.port} is reached by others, and PUBLIC_URL is no https address: tokens may "
            "go in the clear",
            "put a proxy with TLS before it, and set PUBLIC_URL and TRUSTED_PROXIES",
        )
    if not settings.secret_key and not settings.database_url.startswith("sqlite"):
        yield warning(
            "SECRET_KEY is not set: every computer makes a key of its own, and reads no other's secrets of webhooks",
            f"set the same SECRET_KEY for all web and control processes; {MAKE_ONE}",
        )
    if is_open and not settings.machine_token and is_reached:
        yield broken("others reach this server and there are no tokens", "set API_TOKENS and MACHINE_TOKEN")
