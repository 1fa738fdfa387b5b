"""The catalogue, what is known of its files, and how fast they draw."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.tables.columns import Base


class Model(Base):
    """An entry of the catalogue. The first ten columns are those of seed 003, to the letter."""

    __tablename__ = "models"
    __table_args__ = (Index("ix_models_kind", "kind", "updated_at"),)

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
