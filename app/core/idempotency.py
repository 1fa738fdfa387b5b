"""Idempotency keys: a client that does not know whether its request arrived may send it again.

Source: the IETF draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key-header).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.core import jobs
from app.core.errors import KeyReused
from app.core.fleet import Transaction
from app.core.tables import IdempotencyKey, Job

KEPT = timedelta(hours=24)
"""How long a key is remembered; a client that sends again after a day means a new order."""

MOST_FORGOTTEN_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """A request that may come twice."""

    owner: str
    key: str
    fingerprint: str
    """SHA-256 of method, path and body: what must be the same for it to be the same request."""


def once(tx: Transaction, request: Request, order: Callable[[], Sequence[Job]]) -> tuple[Sequence[Job], bool]:
    """Order jobs, or find those that the request ordered when it came first.

    Returns them, and whether it had come before. Raises what `make_once` raises, and what `order` does.
    """
    made: list[Job] = []

    def make() -> list[str]:
        made.extend(order())
        return [str(job.id) for job in made]

    ids, came_before = make_once(tx, request, make)
    return jobs.get_each(tx.session, [UUID(each) for each in ids]) if came_before else made, came_before


def make_once(tx: Transaction, request: Request, make: Callable[[], Sequence[str]]) -> tuple[Sequence[str], bool]:
    """Do what a request asks for, or find what it made when it came first.

    Returns the ids of what was made, and whether it had come before. A request that fails leaves no key behind: it may
    be sent again. Raises KeyReused when the key belongs to another request.
    """
    kept = _claim(tx, request)
    if kept is not None:
        return _made_by(kept, request), True
    ids = make()
    tx.session.get_one(IdempotencyKey, (request.owner, request.key)).job_ids = list(ids)
    return ids, False


def made_before(tx: Transaction, request: Request) -> Sequence[str] | None:
    """Return the ids of what a request made when it came first, without taking its key; None where it is the first.

    For those who do slow things before they make anything. Raises KeyReused.
    """
    kept = tx.session.get(IdempotencyKey, (request.owner, request.key))
    return _made_by(kept, request) if kept is not None and _holds(kept, tx) else None


def _made_by(kept: IdempotencyKey, request: Request) -> Sequence[str]:
    if kept.fingerprint != request.fingerprint:
        raise KeyReused(
            f"the Idempotency-Key {request.key!r} was used for another request; send the same request again, "
            "or this one under a new key"
        )
    return list(kept.job_ids)


def _holds(kept: IdempotencyKey, tx: Transaction) -> bool:
    return kept.created_at > tx.now - KEPT


def _claim(tx: Transaction, request: Request) -> IdempotencyKey | None:
    """Take a key; returns who had it before. Two that want the same one wait for each other here, in the database."""
    mine = IdempotencyKey(
        owner=request.owner, key=request.key, fingerprint=request.fingerprint, job_ids=[], created_at=tx.now
    )
    try:
        with tx.session.begin_nested():
            tx.session.add(mine)
    except IntegrityError:
        found = tx.session.get(IdempotencyKey, (request.owner, request.key), with_for_update=True)
        if found is not None and _holds(found, tx):
            return found
        if found is not None:  # a day old, and not swept away yet
            tx.session.delete(found)
            tx.session.flush()
        return _claim(tx, request)
    return None


def forget_old(tx: Transaction) -> int:
    """Forget the keys that are older than KEPT; returns how many."""
    # Not those that a request is just looking at.
    old = select(IdempotencyKey).where(IdempotencyKey.created_at <= tx.now - KEPT).limit(MOST_FORGOTTEN_AT_ONCE)
    found = tx.session.scalars(old.with_for_update(skip_locked=True)).all()
    for key in found:
        tx.session.delete(key)
    return len(found)
