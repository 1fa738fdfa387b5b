"""Who wants to hear of a job, and what they have been told."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.lifecycle import DeliveryState
from app.core.tables.columns import Base


class Hook(Base):
    """Where a job's client wants to hear of it."""

    __tablename__ = "hooks"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    """As it may be shown: without its query, where tokens ride."""
    host: Mapped[str] = mapped_column(String(300))
    """Whom it reaches, as host:port: one that is slow must not hold up the others."""
    sealed: Mapped[str] = mapped_column(Text)
    """The whole address and the secrets, encrypted; they are never shown."""
    events: Mapped[list[str]] = mapped_column(default=list)
    """Which events are wanted; empty: the endings."""
    base_url: Mapped[str] = mapped_column(Text, default="")
    """Under which address its client reaches us, for the addresses in what is sent."""


class Delivery(Base):
    """An event that is owed to a hook."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("ix_deliveries_due", "state", "host", "next_try_at"),
        Index("ix_deliveries_job", "job_id", "position", unique=True),
        Index("ix_deliveries_ended", "ended_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    """Also its `webhook-id`: the same over all tries, so that a receiver knows what it has seen."""
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    position: Mapped[int]
    """Its number among the job's events, from 0: a later one makes earlier ones that still wait void."""
    host: Mapped[str] = mapped_column(String(300))
    event: Mapped[str] = mapped_column(String(30))
    body: Mapped[dict[str, Any]]
    state: Mapped[DeliveryState] = mapped_column(default=DeliveryState.OWED)
    tried: Mapped[int] = mapped_column(default=0)
    """The number of the newest try, which fences older ones."""
    failures: Mapped[int] = mapped_column(default=0)
    """Failed tries since it was owed, for the schedule."""
    held_until: Mapped[datetime | None]
    """Until then somebody is sending it."""
    created_at: Mapped[datetime]
    next_try_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it was given up, or is void."""

    tries: Mapped[list["DeliveryTry"]] = relationship(back_populates="delivery", order_by="DeliveryTry.number")


class DeliveryTry(Base):
    """One try to deliver an event."""

    __tablename__ = "delivery_tries"

    delivery_id: Mapped[UUID] = mapped_column(ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    seconds: Mapped[float]
    status: Mapped[int | None]
    """The answer's HTTP status; None when there was no answer."""
    error: Mapped[str | None] = mapped_column(Text)

    delivery: Mapped[Delivery] = relationship(back_populates="tries")
