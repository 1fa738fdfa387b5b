"""Where clients ask to be told: one reading of webhooks for all dialects.

Every ordering door takes the same names. Ours is `webhook: {"url", "secret", "key", "events"}`; those of seed 002 stand
beside the order's other fields, in camel case or snake case: `webhookUrl` / `webhook_url`, and its secret key as
`webhookKey` / `webhook_key`, `webhookSecret` / `webhook_secret` or `webhookSecretKey` / `webhook_secret_key`.
A `secret` signs and is never sent; a `key` is sent in the header `X-Webhook-Key`, and signs where there is no secret.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import Schema, fields
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from app.api.door import Refused, root_url, settings
from app.core.webhooks import EVENTS, HookRequest
from provisioning.addresses import is_private_host

DEFAULT_PORTS = {"http": 80, "https": 443}
MOST_CHARACTERS = 2000
MOST_SECRET = 500

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "url": ("webhook_url", "webhookUrl"),
    "key": (
        *("webhook_key", "webhookKey"),
        *("webhook_secret", "webhookSecret"),
        *("webhook_secret_key", "webhookSecretKey"),
    ),
    "events": ("webhook_events", "webhookEvents"),
}


class WebhookSchema(Schema):
    """Where to tell of a job."""

    url = fields.String(required=True, metadata={"example": "https://example.org/pictures-are-ready"})
    secret = fields.String(
        allow_none=True,
        load_only=True,
        metadata={"description": "Signs what is sent (Standard Webhooks): `whsec_` and base64, or any text."},
    )
    key = fields.String(
        allow_none=True,
        load_only=True,
        metadata={"description": "Is sent as `X-Webhook-Key`; it signs as well where there is no secret."},
    )
    events = fields.List(
        fields.String(),
        allow_none=True,
        metadata={"description": f"Some of {', '.join(EVENTS)}; the endings unless given.", "example": ["completed"]},
    )


def _text() -> fields.String:
    return fields.String(allow_none=True, load_only=True)


class HookFields(Schema):
    """What an order may say of its webhook; schemas of orders inherit from it."""

    webhook = fields.Nested(WebhookSchema, allow_none=True)
    webhook_url = _text()
    webhook_key = _text()
    webhook_secret = _text()
    webhook_secret_key = _text()
    webhook_events = fields.List(fields.String(), allow_none=True, load_only=True)
    # Seed 002's clients write JavaScript.
    webhookUrl = _text()  # noqa: N815
    webhookKey = _text()  # noqa: N815
    webhookSecret = _text()  # noqa: N815
    webhookSecretKey = _text()  # noqa: N815
    webhookEvents = fields.List(fields.String(), allow_none=True, load_only=True)  # noqa: N815


NAMES = frozenset(HookFields().fields)
"""All that an order may say of its webhook, in all spellings."""


def hook_of(order: Mapping[str, Any]) -> HookRequest | None:
    """Read where an order's client wants to hear of it; None when it does not.

    Raises Refused (422) for what can never be delivered; the problem names the field, and never its value.
    """
    given = _given(order)
    if given is None:
        return None
    names, values = given
    url = _url_of(values["url"], names["url"])
    return HookRequest(
        url=url.url,
        secret=_secret(values.get("secret"), names.get("secret", "webhook.secret")),
        key=_key(values.get("key"), names.get("key", "webhook.key")),
        events=_events(values.get("events") or (), names.get("events", "webhook.events")),
        shown=Url(url.scheme, host=url.host, port=url.port, path=url.path or "/").url,
        host=f"{url.host}:{url.port or DEFAULT_PORTS[str(url.scheme)]}",
        base_url=root_url(),
    )


def without_hook(order: Mapping[str, Any]) -> dict[str, Any]:
    """Return an order without what it says of its webhook, for dialects that show orders again."""
    return {name: value for name, value in order.items() if name not in NAMES}


def _given(order: Mapping[str, Any]) -> tuple[Mapping[str, str], Mapping[str, Any]] | None:
    """Bring all spellings together: how each thing was called, and what it is."""
    names: dict[str, str] = {}
    values: dict[str, Any] = {}
    nested = {f"webhook.{what}": (what, value) for what, value in (order.get("webhook") or {}).items()}
    flat = {name: (what, order.get(name)) for what, spellings in SPELLINGS.items() for name in spellings}
    for name, (what, value) in {**nested, **flat}.items():
        if value is None or value in ("", []):
            continue
        if what in values and values[what] != value:
            raise _wrong(name, f"says something else than {names[what]}; give one of them")
        names.setdefault(what, name)
        values.setdefault(what, value)
    if values and "url" not in values:
        raise _wrong("webhook_url" if "webhook" not in order else "webhook.url", "is missing")
    return (names, values) if values else None


def _url_of(text: str, name: str) -> Url:
    try:
        url = parse_url(text)
        host = (url.host or "").strip("[]")
    except LocationParseError:
        raise _wrong(name, "is no address that can be read; expected https://…") from None
    if len(text) > MOST_CHARACTERS or any(character.isspace() or not character.isprintable() for character in text):
        raise _wrong(name, f"has spaces or control characters, or more than {MOST_CHARACTERS} characters")
    if url.scheme not in DEFAULT_PORTS or not host:
        raise _wrong(name, "must be an address that begins with https:// or http://")
    if url.auth is not None:
        raise _wrong(name, "has a user or a password in it; take them out, and let `secret` or `key` prove who calls")
    if not settings().webhook_allow_private and is_private_host(host):
        raise _wrong(
            name, "is an address of this server's own network; the operator can allow it with WEBHOOK_ALLOW_PRIVATE=1"
        )
    return url._replace(fragment=None)


def _secret(text: str | None, name: str) -> str | None:
    """Check that everybody will read the same key out of it."""
    if text is None:
        return None
    if len(text) > MOST_SECRET:
        raise _wrong(name, f"has more than {MOST_SECRET} characters")
    if text.startswith("whsec_"):
        try:
            if not base64.b64decode(text.removeprefix("whsec_"), validate=True):
                raise _wrong(name, "is whsec_ with nothing behind it")
        except (binascii.Error, ValueError):
            raise _wrong(name, "begins with whsec_, and what follows is not base64") from None
    return text


def _key(text: str | None, name: str) -> str | None:
    """Check that it can travel in a header."""
    if text is not None and not (text.isascii() and text.isprintable() and text == text.strip()):
        raise _wrong(name, "is sent in a header: printable ASCII characters only, without spaces around it")
    return _secret(text, name)


def _events(wanted: Sequence[str], name: str) -> tuple[str, ...]:
    known = tuple(dict.fromkeys(event.removeprefix("job.") for event in wanted))
    if unknown := [event for event in known if event not in EVENTS]:
        raise _wrong(name, f"has {unknown[0]!r}; there are {', '.join(EVENTS)}")
    return known


def _wrong(name: str, what: str) -> Refused:
    return Refused(422, "invalid_request", f"{name}: {what}", **{name: [what]})
