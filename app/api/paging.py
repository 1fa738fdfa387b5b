"""Listing by pages: the same parameters for every noun, in every dialect that has no words of its own for it.

`limit` says how many, `sort` in which order, `after` where the page begins: `next` of the page before it, as it is.
Each noun has filters beside them.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from app.core.paging import Listing, Part, Place

MOST_OF_A_FLEET = 1000
"""Models and machines on a page: who does not ask for pages sees all of most fleets."""

LONGEST_PLACE = 2000
"""Characters; a model's id in base64 is far below."""


class AfterField(fields.String):
    """A place in a listing; what is in it is nobody's business but ours."""

    def __init__(self, listing: Listing, **more: Any) -> None:
        about = {"description": "`next` of the page before this one"}
        super().__init__(metadata=about, **more)
        self.listing = listing

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> Any:
        text = super()._deserialize(value, attr, data, **more)
        try:
            sort, found, key = json.loads(base64.b64decode(text[:LONGEST_PLACE], altchars=b"-_", validate=True))
            return self.listing.read_place(str(sort), found, key)
        except (ValueError, TypeError, binascii.Error, OverflowError, RecursionError) as exc:
            raise ValidationError("is no place of this listing; take `next` of an answer as it is") from exc


def to_text(place: Place | None) -> str | None:
    """Write a place as a client gets it."""
    if place is None:
        return None
    parts = [place.sort, *(each if isinstance(each, int) else str(each) for each in (place.value, place.key))]
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


class PageSchema(Schema):
    """What all questions for a page have in common."""

    @validates_schema
    def go_on_in_the_same_order(self, data: Mapping[str, Any], **_: Any) -> None:
        """Take a place only in the order that it was found in."""
        given = {name: data[name] for name in ("after", "cursor") if name in data}
        if len(given) > 1:
            raise ValidationError("is another name of after; give one of them", "cursor")
        for name, place in given.items():
            if data.get("sort", place.sort) != place.sort:
                told = f"comes from a listing sorted by {place.sort}; leave sort out, or begin anew"
                raise ValidationError(told, name)


def limit_field(most: int = 200, usual: int = 50) -> fields.Integer:
    """Make the field `limit`."""
    return fields.Integer(
        load_default=usual,
        validate=validate.Range(min=1, max=most),
        metadata={"description": "how many there are on a page"},
    )


def sort_field(listing: Listing) -> fields.String:
    """Make the field `sort`."""
    return fields.String(
        validate=validate.OneOf(listing.sorts),
        metadata={"description": f"with a minus before it from the last to the first; usually {listing.default}"},
    )


def next_field() -> fields.String:
    """Make the field `next` of an answer."""
    return fields.String(
        required=True, allow_none=True, metadata={"description": "`after` of the next page; null when there is none"}
    )


def part_of(query: Mapping[str, Any], listing: Listing) -> Part:
    """Read which part is wanted; a place tells how its listing is sorted."""
    after: Place | None = query.get("after")
    usual = listing.default if after is None else after.sort
    return Part(sort=query.get("sort", usual), after=after, limit=query["limit"])
