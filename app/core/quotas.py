"""Quotas: how many jobs of one owner may wait at a time."""

from datetime import UTC, datetime
from math import ceil

from sqlalchemy import func, select

from app.core.errors import Invalid, TooManyJobs
from app.core.fleet import Transaction
from app.core.lifecycle import JobState
from app.core.tables import Job

ORDERS = 0x4F524452
"""What PostgreSQL's advisory locks of ours are about: orders. Those of upgrades have one number, these have two."""

SOONEST_SECONDS = 5
"""A place that should be free by now may be free the next moment."""

UNKNOWN_SECONDS = 30
"""Where nothing was measured yet, nobody knows when a place will be free."""

LATEST_SECONDS = 3600
"""Longer estimates are worth nothing: machines come and go."""


def require_room(tx: Transaction, owner: str, wanted: int) -> None:
    """Raise TooManyJobs when `wanted` more jobs of an owner may not wait, and Invalid when they never could.

    Where there is a limit, an owner's orders are accepted one after another: each sees the jobs of those before.
    """
    most = tx.limits.max_queued
    if not most:
        return
    if wanted > most:
        raise Invalid(f"{wanted} jobs at once are more than the {most} that may wait (MAX_QUEUED_PER_TOKEN)")
    _wait_for_turn(tx, owner)
    queued = select(Job).where(Job.owner == owner, Job.state == JobState.QUEUED)
    waiting = tx.session.scalar(select(func.count()).select_from(queued.limit(most).subquery())) or 0
    if (missing := waiting + wanted - most) > 0:
        seconds = _seconds_until_free(tx, owner, missing)
        raise TooManyJobs(
            f"{waiting} of this token's jobs wait already, and {most} may (MAX_QUEUED_PER_TOKEN); "
            f"a place may be free in {seconds} s",
            seconds,
        )


def _wait_for_turn(tx: Transaction, owner: str) -> None:
    """Let no other order of an owner be counted until this one is committed; SQLite has one writer anyhow.

    Two owners of the same hash wait for each other too, some milliseconds. Source:
    https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
    """
    if tx.session.get_bind().dialect.name == "postgresql":
        tx.session.execute(select(func.pg_advisory_xact_lock(ORDERS, func.hashtext(owner))))


def _seconds_until_free(tx: Transaction, owner: str, places: int) -> int:
    """Estimate when so many of an owner's jobs will have left the queue: by then at the latest they are done."""
    query = select(Job.promised_at).where(
        Job.owner == owner, Job.state == JobState.QUEUED, Job.promised_at.is_not(None)
    )
    promise: datetime | None = tx.session.scalar(query.order_by(Job.promised_at).offset(places - 1).limit(1))
    if promise is None:
        return UNKNOWN_SECONDS
    left = ceil((promise.astimezone(UTC) - tx.now).total_seconds())
    return min(max(left, SOONEST_SECONDS), LATEST_SECONDS)
