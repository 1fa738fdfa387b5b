"""What prompts may call models: read once for as long as the catalogue looks the same, and never out of date."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event

from app.core.fleet import Fleet
from app.core.names import KEPT
from app.core.tables import Model
from tests.builders import a_job, a_model
from tests.support.fakes import Clock

PROMPT = "a cat, bad-hands"


@pytest.fixture
def reads(fleet: Fleet) -> Iterator[list[str]]:
    """Return the statements that read names, as they are sent."""
    found: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_more: object) -> None:
        if statement.startswith("SELECT models.id, models.name, models.save_path,"):
            found.append(statement)

    event.listen(fleet.engine, "before_cursor_execute", note)
    yield found
    event.remove(fleet.engine, "before_cursor_execute", note)


def named_by(fleet: Fleet, prompt: str = PROMPT) -> Any:
    return a_job(fleet, prompt=prompt).spec.get("embeddings", [])


def test_many_orders_read_the_names_once(fleet: Fleet, reads: list[str]) -> None:
    a_model(fleet)
    a_model(fleet, "bad-hands", kind="embedding")
    a_model(fleet, "ink", kind="lora")

    found = [named_by(fleet, f"{PROMPT}, <lora:ink>") for _ in range(3)]

    assert found == [["bad-hands"]] * 3
    assert len(reads) == 2, "one for each kind"


def test_nothing_is_read_where_there_is_nothing(fleet: Fleet, reads: list[str]) -> None:
    assert named_by(fleet) == []
    assert reads == []


def test_what_is_added_changed_or_deleted_counts_with_the_next_order(fleet: Fleet, clock: Clock) -> None:
    a_model(fleet)
    before = named_by(fleet)
    a_model(fleet, "bad-hands", kind="embedding")
    added = named_by(fleet)
    clock.advance(0.001)
    a_model(fleet, "bad-hands", kind="embedding", options={"alias": "worse-hands"})
    called_otherwise = named_by(fleet, "a cat, worse-hands")
    with fleet.transaction() as tx:
        tx.session.delete(tx.session.get_one(Model, "bad-hands"))

    assert (before, added, called_otherwise) == ([], ["bad-hands"], ["bad-hands"])
    assert named_by(fleet) == []


def test_a_change_that_looks_older_than_it_is_counts_after_some_seconds(fleet: Fleet, clock: Clock) -> None:
    a_model(fleet)
    a_model(fleet, "bad-hands", kind="embedding")
    named_by(fleet)
    with fleet.transaction() as tx:  # by a server whose clock is behind
        tx.session.get_one(Model, "bad-hands").options = {"alias": "worse-hands"}

    clock.advance(KEPT.total_seconds())

    assert named_by(fleet, "a cat, worse-hands") == ["bad-hands"]
