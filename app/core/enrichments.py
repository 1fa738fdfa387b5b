"""What Civitai knows of the catalogue's files: kept by hash, owed where it is missing or old, asked for one at a time.

Whoever shows a model reads what is kept and owes the rest; the control worker asks. Nobody waits for an answer.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.core.fleet import Fleet, Transaction
from app.core.tables import Enrichment, Model
from app.core.upserts import insert_into

HASH = re.compile(r"(?:sha256:|autov2:)?([0-9a-f]{64}|[0-9a-f]{10})")
"""A SHA-256, or Civitai's AutoV2, which is its head; the other hashes are not asked for."""

PRIVATE = "private"
"""The tag of models whose hashes are told to nobody."""

OURS = "built-in"
"""The origin of what we bring along ourselves: it is known to be nowhere else."""

FOUND_SECONDS = 30 * 86400.0
"""How long what was found is good: words that trigger a LoRA do not change, the number of its downloads does."""

NOT_FOUND_SECONDS = 7 * 86400.0
"""How long nothing is good: a file may be published after its owner has begun to use it."""

GIVEN_UP_SECONDS = 86400.0
FIRST_WAIT = 60.0
LONGEST_WAIT = 6 * 3600.0
MOST_PATIENCE = 86400.0
"""Seconds; the longest wait that Civitai may ask for with `Retry-After`."""

PICTURE = "has_picture"
"""Stands in what was found when the store has a picture of it."""

MOST_TRIES = 6

MOST_AT_ONCE = 500
"""How many hashes one statement looks for."""

