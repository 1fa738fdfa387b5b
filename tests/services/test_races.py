"""Races on real databases: many threads want the same job, and exactly one gets its way."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine

from app.core import check_in, images, jobs
from app.core.errors import Conflict, FleetError
from app.core.fleet import Fleet
from app.core.jobs import Outcome
from app.core.lifecycle import AttemptState, JobState
from app.core.tables import Job
from tests.builders import (
    MACHINE,
    a_job,
    a_machine,
    a_model,
    a_report,
    a_running_job,
    an_upload,
    claim,
    the_job,
)
from tests.support.fakes import Clock

RIVALS = 6


@pytest.fixture
def tries(engine: Engine) -> int:
    """Return how often a race is run: SQLite has one writer at a time and syncs each commit to the disk."""
    return 200 if engine.dialect.name == "postgresql" else 20


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    """Return threads that race."""
    with ThreadPoolExecutor(RIVALS) as pool:
        yield pool


def race(crowd: ThreadPoolExecutor, *rivals: Callable[[], Any]) -> list[Any]:
    """Let all begin at the same moment; returns what each got, errors of the domain included."""
    barrier = threading.Barrier(len(rivals))

    def begin(rival: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return rival()
        except FleetError as exc:
            return exc

    return list(crowd.map(begin, rivals))


def end(fleet: Fleet, job: Job, state: AttemptState = AttemptState.COMPLETED) -> str:
    with fleet.transaction() as tx:
        return jobs.finish(tx, job.id, 1, MACHINE, Outcome(state, permanent=True)).state


def cancel(fleet: Fleet, job: Job) -> str:
    with fleet.transaction() as tx:
        return jobs.cancel(tx, job.id, fleet).state


def a_claimed_job(fleet: Fleet) -> Job:
    job = a_job(fleet)
    assert claim(fleet, job.id) is not None
    images.receive(fleet, an_upload(job))
    return job


def restart(fleet: Fleet, boot_id: str) -> None:
    with fleet.transaction() as tx:
        check_in.check_in(tx, a_report(boot_id=boot_id))


def test_of_many_claims_exactly_one_wins(fleet: Fleet, crowd: ThreadPoolExecutor, tries: int) -> None:
    a_model(fleet)
    machines = [a_machine(fleet, f"gpu-{number}") for number in range(RIVALS)]

    for _ in range(tries):
        job = a_job(fleet)
        won = [
            a for a in race(crowd, *(partial(claim, fleet, job.id, machine) for machine in machines)) if a is not None
        ]

        assert [attempt.number for attempt in won] == [1]
        assert the_job(fleet, job.id).machine_id == won[0].machine_id


def test_of_a_cancel_and_an_ending_exactly_one_wins(fleet: Fleet, crowd: ThreadPoolExecutor, tries: int) -> None:
    a_machine(fleet)
    winners = set()

    for _ in range(tries):
        job = a_claimed_job(fleet)
        results = race(crowd, partial(cancel, fleet, job), partial(end, fleet, job))

        (won,) = [result for result in results if not isinstance(result, Exception)]
        (lost,) = [result for result in results if isinstance(result, Exception)]
        assert isinstance(lost, Conflict)
        kept = the_job(fleet, job.id)
        assert kept.state == won
        assert [attempt.state.value for attempt in kept.attempts] == [kept.state.value]
        winners.add(won)

    assert winners == {JobState.CANCELLED, JobState.COMPLETED} or tries < 200


def test_of_many_endings_exactly_one_counts(fleet: Fleet, crowd: ThreadPoolExecutor, tries: int) -> None:
    a_machine(fleet)

    for _ in range(tries // 8):
        job = a_claimed_job(fleet)
        states = [AttemptState.COMPLETED, AttemptState.ERROR, AttemptState.LOST] * (RIVALS // 3)
        results = race(crowd, *(partial(end, fleet, job, state) for state in states))

        (won,) = [result for result in results if not isinstance(result, Exception)]
        assert the_job(fleet, job.id).state == won


def test_of_many_cancels_exactly_one_wins(fleet: Fleet, crowd: ThreadPoolExecutor, tries: int) -> None:
    for _ in range(tries // 8):
        job = a_job(fleet)
        results = race(crowd, *[partial(cancel, fleet, job)] * RIVALS)

        assert sum(not isinstance(result, Exception) for result in results) == 1


def test_a_restart_of_the_machine_and_an_ending_leave_one_truth(
    fleet: Fleet, crowd: ThreadPoolExecutor, tries: int
) -> None:
    a_machine(fleet)

    for number in range(tries // 4):
        job = a_job(fleet)
        before, after = f"boot-{number}", f"boot-{number + 1}"
        restart(fleet, before)
        assert claim(fleet, job.id, boot_id=before) is not None
        images.receive(fleet, an_upload(job))
        _, ended = race(crowd, partial(restart, fleet, after), partial(end, fleet, job))

        kept = the_job(fleet, job.id)
        assert kept.state == (JobState.QUEUED if isinstance(ended, Exception) else JobState.COMPLETED)
        assert kept.attempts[0].state == (AttemptState.LOST if isinstance(ended, Exception) else AttemptState.COMPLETED)


def test_two_sweepers_lose_an_attempt_once(fleet: Fleet, crowd: ThreadPoolExecutor, clock: Clock, tries: int) -> None:
    def sweep() -> int:
        with fleet.transaction() as tx:
            return jobs.lose_of_silent_machines(tx)

    for _ in range(tries // 8):
        job = a_running_job(fleet)
        clock.advance(60)
        race(crowd, sweep, sweep)

        kept = the_job(fleet, job.id)
        assert (kept.state, kept.attempt, len(kept.attempts)) == (JobState.QUEUED, 1, 1)


def test_the_same_picture_from_many_threads_is_kept_once(fleet: Fleet, crowd: ThreadPoolExecutor, tries: int) -> None:
    for _ in range(tries // 10):
        job = a_running_job(fleet)
        ids = race(crowd, *[partial(images.receive, fleet, an_upload(job))] * RIVALS)

        assert len(set(ids)) == 1
        assert [image.id for image in the_job(fleet, job.id).images] == ids[:1]


def test_many_first_check_ins_of_one_machine_are_one_machine(fleet: Fleet, crowd: ThreadPoolExecutor) -> None:
    results = race(crowd, *[lambda: a_machine(fleet, ready_for=["a"])] * RIVALS)

    assert results == [MACHINE] * RIVALS


# On SQLite a second writer waits until the first one has ended: there this cannot happen.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_check_in_sees_what_happened_after_it_began(fleet: Fleet) -> None:
    job = a_running_job(fleet)
    images.receive(fleet, an_upload(job))

    with fleet.transaction() as tx:
        (attempt,) = jobs.attempts_of(tx.session, MACHINE)
        end(fleet, job)
        jobs.lose(tx, attempt, "the machine was started anew")

    kept = the_job(fleet, job.id)
    assert kept.state == JobState.COMPLETED
    assert [a.state for a in kept.attempts] == [AttemptState.COMPLETED]
