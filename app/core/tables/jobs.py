"""Orders, and the tries to draw them."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from sqlalchemy import JSON, ForeignKey, Index, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.dispatch import TOP_PRIORITY, engine_queue, model_queue
from app.core.lifecycle import AttemptState, JobState
from app.core.tables.columns import Base

if TYPE_CHECKING:
    from app.core.tables.images import Image


def queue_of(model_id: str, engine_id: UUID | None = None) -> str:
    """Name the queue in which a job waits: its engine's, or else its model's."""
    return model_queue(model_id) if engine_id is None else engine_queue(str(engine_id))


def _named(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: columns.get(name) for name in ("model_id", "engine_id")}


class Job(Base):
    """One order for pictures, from acceptance to its end."""

    __tablename__ = "jobs"
    __table_args__ = (
        # The model stands at the end for those who count: they read the index and no table.
        Index("ix_jobs_waiting", "state", "queue", "owner", "rank", "queued_at", "id", "model_id"),
        Index("ix_jobs_engine", "engine_id", "state"),
        Index("ix_jobs_owner_state", "owner", "state"),
        Index("ix_jobs_model_ended", "model_id", "state", "ended_at"),
        Index("ix_jobs_created", "created_at", "id"),
        Index("ix_jobs_caller_state", "caller", "state"),
        Index("ix_jobs_batch", "batch_id"),
        Index("ix_jobs_deadline", "state", "deadline_at"),
        Index("ix_jobs_changed", "changed_at", "owner"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    state: Mapped[JobState] = mapped_column(default=JobState.QUEUED)
    spec: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(default=0)
    rank: Mapped[int] = mapped_column(
        default=lambda context: TOP_PRIORITY - context.get_current_parameters()["priority"]
    )
    """The priority counted from the top: an index that goes one way finds the job that is next."""
    dialect: Mapped[str] = mapped_column(String(30), default="v1")
    caller: Mapped[str | None] = mapped_column(String(80))
    """Who ordered it, where the dialect's clients ask for "my job" without naming it."""
    owner: Mapped[str] = mapped_column(String(64), default="")
    """The API token that ordered it, as its digest; empty where the server is open. Owners take turns."""
    batch_id: Mapped[UUID | None]
    """What jobs that were ordered in one request have in common."""
    origin_id: Mapped[UUID | None]
    """The ended job that this one tries again, or replays."""
    is_replay: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It draws the pictures of its origin again, to be held against them."""
    comparison: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """How far a replay's pictures are from those of its origin, once somebody has asked."""
    engine_id: Mapped[UUID | None]
    """The engine that draws it; None: any machine that is ready for the model."""
    queue: Mapped[str] = mapped_column(
        String(210), default=lambda context: queue_of(**_named(context.get_current_parameters()))
    )
    """Where it waits, by the name of its queue on the broker: its engine's, or else its model's."""
    deadline_at: Mapped[datetime | None]
    """Not begun by then, it is cancelled."""
    promised_at: Mapped[datetime | None]
    """When it would be done, as it was estimated when it was accepted; kept to learn how good such promises are."""
    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    changed_at: Mapped[datetime | None]
    """When something last happened to it that its timeline tells of; None: before this was kept."""
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
    traceparent: Mapped[str | None] = mapped_column(String(60))
    """The trace of the request that ordered it, as W3C Trace Context writes it; None: nobody traced it."""

    attempts: Mapped[list["Attempt"]] = relationship(back_populates="job", order_by="Attempt.number")
    images: Mapped[list["Image"]] = relationship(back_populates="job", order_by="Image.position")


class Attempt(Base):
    """One try of a job on one machine."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_machine_state", "machine_id", "state", "ended_at"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    machine_id: Mapped[str] = mapped_column(String(200))
    boot_id: Mapped[str] = mapped_column(String(64))
    claim_id: Mapped[UUID | None]
    """What its machine called the claim: asked again under the same name, it gets the same attempt."""
    together: Mapped[int] = mapped_column(default=1, server_default="1")
    """How many jobs were given to the machine to be drawn in one pass, this one included."""
    device: Mapped[str] = mapped_column(String(200), default="")
    """The kind of device that draws it, by name: what was learnt on one is true for its like."""
    state: Mapped[AttemptState] = mapped_column(default=AttemptState.RUNNING)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    error_code: Mapped[str | None] = mapped_column(String(50))
    error: Mapped[str | None] = mapped_column(Text)
    timings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Seconds by phase: `loading`, `denoising`, `encoding`, `uploading`."""

    job: Mapped[Job] = relationship(back_populates="attempts")
