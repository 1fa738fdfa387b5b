"""Counters: the measures in SQL, where all processes of the server write down what they have measured."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import StaleAttempt
from app.core.fleet import Fleet, Transaction
from app.core.measures import OTHER, STALE_RESULTS, Part
from app.core.tables import Measured
from app.core.upserts import insert_into

MOST_SERIES = 1000
"""Of one measure. Beyond them the first label of what is new is `other`: a catalogue may have any number of models."""

ROWS_AT_ONCE = 500
"""SQLite takes 32,766 values in one statement."""


def write(fleet: Fleet) -> None:
    """Add this process's tally to the counters of all; nothing is lost where the database does not take it now."""
    grown = fleet.tally.take()
    if not grown:
        return
    try:
        with fleet.transaction() as tx:
            _add(tx, _bounded(tx.session, grown))
    except BaseException:
        fleet.tally.add(grown)
        raise


def _bounded(session: Session, grown: Mapping[Part, float]) -> Mapping[Part, float]:
    """Let what would make too many series grow under a common name."""
    names = {part.name for part in grown}
    rows = session.execute(select(Measured.name, Measured.labels).where(Measured.name.in_(names)).distinct())
    known: dict[str, set[str]] = {name: set() for name in names}
    for name, labels in rows:
        known[name].add(labels)
    found: dict[Part, float] = {}
    for part, amount in grown.items():
        series = known[part.name]
        if part.labels not in series and len(series) >= MOST_SERIES:
            part = replace(part, labels=json.dumps([OTHER, *json.loads(part.labels)[1:]]))  # noqa: PLW2901  # its common name
        series.add(part.labels)
        found[part] = found.get(part, 0.0) + amount
    return found


def _add(tx: Transaction, grown: Mapping[Part, float]) -> None:
    # In one order: of two processes that write the same rows, neither waits for the other's second one.
    rows = [
        {"name": part.name, "labels": part.labels, "part": part.part, "value": amount}
        for part, amount in sorted(grown.items())
    ]
    for first in range(0, len(rows), ROWS_AT_ONCE):
        added = insert_into(tx.session, Measured).values(rows[first : first + ROWS_AT_ONCE])
        tx.session.execute(
            added.on_conflict_do_update(
                index_elements=[Measured.name, Measured.labels, Measured.part],
                set_={"value": Measured.value + added.excluded.value},
            )
        )


def read_all(session: Session) -> Mapping[Part, float]:
    """Return every counter that has ever grown."""
    rows = session.execute(select(Measured.name, Measured.labels, Measured.part, Measured.value))
    return {Part(name, labels, part): value for name, labels, part, value in rows}


@contextmanager
def stale_results_counted(fleet: Fleet) -> Iterator[None]:
    """Count what is refused inside; its own transaction takes everything else back."""
    try:
        yield
    except StaleAttempt:
        fleet.tally.count(STALE_RESULTS)
        raise
