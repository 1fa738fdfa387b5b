"""What is remembered of clients: their settings, their turns, what they have sent before."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.tables.columns import Base


class Caller(Base):
    """What a client has set, in a dialect whose clients expect to be remembered."""

    __tablename__ = "callers"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    updated_at: Mapped[datetime]


class Turn(Base):
    """When an owner was last served in a model's queue: the one who has waited longest is next."""

    __tablename__ = "turns"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    served_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """A request that a client may send again, and what it made the first time: jobs, or an engine."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    """SHA-256 of method, path and body."""
    job_ids: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(index=True)
