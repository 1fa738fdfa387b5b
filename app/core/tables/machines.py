"""The machines, and what each of them holds."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.lifecycle import HoldingState
from app.core.tables.columns import Base


class Machine(Base):
    """A machine that has checked in at least once."""

    __tablename__ = "machines"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    boot_id: Mapped[str] = mapped_column(String(64))
    """Changes when the worker process starts anew: what an earlier process had claimed is lost then."""
    version: Mapped[str] = mapped_column(String(50), default="")
    device: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What draws there: {"type": "cuda" | "cpu", "name", "memory_total", "memory_free"}, bytes."""
    needed: Mapped[list[str]] = mapped_column(default=list)
    """What its operator declared in MACHINE_MODELS_NEEDED."""
    drained: Mapped[bool] = mapped_column(default=False)
    """An operator's wish: it finishes what it draws and takes no more."""
    sick: Mapped[str | None] = mapped_column(Text)
    """Why the fleet gives it no more jobs: it failed what others finished. A new start or an operator clears it."""
    well_since: Mapped[datetime | None]
    """What it failed before this moment is forgiven."""
    previous_boot_id: Mapped[str | None] = mapped_column(String(64))
    """The process before this one. When it comes back, two of them use one id."""
    twin_seen_at: Mapped[datetime | None]
    """When two processes were last seen to use this id in turns."""
    boot: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """How it came up: {"started_at", "phases": [{"phase", "model_id", "start", "seconds"}], "first_picture_seconds"}"""
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime] = mapped_column(index=True)
    quiet_until: Mapped[datetime | None]
    """When it was told to check in again, being idle in a large fleet; before that it is not silent."""

    holdings: Mapped[list["Holding"]] = relationship(back_populates="machine", order_by="Holding.model_id")


class Holding(Base):
    """How far one machine is with one model, as it last said itself."""

    __tablename__ = "holdings"

    machine_id: Mapped[str] = mapped_column(ForeignKey("machines.id", ondelete="CASCADE"), primary_key=True)
    model_id: Mapped[str] = mapped_column(String(200), primary_key=True, index=True)
    """No foreign key: an operator may declare ids that are not in the catalogue."""
    state: Mapped[HoldingState]
    bytes_done: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_total: Mapped[int | None] = mapped_column(BigInteger)
    bytes_per_second: Mapped[float | None]
    weights_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """What its networks would take in that machine's memory, estimated from the headers of its files."""
    drawing_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """What one picture would take beside them, at its peak."""
    error_code: Mapped[str | None] = mapped_column(String(50))
    error: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime]
    moved_at: Mapped[datetime | None]
    """When its state or its bytes were last other than before: a download that stands still is known by it."""

    machine: Mapped[Machine] = relationship(back_populates="holdings")


class PeerFile(Base):
    """A file that a machine can hand to its neighbours."""

    __tablename__ = "peer_files"

    url: Mapped[str] = mapped_column(String(300), primary_key=True)
    """Where the machine hands files out."""
    key: Mapped[str] = mapped_column(String(200), primary_key=True, index=True)
    """What the file is, by its expected hash."""
    complete: Mapped[bool]
    seen_at: Mapped[datetime]
