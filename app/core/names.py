"""Names: what prompts may call the models that go along with a checkpoint.

A catalogue may have thousands of LoRAs, and every prompt may name any of them: reading all of them for each order would
cost more than the order. So each process keeps the names it has read for as long as the catalogue looks the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.tables import Model

KEPT = timedelta(seconds=10)
"""However the catalogue looks: where two servers' clocks differ, a change may be older than what it changes."""


@dataclass(frozen=True, slots=True)
class Named:
    """A model that prompts may name."""

    id: str
    base: str | None
    names: frozenset[str]
    """In lower case: its id, its file's name with and without the ending, and what its options call it beside."""


@dataclass(frozen=True, slots=True)
class _Page:
    """All models of a kind, as they were read."""

    looked: tuple[int, datetime | None]
    """How many there were, and when the last one of them was written."""
    read_at: datetime
    models: Sequence[Named]


@dataclass(slots=True)
class NameBook:
    """What one process knows of names. Every thread of it may ask."""

    _pages: dict[str, _Page] = field(default_factory=dict)

    def of(self, session: Session, kind: str, now: datetime) -> Sequence[Named]:
        """Return the models of a kind with their names, by id."""
        looks = select(func.count(), func.max(Model.updated_at)).where(Model.kind == kind)
        count, written_at = session.execute(looks).one()
        page = self._pages.get(kind)
        if page is None or page.looked != (count, written_at) or not timedelta(0) <= now - page.read_at < KEPT:
            page = self._pages[kind] = _Page((count, written_at), now, _read(session, kind) if count else ())
        return page.models


def _read(session: Session, kind: str) -> Sequence[Named]:
    query = select(Model.id, Model.name, Model.save_path, Model.base, Model.options).where(Model.kind == kind)
    return [
        Named(model_id, base, names_of(model_id, name, save_path, options))
        for model_id, name, save_path, base, options in session.execute(query.order_by(Model.id))
    ]


def names_of(model_id: str, name: str, save_path: str, options: Mapping[str, object]) -> frozenset[str]:
    """Return what prompts may call a model, in lower case; `options.alias` is a name or a list of them."""
    alias = options.get("alias") or []
    given = [alias] if isinstance(alias, str) else [each for each in alias if isinstance(each, str)]  # type: ignore[attr-defined]  # JSON
    files = [path.rstrip("/").rpartition("/")[2] for path in (name, save_path)]
    stems = [each.rpartition(".")[0] or each for each in files]
    return frozenset(each.lower() for each in (model_id, *files, *stems, *given) if each)