HOLD_SECONDS = 120.0
"""How long one question may take before another worker asks it again: several times what it takes at most."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a question."""

    found: Mapping[str, Any] | None = None
    """None without trouble: Civitai does not know the file."""
    trouble: str | None = None
    """Why there is no answer."""
    retry_after: float | None = None
    """Seconds that Civitai asked to be left alone."""
    is_everybodys: bool = False
    """The trouble is the site's, not this hash's: the other questions need not be asked now."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be asked for."""

    on: bool = True
    private: Sequence[str] = ()
    """Ids of models whose hashes are told to nobody; `*` stands for any letters."""

    def is_private(self, model: Model) -> bool:
        """Say whether a model's hash must not leave the house."""
        return (
            PRIVATE in model.tags
            or model.origin == OURS
            or any(fnmatchcase(model.id, pattern) for pattern in self.private)
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What can be told of one model at this moment."""

    status: str
    """`found`, `not_found`, `pending`, `unavailable`, or why nobody asks: `off`, `private`, `no_hash`."""
    found: Mapping[str, Any] | None = None


def hash_of(model: Model) -> str | None:
    """Return the hash by which Civitai would know a model's file; None where the catalogue has no such one."""
    matched = HASH.fullmatch((model.hash or "").lower())
    return matched[1] if matched else None


def picture_key(wanted: str) -> str:
    """Say where the store keeps the picture of the file with a hash."""
    return f"civitai/{wanted}.webp"


def look(fleet: Fleet, session: Session, models: Sequence[Model], rules: Rules) -> dict[str, Known]:
    """Return what is known of each model by its id, and owe what is not known, or is no longer sure."""
    asked = _asked(models, rules)
    rows = _rows(session, {wanted for wanted in asked.values() if wanted})
    now = fleet.clock()
    if missing := [wanted for wanted in dict.fromkeys(asked.values()) if wanted and _is_stale(rows.get(wanted), now)]:
        with fleet.transaction() as tx:
            owe(tx, missing)
    return {model.id: _known(model, asked, rows, rules) for model in models}


def known(session: Session, model: Model, rules: Rules) -> Known:
    """Return what is known of one model, and owe nothing: also for who holds the database's lock."""
    asked = _asked([model], rules)
    return _known(model, asked, _rows(session, {wanted for wanted in asked.values() if wanted}), rules)


def _asked(models: Sequence[Model], rules: Rules) -> dict[str, str | None]:
    return {model.id: hash_of(model) for model in models if rules.on and not rules.is_private(model)}


def _known(model: Model, asked: Mapping[str, str | None], rows: Mapping[str, Enrichment], rules: Rules) -> Known:
    if not rules.on:
        return Known("off")
    if model.id not in asked:
        return Known("private")
    wanted = asked[model.id]
    if wanted is None:
        return Known("no_hash")
    row = rows.get(wanted)
    if row is not None and row.found is not None:
        return Known("found", row.found)
    if row is None or (row.error is None and row.answered_at is None):
        return Known("pending")
    return Known("unavailable" if row.error else "not_found")


def _rows(session: Session, hashes: Iterable[str]) -> dict[str, Enrichment]:
    queries = (select(Enrichment).where(Enrichment.hash.in_(some)) for some in _in_parts(hashes))
    return {row.hash: row for query in queries for row in session.scalars(query)}


def _in_parts(hashes: Iterable[str]) -> Iterator[Sequence[str]]:
    """Take a set apart: databases bound how many values one statement may have."""
    wanted = sorted(set(hashes))
    return (wanted[start : start + MOST_AT_ONCE] for start in range(0, len(wanted), MOST_AT_ONCE))


def _is_stale(row: Enrichment | None, now: datetime) -> bool:
    return row is None or (row.due_at is None and (row.good_until is None or row.good_until <= now))


def owe(tx: Transaction, hashes: Iterable[str]) -> None:
    """Owe the answer for each of these hashes; one that is owed already, or known, stays as it is."""
    for some in _in_parts(hashes):
        _owe(tx, some)


def _owe(tx: Transaction, wanted: Sequence[str]) -> None:
    # Many requests find the same hash missing at the same moment.
    rows = [{"hash": each, "due_at": tx.now, "failures": 0, "created_at": tx.now} for each in wanted]
    added = insert_into(tx.session, Enrichment).values(rows)
    tx.session.execute(added.on_conflict_do_nothing(index_elements=["hash"]))
    tx.session.execute(
        update(Enrichment)
        .where(
            Enrichment.hash.in_(wanted),
            Enrichment.due_at.is_(None),
            or_(Enrichment.good_until.is_(None), Enrichment.good_until <= tx.now),
        )
        .values(due_at=tx.now)
        .execution_options(synchronize_session=False)
    )


def take(tx: Transaction) -> str | None:
    """Hold what has been owed for longest for one asker; None when nothing is due."""
    query = select(Enrichment).where(Enrichment.due_at <= tx.now).order_by(Enrichment.due_at, Enrichment.hash).limit(1)
    row = tx.session.scalar(query.with_for_update(skip_locked=True))
    if row is None:
        return None
    row.due_at = tx.now + timedelta(seconds=HOLD_SECONDS)
    return row.hash


def record(tx: Transaction, asked: str, finding: Finding) -> None:
    """Keep what came of a question, and settle when it is asked again."""
    row = tx.session.get(Enrichment, asked, with_for_update=True)
    if row is None:
        return
    if finding.trouble is None:
        row.found = None if finding.found is None else dict(finding.found)
        row.error, row.failures, row.due_at, row.answered_at = None, 0, None, tx.now
        seconds = NOT_FOUND_SECONDS if finding.found is None else FOUND_SECONDS
        row.good_until = tx.now + timedelta(seconds=seconds)
        return
    row.failures += 1
    row.error = finding.trouble
    wait = wait_before_next(row.failures, random.random())  # noqa: S311  # nothing to guess
    again = tx.now + timedelta(seconds=max(wait, min(finding.retry_after or 0.0, MOST_PATIENCE)))
    if row.failures < MOST_TRIES:
        row.due_at = again
    else:
        row.failures, row.due_at = 0, None
        row.good_until = tx.now + timedelta(seconds=GIVEN_UP_SECONDS)
    if finding.is_everybodys:
        _put_off(tx, again)


def wait_before_next(failures: int, luck: float) -> float:
    """Return the seconds until the next try after so many failures, between half of it and all of it by `luck`.

    It triples from a minute to six hours, as the waits of webhooks do: see `deliveries.wait_before_next`.
    """
    return min(FIRST_WAIT * 3.0 ** (failures - 1), LONGEST_WAIT) * (0.5 + luck / 2)


def _put_off(tx: Transaction, until: datetime) -> None:
    """Ask nothing else before this moment either."""
    tx.session.flush()
    tx.session.execute(
        update(Enrichment)
        .where(Enrichment.due_at < until)
        .values(due_at=until)
        .execution_options(synchronize_session=False)
    )
