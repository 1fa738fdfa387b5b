"""The pictures: those that were drawn, and those that were given."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.tables.columns import Base
from app.core.tables.jobs import Job


class Image(Base):
    """A picture that a machine has delivered. It is shown once its attempt has completed the job."""

    __tablename__ = "images"
    __table_args__ = (
        Index("ix_images_job", "job_id", "attempt", "position", unique=True),
        Index("ix_images_created", "created_at", "id"),
        Index("ix_images_favourite", "is_favourite", "created_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    position: Mapped[int]
    """Which picture of the job, from 0."""
    seed: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    media_type: Mapped[str] = mapped_column(String(50))
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(Text)
    """Where the image store keeps it."""
    receipt: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What drew it: files with their hashes, versions, device, seed. See docs/drivers.md, "The replay receipt"."""
    is_favourite: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime]

    job: Mapped[Job] = relationship(back_populates="images")


class Input(Base):
    """A picture that clients have given, to begin with, to mask or to steer with. Equal bytes are kept once."""

    __tablename__ = "inputs"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(Text)
    """Where the image store keeps it."""
    media_type: Mapped[str] = mapped_column(String(50))
    width: Mapped[int]
    height: Mapped[int]
    size_bytes: Mapped[int]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime] = mapped_column(index=True)
    """When a job last asked for it."""


class DoomedFile(Base):
    """A file that no row needs any more, and that is to be deleted: written down where its row went, in one change."""

    __tablename__ = "doomed_files"

    key: Mapped[str] = mapped_column(String(300), primary_key=True)
    """Where the image store keeps it."""
    due_at: Mapped[datetime] = mapped_column(index=True)
    """When it is to be tried; later after a failure."""
