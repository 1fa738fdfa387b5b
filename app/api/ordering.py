"""Ordering: one way in for the orders of every dialect.

A dialect says what is wanted; what is the same for all of them is added here: whose order it is, and what becomes of
one that comes twice. Limits and webhooks are the core's, behind the same call.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from flask import Response, after_this_request, request

from app.api.door import Refused, fleet, owner
from app.core import deadlines, idempotency, jobs
from app.core.fleet import Transaction
from app.core.jobs import Terms
from app.core.tables import Job

KEY = re.compile(r"[\x21-\x7e]{1,255}")
"""Visible ASCII, without the space."""

KEY_HEADER: Mapping[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "description": (
        "Sent again under the same key within 24 hours, the same request answers with what it made, and with the "
        "header `Idempotent-Replayed: true`. Another request under this key is refused with 409."
    ),
}
"""The header as OpenAPI has it, for each route that takes orders."""

Do = Callable[[Transaction, Terms], Sequence[Job]]
"""Makes the jobs of an order, on these terms."""


@contextmanager
def placed(terms: Terms, do: Do, told: bytes | None = None) -> Iterator[Sequence[Job]]:
    """Place the order of this request, or find what it made when it came first; yields its jobs.

    `told` is what `fingerprint` takes. They are safe when the block has ended. Raises Refused for a key that is none,
    KeyReused, and what `do` raises.
    """
    terms = replace(terms, owner=owner())
    key = _key()
    with fleet().transaction() as tx:
        if key is None:
            yield do(tx, terms)
            return
        known = idempotency.Request(terms.owner, key, fingerprint(told))
        found, came_before = idempotency.once(tx, known, lambda: do(tx, terms))
        if came_before:
            _expire_overdue(tx, found)
            _tell_that_it_came_before()
        yield found


def made_once(tx: Transaction, make: Callable[[], Sequence[str]], told: bytes | None = None) -> Sequence[str]:
    """Make what this request asks for, or find what it made when it came first; returns the ids.

    `told` is what `fingerprint` takes. Raises Refused for a key that is none, KeyReused, and what `make` raises.
    """
    key = _key()
    if key is None:
        return make()
    found, came_before = idempotency.make_once(tx, idempotency.Request(owner(), key, fingerprint(told)), make)
    if came_before:
        _tell_that_it_came_before()
    return found


def made_before() -> Sequence[str] | None:
    """Return the ids of what this request made when it came first, for routes that look at something slow before.

    None where it comes for the first time, or without a key. Raises Refused for a key that is none, and KeyReused.
    """
    key = _key()
    if key is None:
        return None
    with fleet().transaction() as tx:
        found = idempotency.made_before(tx, idempotency.Request(owner(), key, fingerprint()))
    if found is not None:
        _tell_that_it_came_before()
    return found


def _key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise Refused(
            422,
            "invalid_idempotency_key",
            "Idempotency-Key: must be 1 to 255 visible ASCII characters, such as a UUID",
        )
    return key


def fingerprint(told: bytes | None = None) -> str:
    """Digest what makes this request what it is; neither spaces nor the order of a body's fields do.

    A form never has the same bytes twice, and none are left once it was read: `told` says what stands in it.
    """
    if told is None:
        body = request.get_json(silent=True)
        told = request.get_data() if body is None else json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(b"\n".join([request.method.encode(), request.path.encode(), told])).hexdigest()


def _expire_overdue(tx: Transaction, found: Sequence[Job]) -> None:
    for job in found:
        if deadlines.is_overdue(job, tx.now):
            deadlines.expire_one(tx, jobs.locked(tx.session, job.id))


def _tell_that_it_came_before() -> None:
    @after_this_request
    def say_so(response: Response) -> Response:
        response.headers["Idempotent-Replayed"] = "true"
        return response
