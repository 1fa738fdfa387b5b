"""Which machines can hand a file to their neighbours: machines that boot together need not all ask the origin.

The server only introduces them to each other. Every byte is checked by the machine that takes it, as from any origin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select

from app.core.fleet import Transaction
from app.core.tables import PeerFile
from app.core.upserts import insert_into

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
    """Note what the machine at `url` can hand out, and return who else has the same: key → [(url, complete)].

    A machine may announce twice at the same moment: its files are written in the order of their keys, so that neither
    waits for what the other one holds.
    """
    known = {file.key: file.complete for file in sorted(files, key=lambda file: file.key)}
    if known:
        added = insert_into(tx.session, PeerFile).values(
            [{"url": url, "key": key, "complete": complete, "seen_at": tx.now} for key, complete in known.items()]
        )
        fresh = {"complete": added.excluded.complete, "seen_at": added.excluded.seen_at}
        tx.session.execute(added.on_conflict_do_update(index_elements=["url", "key"], set_=fresh))
    tx.session.execute(delete(PeerFile).where(PeerFile.url == url, PeerFile.key.not_in(known)))
    alive = PeerFile.seen_at >= tx.now - timedelta(seconds=FORGET_AFTER)
    wanted = [key for key, complete in known.items() if not complete]
    others: dict[str, list[tuple[str, bool]]] = {key: [] for key in wanted}
    query = select(PeerFile).where(PeerFile.key.in_(wanted), PeerFile.url != url, alive).order_by(PeerFile.url)
    for row in tx.session.scalars(query):
        others[row.key].append((row.url, row.complete))
    return others


def forget_silent(tx: Transaction) -> None:
    """Drop what machines announced that have gone."""
    tx.session.execute(delete(PeerFile).where(PeerFile.seen_at < tx.now - timedelta(seconds=20 * FORGET_AFTER)))
