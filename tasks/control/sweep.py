"""One round of the sweeper: what fell between row and message is mended, what nobody waits for is swept away."""

import logging
from collections.abc import Callable

from sqlalchemy.exc import OperationalError

from app.core import attempts, bells, counters, deadlines, deliveries, engine_reports, heartbeats, idempotency, peers
from app.core.fleet import Fleet, Transaction

log = logging.getLogger(__name__)

MOST_ROUNDS = 10
"""How often one step is repeated at once when it found as much as it may take in one transaction."""


def sweep(fleet: Fleet) -> None:
    """Find what needs mending, and mend it. Cheap when nothing does: each step is one look into an index."""
    try:
        _in_parts(fleet, deadlines.expire, deadlines.MOST_AT_ONCE)
        if lost := _in_parts(fleet, attempts.lose_of_silent_machines, attempts.MOST_LOST_AT_ONCE):
            log.warning("%d attempts were lost with their machines", lost)
        with fleet.transaction() as tx:
            engine_reports.close_of_silent_machines(tx)
        bells.ring_forgotten(fleet)
        deliveries.ring_due(fleet)
        _in_parts(fleet, idempotency.forget_old, idempotency.MOST_FORGOTTEN_AT_ONCE)
        with fleet.transaction() as tx:
            peers.forget_silent(tx)
            heartbeats.beat(tx, heartbeats.CONTROL)
        counters.write(fleet)
    except OperationalError as exc:  # it is being restarted, or two of us waited for each other: the next round comes
        log.warning("this round of the sweeper was cut short: the database said %s", type(exc.orig).__name__)


def _in_parts(fleet: Fleet, step: Callable[[Transaction], int], most: int) -> int:
    """Do a step in transactions that stay short, until nothing is left to do or the round has lasted long enough."""
    total = 0
    for _ in range(MOST_ROUNDS):
        with fleet.transaction() as tx:
            done = step(tx)
        total += done
        if done < most:
            break
    return total
