"""Counters: numbers that only grow, for what leaves no row behind."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.errors import StaleAttempt
from app.core.fleet import Fleet, Transaction
from app.core.tables import Counter

STALE_RESULTS_REFUSED = "stale_results_refused"
"""Pictures and endings of attempts that no longer held their job."""

JOBS_TAKEN_ALONG = "batched_jobs"
"""Jobs that were drawn in the pass of another one, which is not counted."""


def count(tx: Transaction, name: str, more: int = 1) -> None:
    """Add one, or as many as there were."""
    added = (
        update(Counter)
        .where(Counter.name == name)
        .values(value=Counter.value + more)
        .returning(Counter.value)
        .execution_options(synchronize_session=False)
    )
    if tx.session.scalar(added) is not None:
        return
    try:
        with tx.session.begin_nested():
            tx.session.add(Counter(name=name, value=more))
    except IntegrityError:  # somebody else counted the first one
        tx.session.execute(added)


def read_all(session: Session) -> Mapping[str, int]:
    """Return every counter by name; what never happened is missing."""
    rows = session.execute(select(Counter.name, Counter.value))
    return {name: value for name, value in rows}  # noqa: C416  # rows are no pairs to mypy


@contextmanager
def stale_results_counted(fleet: Fleet) -> Iterator[None]:
    """Count what is refused inside, in a transaction of its own: the refused one takes everything back."""
    try:
        yield
    except StaleAttempt:
        with fleet.transaction() as tx:
            count(tx, STALE_RESULTS_REFUSED)
        raise
