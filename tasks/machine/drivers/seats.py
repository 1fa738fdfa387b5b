"""Where pictures lie in the passes that draw them. Drawn again in the same seats, they are equal bit for bit.

A processor's sums are made in another order where a batch is wider or narrower, and may be where a row lies elsewhere
in it. What is in the other rows never matters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MOST_ROWS = 1024
"""Nothing wider was ever drawn: a receipt that says so is none of ours."""


@dataclass(frozen=True, slots=True)
class Seat:
    """The row of one picture."""

    together: int = 1
    """How many pictures were drawn in its pass, this one included."""
    row: int = 0
    left: tuple[tuple[int, int], ...] = ()
    """Each row that left the pass before its end, and after how many steps."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a receipt has it."""
        left = {"left": [list(each) for each in self.left]} if self.left else {}
        return {"together": self.together, "row": self.row, **left}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Seat | None":
        """Read it from a receipt; None for what is no seat."""
        try:
            left = tuple((int(row), int(step)) for row, step in found.get("left") or ())
            seat = cls(int(found["together"]), int(found["row"]), left)
        except (KeyError, TypeError, ValueError):
            return None
        is_one = 0 <= seat.row < seat.together <= MOST_ROWS and seat.row not in {row for row, _ in left}
        return seat if is_one and all(0 <= row < seat.together for row, _ in left) else None


def seats_of(found: Sequence[Mapping[str, Any]]) -> list[Seat]:
    """Read the seats of an order's pictures; none where one of them is none."""
    seats = [Seat.of(each) for each in found]
    known = [seat for seat in seats if seat is not None]
    return known if len(known) == len(seats) else []


def groups(seats: Sequence[Seat]) -> list[range]:
    """Divide the pictures of an order by the passes that drew them; returns their positions."""
    edges = [
        position
        for position, (one, other) in enumerate(pairwise(seats), 1)
        if (other.together, other.row, other.left) != (one.together, one.row + 1, one.left)
    ]
    return [range(start, end) for start, end in pairwise([0, *edges, len(seats)])] if seats else []
