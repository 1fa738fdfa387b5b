"""Leaps: the different values of a column, found by jumping through an index from one to the next.

`SELECT DISTINCT` reads every row; this reads one index entry for each value, however many rows have it.
Source: "loose index scan", https://wiki.postgresql.org/wiki/Loose_indexscan; SQLite follows the same query.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import CTE, ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

OTHER_WAYS = ("enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_incremental_sort", "jit")
"""PostgreSQL's names for what it could do instead of following an index in its order. Where it must do one of them all
the same it takes the query for a costly one, and would compile it for 50 ms."""


def leap(
    column: InstrumentedAttribute[str], *where: ColumnElement[bool], then: Sequence[InstrumentedAttribute[Any]]
) -> CTE:
    """Make the table `leaps` with one column, `value`: each value that rows with `where` have, and a last NULL.

    An index must begin with the columns that `where` compares and go on with `column` and `then`. Asking for its order
    to the end leaves PostgreSQL no other one to read: see `read_by_index`.
    """
    first = select(column).where(*where).order_by(column, *then).limit(1).scalar_subquery()
    leaps = select(first.label("value")).cte("leaps", recursive=True)
    onward = select(column).where(*where, column > leaps.c.value).order_by(column, *then).limit(1)
    following = onward.correlate(leaps).scalar_subquery()
    return leaps.union_all(select(following).where(leaps.c.value.is_not(None)))


def read_by_index(session: Session) -> None:
    """Let PostgreSQL read through indexes, in their order, for the rest of this transaction, whatever it believes.

    After a burst of orders its statistics still say that the queue is short: then any index will do, and the whole
    queue is sorted for every claim. Or it reads the table from its start, because some of the rows must surely lie
    there. With 100,000 jobs that took 0.5 s instead of some milliseconds, until its statistics came up to date.
    Fresh statistics can mislead it too: where nearly every job waits in one queue, any index on the state looks as
    good, and the one job of another queue was found by reading all. So a query also asks for the order of its index.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(*(func.set_config(name, "off", True) for name in OTHER_WAYS)))
