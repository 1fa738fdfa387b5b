"""The tables: what the fleet must not forget."""

from collections.abc import Mapping
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
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from app.core.dispatch import TOP_PRIORITY, engine_queue, model_queue
from app.core.lifecycle import AttemptState, DeliveryState, EngineState, HoldingState, JobState


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
        DeliveryState: _states(DeliveryState),
        EngineState: _states(EngineState),
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
    """Who wrote the entry: `api`, `cli`, `a1111` (a machine offered it), or `config`, `environment`, `built-in`, which
    are rewritten at start."""
    trigger_words: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """What a prompt should have in it, as machines have read it in the file."""
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
    """An operator's wish: it finishes what it draws and takes no more."""
    sick: Mapped[str | None] = mapped_column(Text)
    """Why the fleet gives it no more jobs: it failed what others finished. A new start or an operator clears it."""
    well_since: Mapped[datetime | None]
    """What it failed before this moment is forgiven."""
    previous_boot_id: Mapped[str | None] = mapped_column(String(64))
    """The process before this one. When it comes back, two of them use one id."""
    twin_seen_at: Mapped[datetime | None]
    """When two processes were last seen to use this id in turns."""
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
    weights_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """What its networks would take in that machine's memory, estimated from the headers of its files."""
    drawing_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """What one picture would take beside them, at its peak."""
    error_code: Mapped[str | None] = mapped_column(String(50))
    error: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime]

    machine: Mapped[Machine] = relationship(back_populates="holdings")


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


class Engine(Base):
    """A checkpoint with what goes along with it, pinned in a machine's memory (seed 000)."""

    __tablename__ = "engines"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    vae_id: Mapped[str | None] = mapped_column(String(200))
    loras: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    """As `app.core.extras.Lora`."""
    embeddings: Mapped[list[str]] = mapped_column(default=list)
    prompt_weighter: Mapped[str | None] = mapped_column(String(30))
    controlnets: Mapped[list[str]] = mapped_column(default=list)
    """Kinds, or ids of models, that are held ready too."""
    defaults: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Fields of GenerationSpec that its jobs may leave out: scheduler, steps, guidance_scale, width, height."""
    state: Mapped[EngineState] = mapped_column(default=EngineState.CLOSED, index=True)
    is_wanted: Mapped[bool] = mapped_column(default=False)
    """Somebody wants it to be in memory. Not wanted and not yet closed, it is being stopped."""
    machine_id: Mapped[str | None] = mapped_column(String(200), index=True)
    """Where it is, is being started, or was last."""
    boot_id: Mapped[str | None] = mapped_column(String(64))
    """The process that holds it: it is gone with that one."""
    bytes_estimated: Mapped[int | None] = mapped_column(BigInteger)
    bytes_measured: Mapped[int | None] = mapped_column(BigInteger)
    """What its networks take in memory."""
    error_code: Mapped[str | None] = mapped_column(String(50))
    error: Mapped[str | None] = mapped_column(Text)
    """Why the last start failed, or what closed it."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    started_at: Mapped[datetime | None]


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


class Pace(Base):
    """How fast a kind of device draws with a model, as measured."""

    __tablename__ = "paces"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    device: Mapped[str] = mapped_column(String(200), primary_key=True)
    step_seconds: Mapped[float | None]
    """Of one denoising step, per megapixel."""
    picture_seconds: Mapped[float | None]
    """Of denoising one picture, for orders that leave its size or its steps to the driver."""
    job_seconds: Mapped[float | None]
    """Of a whole job without loading: what each of those that wait will take, on average."""
    loading_seconds: Mapped[float | None]
    """Of bringing the model into memory, when it is not there."""
    other_seconds: Mapped[float | None]
    """Of all else, per picture: encoding, delivering."""
    samples: Mapped[int] = mapped_column(default=0)
    updated_at: Mapped[datetime]


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


class Heartbeat(Base):
    """A part of the server that says it lives: a machine is silent only while somebody listens."""

    __tablename__ = "heartbeats"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    up_since: Mapped[datetime]
    beat_at: Mapped[datetime]


class Enrichment(Base):
    """What Civitai says of a file, by its hash, and when it is to be asked."""

    __tablename__ = "enrichments"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 or AutoV2, in small letters."""
    found: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """The part of its answer that is shown; None: it does not know the file, or has not been asked."""
    answered_at: Mapped[datetime | None]
    good_until: Mapped[datetime | None]
    """Whoever looks after this moment owes the question again."""
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    """When it is to be asked; None: nobody wants to know."""
    failures: Mapped[int] = mapped_column(default=0)
    """Tries without an answer since it was owed."""
    error: Mapped[str | None] = mapped_column(Text)
    """Why the last try brought no answer."""
    created_at: Mapped[datetime]


class Counter(Base):
    """A number that only grows, for what leaves no row behind."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger, default=0)
