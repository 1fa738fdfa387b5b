"""What a check-in writes: of thousands of models that a machine tells of every few seconds, only what changed."""

from collections.abc import Iterator

import pytest
from sqlalchemy import event

from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState
from app.core.machines import HoldingReport
from app.core.tables import Holding
from tests.builders import MACHINE, a_machine
from tests.support.fakes import Clock

MANY = 200


@pytest.fixture
def written(fleet: Fleet) -> Iterator[list[str]]:
    """Return the statements that write, as they are sent; one that is sent for many rows counts once for each."""
    found: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, parameters: object, _ctx: object, many: bool) -> None:
        if not statement.lstrip().upper().startswith("SELECT"):
            found.extend([statement] * (len(parameters) if many and isinstance(parameters, list) else 1))

    event.listen(fleet.engine, "before_cursor_execute", note)
    yield found
    event.remove(fleet.engine, "before_cursor_execute", note)


def of_holdings(written: list[str]) -> list[str]:
    return [statement for statement in written if " holdings " in statement]


def holdings(**changed: HoldingState) -> list[HoldingReport]:
    names = [f"lora-{number}" for number in range(MANY)]
    return [HoldingReport(model_id=name, state=changed.get(name, HoldingState.READY)) for name in names]


def test_what_is_told_again_is_not_written_again(fleet: Fleet, clock: Clock, written: list[str]) -> None:
    a_machine(fleet, holdings=holdings())
    first = len(of_holdings(written))
    for _ in range(3):
        clock.advance(3)
        written.clear()
        a_machine(fleet, holdings=holdings())

    assert first > 0
    assert of_holdings(written) == []
    assert any("UPDATE machines" in statement for statement in written)  # that it lives is written


def test_what_changed_is_written_with_its_moment_and_nothing_else(
    fleet: Fleet, clock: Clock, written: list[str]
) -> None:
    a_machine(fleet, holdings=holdings())
    clock.advance(3)
    written.clear()

    a_machine(fleet, holdings=holdings(**{"lora-7": HoldingState.ERROR}))

    assert len(of_holdings(written)) == 1
    with fleet.reading() as session:
        changed, other = (session.get_one(Holding, (MACHINE, name)) for name in ("lora-7", "lora-8"))
    assert (changed.state, changed.updated_at) == (HoldingState.ERROR, clock.now)
    assert other.updated_at < clock.now


def test_a_download_that_stands_still_is_noted_as_told(fleet: Fleet, clock: Clock) -> None:
    report = HoldingReport(model_id="big", state=HoldingState.DOWNLOADING, bytes_done=5, bytes_total=10)
    a_machine(fleet, holdings=[report])
    clock.advance(3)

    a_machine(fleet, holdings=[report])

    with fleet.reading() as session:
        assert session.get_one(Holding, (MACHINE, "big")).updated_at == clock.now
