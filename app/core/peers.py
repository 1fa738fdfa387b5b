"""Which machines can hand a file to their neighbours: machines that boot together need not all ask the origin.

The server only introduces them to each other. Every byte is checked by the machine that takes it, as from any origin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select

from app.core.fleet import Transaction
from app.core.tables import PeerFile

FORGET_AFTER = 15.0
"""Seconds without an announcement after which a machine is no longer named to others."""


@dataclass(frozen=True, slots=True)
class Shared:
    """One file that a machine holds or is fetching."""

    key: str
    """What the file is, by its expected hash."""
    complete: bool
    """All of it is there and proven; otherwise it can hand out what has arrived so far."""


def announce(tx: Transaction, url: str, files: Sequence[Shared]) -> Mapping[str, list[tuple[str, bool]]]:
    """Note what the machine at `url` can hand out, and return who else has the same: key → [(url, complete)]."""
    known = {f.key: f for f in tx.session.scalars(select(PeerFile).where(PeerFile.url == url).with_for_update())}
    for file in files:
        row = known.pop(file.key, None)
        if row is None:
            row = PeerFile(url=url, key=file.key)
            tx.session.add(row)
        row.complete, row.seen_at = file.complete, tx.now
    for gone in known.values():
        tx.session.delete(gone)
    alive = PeerFile.seen_at >= tx.now - timedelta(seconds=FORGET_AFTER)
    wanted = [file.key for file in files if not file.complete]
    others: dict[str, list[tuple[str, bool]]] = {key: [] for key in wanted}
    query = select(PeerFile).where(PeerFile.key.in_(wanted), PeerFile.url != url, alive).order_by(PeerFile.url)
    for row in tx.session.scalars(query):
        others[row.key].append((row.url, row.complete))
    return others


def forget_silent(tx: Transaction) -> None:
    """Drop what machines announced that have gone."""
    tx.session.execute(delete(PeerFile).where(PeerFile.seen_at < tx.now - timedelta(seconds=20 * FORGET_AFTER)))
