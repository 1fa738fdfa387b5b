"""The tables: what the fleet must not forget."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    String,
    Text,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from app.core.lifecycle import AttemptState, HoldingState, JobState


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC on every database; SQLite would give it back without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # the signature is SQLAlchemy's
        """Refuse moments without a zone, and store the others in UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # as above
        """Give back an aware moment."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _states(kind: type[StrEnum]) -> Enum:
    """Map a StrEnum by its values; by default SQLAlchemy stores names and gives back plain strings."""
    return Enum(kind, native_enum=False, length=16, values_callable=lambda k: [member.value for member in k])


class Base(DeclarativeBase):
    """The declarative base of all tables."""

    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's own attribute
        datetime: UtcDateTime,
        UUID: Uuid,
        dict[str, Any]: JSON,
        list[str]: JSON,
        JobState: _states(JobState),
        AttemptState: _states(AttemptState),
        HoldingState: _states(HoldingState),
    }


class Model(Base):
    """An entry of the catalogue. The first ten columns are those of seed 003, to the letter."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    name: Mapped[str] = mapped_column(String(500))
    download_url: Mapped[str] = mapped_column(Text)
    file_size_gb: Mapped[float | None]
    hash: Mapped[str | None] = mapped_column(String(200))
    auth_required: Mapped[bool] = mapped_column(default=False)
    auth_provider: Mapped[str | None] = mapped_column(String(50))
    save_path: Mapped[str] = mapped_column(Text)
    dependencies: Mapped[list[str]] = mapped_column(default=list)
    description: Mapped[str | None] = mapped_column(Text)

    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(30), default="checkpoint")
    base: Mapped[str | None] = mapped_column(String(30))
    variant: Mapped[str | None] = mapped_column(String(30))
    tags: Mapped[list[str]] = mapped_column(default=list)
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    origin: Mapped[str] = mapped_column(String(30), default="api")
    """Who wrote the entry: `api`, `cli`, `config`, `environment`, `built-in`. The last three are rewritten at start."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


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
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime] = mapped_column(index=True)

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
    error_code: Mapped[str | None] = mapped_column(String(50))
    error: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime]

    machine: Mapped[Machine] = relationship(back_populates="holdings")


class Job(Base):
    """One order for pictures, from acceptance to its end."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_state_model", "state", "model_id", "priority", "queued_at"),
        Index("ix_jobs_created", "created_at"),
        Index("ix_jobs_caller_state", "caller", "state"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    state: Mapped[JobState] = mapped_column(default=JobState.QUEUED)
    spec: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(default=0)
    dialect: Mapped[str] = mapped_column(String(30), default="v1")
    caller: Mapped[str | None] = mapped_column(String(80))
    """Who ordered it, where the dialect's clients ask for "my job" without naming it."""
    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    rung_at: Mapped[datetime]
    """When its last bell was rung; the sweeper leaves fresh ones alone."""
    next_attempt_at: Mapped[datetime | None]
    """Not before this moment; None: at once."""
    attempt: Mapped[int] = mapped_column(default=0)
    """The number of the newest attempt, its fencing token; 0 before the first claim."""
    max_attempts: Mapped[int]
    machine_id: Mapped[str | None] = mapped_column(String(200))
    error_code: Mapped[str | None] = mapped_column(String(50))
    error: Mapped[str | None] = mapped_column(Text)

    attempts: Mapped[list["Attempt"]] = relationship(back_populates="job", order_by="Attempt.number")
    images: Mapped[list["Image"]] = relationship(back_populates="job", order_by="Image.position")


class Attempt(Base):
    """One try of a job on one machine."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_machine_state", "machine_id", "state"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    machine_id: Mapped[str] = mapped_column(String(200))
    boot_id: Mapped[str] = mapped_column(String(64))
    state: Mapped[AttemptState] = mapped_column(default=AttemptState.RUNNING)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    error_code: Mapped[str | None] = mapped_column(String(50))
    error: Mapped[str | None] = mapped_column(Text)
    timings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Seconds by phase: `loading`, `denoising`, `encoding`, `uploading`."""

    job: Mapped[Job] = relationship(back_populates="attempts")


class Image(Base):
    """A picture that a machine has delivered. It is shown once its attempt has completed the job."""

    __tablename__ = "images"
    __table_args__ = (Index("ix_images_job", "job_id", "attempt", "position", unique=True),)

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
    created_at: Mapped[datetime]

    job: Mapped[Job] = relationship(back_populates="images")


class Caller(Base):
    """What a client has set, in a dialect whose clients expect to be remembered."""

    __tablename__ = "callers"

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    updated_at: Mapped[datetime]


class PeerFile(Base):
    """A file that a machine can hand to its neighbours."""

    __tablename__ = "peer_files"

    url: Mapped[str] = mapped_column(String(300), primary_key=True)
    """Where the machine hands files out."""
    key: Mapped[str] = mapped_column(String(200), primary_key=True, index=True)
    """What the file is, by its expected hash."""
    complete: Mapped[bool]
    seen_at: Mapped[datetime]
