"""What is kept for a caller, on every kind of database."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID

import pytest

from app.core import callers, jobs
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.lifecycle import JobState
from app.core.spec import GenerationSpec
from tests.builders import a_machine, a_model, a_running_job, claim, the_job
from tests.support.fakes import Clock

CALLER, DIALECT = "somebody", "a1111"


@pytest.fixture(autouse=True)
def model(fleet: Fleet) -> None:
    """Put a model into the catalogue that a machine is ready for."""
    a_model(fleet, "shapes")
    a_machine(fleet, ready_for=["shapes"])


def order(fleet: Fleet, caller: str = CALLER, dialect: str = DIALECT, priority: int = 0) -> UUID:
    with fleet.transaction() as tx:
        spec = GenerationSpec(model_id="shapes", prompt="x")
        return jobs.submit(tx, spec, Terms(dialect=dialect, caller=caller, priority=priority)).id


def waiting(fleet: Fleet, caller: str = CALLER) -> list[UUID]:
    with fleet.reading() as session:
        return [job.id for job in callers.unended(session, caller, DIALECT)]


def interrupt(fleet: Fleet) -> list[UUID]:
    with fleet.transaction() as tx:
        return [job.id for job in callers.interrupt(tx, CALLER, DIALECT, fleet)]


def options(fleet: Fleet, caller: str = CALLER) -> dict[str, object]:
    with fleet.reading() as session:
        return dict(callers.options_of(session, caller))


def remember(fleet: Fleet, caller: str = CALLER, **given: object) -> None:
    with fleet.transaction() as tx:
        callers.remember(tx, caller, given)


def test_what_is_set_later_lies_over_what_was_set_before(fleet: Fleet, clock: Clock) -> None:
    remember(fleet, model="one", format="png")
    clock.advance(5)
    remember(fleet, model="two")
    remember(fleet, "somebody else", model="three")

    assert options(fleet) == {"model": "two", "format": "png"}
    assert options(fleet, "nobody") == {}


def test_two_first_requests_of_one_caller_lose_nothing(fleet: Fleet) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: remember(fleet, **{f"option-{number}": number}), range(8)))

    assert options(fleet) == {f"option-{number}": number for number in range(8)}


def test_jobs_of_one_moment_stand_in_the_order_in_which_they_are_drawn(fleet: Fleet) -> None:
    ordered = sorted(order(fleet) for _ in range(6))

    assert waiting(fleet) == ordered
    assert interrupt(fleet) == ordered[:1]


def test_a_caller_waits_for_its_own_jobs_what_is_drawn_first(fleet: Fleet, clock: Clock) -> None:
    first = order(fleet)
    clock.advance(1)
    second, third = order(fleet, priority=9), order(fleet, dialect="v1")
    order(fleet, caller="somebody else")
    claim(fleet, second)

    assert waiting(fleet) == [second, first]
    assert third not in waiting(fleet)
    assert waiting(fleet, "nobody") == []


def test_interrupting_ends_what_is_drawn_and_then_the_oldest(fleet: Fleet, clock: Clock) -> None:
    first = order(fleet)
    clock.advance(1)
    second = order(fleet, priority=9)
    clock.advance(1)
    third = order(fleet)
    claim(fleet, second)

    ended = [interrupt(fleet) for _ in range(4)]

    assert ended == [[second], [first], [third], []]
    assert the_job(fleet, second).state == JobState.CANCELLED


def test_interrupting_one_of_several_that_were_ordered_together_ends_them_all(fleet: Fleet, clock: Clock) -> None:
    with fleet.transaction() as tx:
        specs = [GenerationSpec(model_id="shapes", prompt="x")] * 3
        together = [job.id for job in jobs.submit_list(tx, specs, Terms(dialect=DIALECT, caller=CALLER))]
    claim(fleet, together[0])
    clock.advance(1)
    beside = order(fleet)

    ended = interrupt(fleet)

    assert set(ended) == set(together)
    assert the_job(fleet, beside).state == JobState.QUEUED


def test_interrupting_asks_the_machine_to_stop(fleet: Fleet) -> None:
    job = order(fleet)
    claim(fleet, job)
    beside = a_running_job(fleet, model_id="shapes")

    interrupt(fleet)

    assert the_job(fleet, beside.id).state == JobState.PROCESSING
    assert the_job(fleet, job).ended_at == fleet.clock() > datetime(2026, 1, 1, tzinfo=UTC)
