"""The engines."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import JSON, BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.lifecycle import EngineState
from app.core.tables.columns import Base


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
