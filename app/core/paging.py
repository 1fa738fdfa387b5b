"""Listing anything page by page: one way for all nouns.

A page begins behind a place, and a place is named by what is at it, never by a number: whatever is inserted or deleted
while somebody reads, no row is skipped and none comes twice. Rows with the same value are told apart by their key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core.models import can_be_stored
from app.core.tables import UtcDateTime

Row = TypeVar("Row")

MOST_INTEGER = 2**31 - 1
"""What PostgreSQL's INTEGER takes; it refuses to compare with more."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a listing: behind the row with this value and this key."""

    sort: str
    """By what the listing is sorted, with a minus before it from the last to the first."""
    value: Any
    key: Any


@dataclass(frozen=True, slots=True)
class Listing:
    """What can be listed, and in which orders."""

    key: InstrumentedAttribute[Any]
    """The primary key, which settles the order of equal values."""
    columns: Mapping[str, InstrumentedAttribute[Any]]
    """By what it can be sorted. Columns that are never NULL: nothing comes behind a place that has no value."""
    default: str

    @property
    def sorts(self) -> list[str]:
        """Return every order, as clients name them."""
        return [f"{sign}{name}" for name in self.columns for sign in ("", "-")]

    def column(self, sort: str) -> InstrumentedAttribute[Any]:
        """Return the column of an order."""
        return self.columns[sort.removeprefix("-")]

    def read_place(self, sort: str, value: Any, key: Any) -> Place:
        """Make a place of what a client sent back; raises ValueError for what never was one."""
        if sort not in self.sorts:
            raise ValueError(sort)
        return Place(sort, _read(self.column(sort), value), _read(self.key, key))


def _read(column: InstrumentedAttribute[Any], value: Any) -> Any:
    """Read a column's value out of JSON."""
    kind = column.type.python_type
    if not isinstance(value, int if kind is int else str) or isinstance(value, bool):
        raise ValueError(value)  # noqa: TRY004  # what a client sent has a wrong value, whatever its type is
    if isinstance(column.type, UtcDateTime):
        return datetime.fromisoformat(str(value)).astimezone(UTC)
    found = kind(value)
    if isinstance(found, int) and abs(found) > MOST_INTEGER:
        raise ValueError(value)
    if isinstance(found, str) and not can_be_stored(found):
        raise ValueError(value)
    return found


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows in their order."""

    rows: Sequence[Row]
    next: Place | None
    """Where the next page begins; None when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part of a listing is wanted."""

    sort: str
    after: Place | None = None
    limit: int = 50


def page(session: Session, query: Select[Row], listing: Listing, wanted: Part) -> Page[Row]:
    """Return one page of what a query chooses."""
    column = listing.column(wanted.sort)
    goes_down = wanted.sort.startswith("-")
    if wanted.after is not None:
        here = tuple_(column, listing.key)
        place = tuple_(literal(wanted.after.value, column.type), literal(wanted.after.key, listing.key.type))
        query = query.where(here < place if goes_down else here > place)
    order = [each.desc() if goes_down else each.asc() for each in (column, listing.key)]
    # One more than asked for: it says whether there is a next page.
    found = session.scalars(query.order_by(*order).limit(wanted.limit + 1)).all()
    rows = found[: wanted.limit]
    if len(found) <= wanted.limit:
        return Page(rows, None)
    last = rows[-1]
    return Page(rows, Place(wanted.sort, getattr(last, column.key), getattr(last, listing.key.key)))
