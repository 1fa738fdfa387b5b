"""Odometers: what machines count themselves, turned into counters of the whole fleet.

A machine tells how far each of its odometers stands. What is more than at its last check-in is added to the fleet's
counter; one that stands lower was begun anew, and all of it is more.
"""

from collections.abc import Mapping
from typing import Any

from app.core.fleet import Transaction
from app.core.measures import CACHE_LOOKUPS, DOWNLOADED, PIPELINE_SWAPS, VERIFICATION_FAILURES, Measure

MOST = 2**53
"""A number that no odometer reaches, and that adds up exactly; whoever tells of more is not believed."""

COUNTED: Mapping[str, tuple[Measure, tuple[str, ...]]] = {
    "swaps": (PIPELINE_SWAPS, ()),
    "hits": (CACHE_LOOKUPS, ("hit",)),
    "misses": (CACHE_LOOKUPS, ("miss",)),
    "downloaded_bytes": (DOWNLOADED, ()),
    "verification_failures": (VERIFICATION_FAILURES, ()),
}
"""What a machine tells among the facts about its device, and what of the fleet's it adds to."""

BY_PROCESS = frozenset({"swaps", "hits", "misses"})
"""Those that begin at 0 with each worker process."""


def count(tx: Transaction, before: Mapping[str, Any], now: Mapping[str, Any], *, is_new_process: bool) -> None:
    """Add what a machine has counted since its last check-in.

    `is_new_process`: what a process counts from its start began at 0; what provisioning keeps on the disk did not.
    """
    for name, (measure, labels) in COUNTED.items():
        reading = _reading(now, name)
        since = 0 if is_new_process and name in BY_PROCESS else _reading(before, name)
        more = reading - since if reading >= since else reading
        if more:
            tx.count(measure, *labels, more=more)


def _reading(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST else 0
