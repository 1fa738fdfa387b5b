"""What the server remembers of itself."""

from datetime import datetime

from sqlalchemy import BigInteger, Double, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.tables.columns import Base


class Heartbeat(Base):
    """A part of the server that says it lives: a machine is silent only while somebody listens."""

    __tablename__ = "heartbeats"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    up_since: Mapped[datetime]
    beat_at: Mapped[datetime]


class Measured(Base):
    """A number that only grows: one part of one series of a measure (`app.core.measures`)."""

    __tablename__ = "measured"

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    labels: Mapped[str] = mapped_column(String(500), primary_key=True)
    """The values of its labels, as a JSON list."""
    part: Mapped[str] = mapped_column(String(20), primary_key=True)
    """Of a histogram: a bucket's upper bound, or `sum`; of a counter nothing."""
    value: Mapped[float] = mapped_column(Double)
    """Whole numbers up to 2**53 are exact."""


class Counter(Base):
    """What versions before `measured` counted in. They may still run beside this one, while it is being rolled out."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger, default=0)
