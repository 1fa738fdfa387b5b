"""Heartbeats: whether the server itself was there to hear its machines.

An API that is away makes every machine look silent. Its web processes therefore beat, and nobody is taken for silent
who could not have been heard.
"""

from datetime import datetime, timedelta

from sqlalchemy import case, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.core.fleet import Transaction
from app.core.tables import Heartbeat

API = "api"
"""The web processes, together: as long as one of them beats, machines can be heard."""

CONTROL = "control"
"""The control worker: it beats with each round of its sweeper, which beat, broker and worker must all be there for."""

BEAT_SECONDS = 2.0
"""How often a part beats."""

STALE_SECONDS = 5.0
"""A part that has not beaten for so long is away: two beats are missing."""


def beat(tx: Transaction, name: str) -> None:
    """Say that a part of the server lives. Several processes may beat for one part; then most beats write nothing."""
    fresh, stale = tx.now - timedelta(seconds=BEAT_SECONDS / 2), tx.now - timedelta(seconds=STALE_SECONDS)
    seen = tx.session.scalar(select(Heartbeat.beat_at).where(Heartbeat.name == name))
    if seen is None:
        try:
            with tx.session.begin_nested():
                tx.session.add(Heartbeat(name=name, up_since=tx.now, beat_at=tx.now))
        except IntegrityError:  # another process was faster
            return
    elif seen < fresh:
        up_since = case((Heartbeat.beat_at < stale, tx.now), else_=Heartbeat.up_since)
        tx.session.execute(
            update(Heartbeat)
            .where(Heartbeat.name == name, Heartbeat.beat_at < fresh)
            .values(beat_at=tx.now, up_since=up_since)
            .execution_options(synchronize_session=False)
        )


def listening_since(session: Session, name: str, now: datetime) -> datetime | None:
    """Return since when a part has been there without a gap; None while it is away."""
    found = session.get(Heartbeat, name)
    if found is None or found.beat_at < now - timedelta(seconds=STALE_SECONDS):
        return None
    return found.up_since
