"""One round of the sweeper: jobs of silent machines go back, forgotten jobs are rung for again."""

import logging

from app.core import jobs, peers
from app.core.fleet import Fleet

log = logging.getLogger(__name__)


def sweep(fleet: Fleet) -> None:
    """Find what fell between row and message, and mend it. Cheap when nothing did."""
    with fleet.transaction() as tx:
        lost = jobs.lose_of_silent_machines(tx)
        peers.forget_silent(tx)
    if lost:
        log.warning("%d attempts were lost with their machines", lost)
    jobs.ring_forgotten(fleet)
