"""The kinds of columns that tables are made of, and the tables' base."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, DateTime, Dialect, Enum, TypeDecorator, Uuid
from sqlalchemy.orm import DeclarativeBase

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
