"""Two who change something at the same moment: the second one begins before the first has committed.

Only PostgreSQL lets both begin. On SQLite the second waits before it looks, and must be told the same in the end.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy import Engine, text

from app.core.errors import FleetError
from app.core.fleet import Fleet, Transaction

Deed = Callable[[Transaction], object]

BLOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")

PATIENCE = 60.0
"""Seconds; only a broken test waits so long."""


def do(fleet: Fleet, deed: Deed) -> object:
    """Do something in a transaction of its own; returns what came of it, errors of the domain included."""
    try:
        with fleet.transaction() as tx:
            return deed(tx)
    except FleetError as exc:
        return exc


def both(fleet: Fleet, first: Deed, second: Deed) -> object:
    """Do one thing, and another one before the first is committed; returns what came of the second."""
    return meanwhile(fleet, first, lambda: do(fleet, second))


def meanwhile(fleet: Fleet, first: Deed, second: Callable[[], object]) -> object:
    """Do the same with something that makes a transaction of its own."""
    with ThreadPoolExecutor(1) as other:
        with fleet.transaction() as tx:
            first(tx)
            tx.session.flush()
            waiting = other.submit(second)
            _wait_until_blocked(fleet.engine, waiting)
        return waiting.result(PATIENCE)


def _wait_until_blocked(engine: Engine, waiting: "Future[object]") -> None:
    """Wait until somebody waits for a lock, or has ended."""
    until = time.monotonic() + PATIENCE
    while engine.dialect.name == "postgresql" and not waiting.done():
        with engine.connect() as connection:
            if connection.scalar(BLOCKED):
                return
        assert time.monotonic() < until, "it neither waits for a lock nor ends"
        time.sleep(0.002)
