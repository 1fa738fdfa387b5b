"""Races on real databases: many threads want the same job, and exactly one gets its way."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from app.core import attempts, check_in, images, jobs, machines
from app.core.attempts import Outcome
from app.core.errors import Conflict, FleetError, StaleAttempt
from app.core.fleet import Fleet
from app.core.jobs import Terms
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
    let_pass,
    the_job,
)
from tests.support.fakes import Clock

RIVALS = 6

LONGEST_HEAD_START = 10.0
"""Seconds after which the other one has certainly ended, also where the computer is busy."""


@pytest.fixture
def tries(engine: Engine) -> int:
    """Return how often a race is run: SQLite has one writer at a time and syncs each commit to the disk."""
    return 100 if engine.dialect.name == "postgresql" else 20


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    """Return threads that race."""
    with ThreadPoolExecutor(RIVALS) as pool:
        yield pool


def race(crowd: ThreadPoolExecutor, *rivals: Callable[[], Any], waits: Sequence[float] = ()) -> list[Any]:
    """Let all begin at one moment, or so many seconds later; returns what each got, errors of the domain included."""
    barrier = threading.Barrier(len(rivals))

    def begin(rival: Callable[[], Any], seconds: float) -> Any:
        barrier.wait()
        time.sleep(seconds)
        try:
            return rival()
        except FleetError as exc:
            return exc

    return list(crowd.map(begin, rivals, waits or [0.0] * len(rivals)))


def head_starts(tries: int, outcomes: set[Any]) -> Iterator[tuple[float, float]]:
    """Say for each try how long either of two rivals waits before it begins.

    When both begin at once it is up to the computer who comes first, and it may be the same one every time. So each is
    ahead in turn, by a little; and while only one outcome was seen, by more and more.
    """
    for number in range(tries):
        ahead = number // 2 % 10 / 1000
        yield (0.0, ahead) if number % 2 else (ahead, 0.0)
    ahead = 0.02
    while len(outcomes) < 2 and ahead < LONGEST_HEAD_START:
        yield from ((0.0, ahead), (ahead, 0.0))
        ahead *= 2


def end(fleet: Fleet, job: Job, state: AttemptState = AttemptState.COMPLETED) -> str:
    with fleet.transaction() as tx:
        return attempts.finish(tx, job.id, 1, MACHINE, Outcome(state, permanent=True)).state


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
    names = [a_machine(fleet, f"gpu-{number}") for number in range(RIVALS)]

    for _ in range(tries):
        job = a_job(fleet)
        won = [a for a in race(crowd, *(partial(claim, fleet, job.id, name) for name in names)) if a is not None]

        assert [attempt.number for attempt in won] == [1]
        assert the_job(fleet, job.id).machine_id == won[0].machine_id


def test_of_a_cancel_and_an_ending_exactly_one_wins(fleet: Fleet, crowd: ThreadPoolExecutor, tries: int) -> None:
    a_machine(fleet)
    winners = set[str]()

    for waits in head_starts(tries, winners):
        job = a_claimed_job(fleet)
        results = race(crowd, partial(cancel, fleet, job), partial(end, fleet, job), waits=waits)

        (won,) = [result for result in results if not isinstance(result, Exception)]
        (lost,) = [result for result in results if isinstance(result, Exception)]
        assert isinstance(lost, Conflict)
        kept = the_job(fleet, job.id)
        assert kept.state == won
        assert [attempt.state.value for attempt in kept.attempts] == [kept.state.value]
        winners.add(won)

    assert winners == {JobState.CANCELLED, JobState.COMPLETED}


def test_of_a_cancel_and_a_claim_both_may_win_but_only_in_that_order(
    fleet: Fleet, crowd: ThreadPoolExecutor, tries: int
) -> None:
    a_machine(fleet)
    outcomes = set[bool]()

    for waits in head_starts(tries, outcomes):
        job = a_job(fleet)
        cancelled, claimed = race(crowd, partial(cancel, fleet, job), partial(claim, fleet, job.id), waits=waits)

        kept = the_job(fleet, job.id)
        # A cancel never fails here: it meets the job while it waits, or while it runs.
        assert (cancelled, kept.state) == (JobState.CANCELLED, JobState.CANCELLED)
        assert [attempt.state for attempt in kept.attempts] == ([AttemptState.CANCELLED] if claimed else [])
        outcomes.add(claimed is None)

    assert outcomes == {True, False}


def test_of_an_ending_and_a_loss_exactly_one_counts(
    fleet: Fleet, crowd: ThreadPoolExecutor, clock: Clock, tries: int
) -> None:
    def sweep() -> int:
        with fleet.transaction() as tx:
            return attempts.lose_of_silent_machines(tx)

    winners = set[str]()
    let_pass(fleet, clock, 13)
    for waits in head_starts(tries, winners):
        a_machine(fleet)
        job = a_claimed_job(fleet)
        let_pass(fleet, clock, 13)
        lost, ended = race(crowd, sweep, partial(end, fleet, job), waits=waits)

        kept = the_job(fleet, job.id)
        won = AttemptState.LOST if isinstance(ended, StaleAttempt) else AttemptState.COMPLETED
        assert lost == 1 or won == AttemptState.COMPLETED
        assert [attempt.state for attempt in kept.attempts] == [won]
        assert kept.state == (JobState.QUEUED if won == AttemptState.LOST else JobState.COMPLETED)
        winners.add(won)
        if kept.state == JobState.QUEUED:
            cancel(fleet, job)

    assert winners == {AttemptState.LOST, AttemptState.COMPLETED}


def test_claims_for_many_owners_give_every_job_to_one_machine(
    fleet: Fleet, crowd: ThreadPoolExecutor, tries: int
) -> None:
    names = [a_machine(fleet, f"gpu-{number}") for number in range(RIVALS)]

    for _ in range(tries // 4):
        waiting = {a_job(fleet, terms=Terms(owner=f"owner-{number % 3}")).id for number in range(RIVALS)}
        bell = next(iter(waiting))
        won = race(crowd, *(partial(claim, fleet, bell, name) for name in names))

        assert {attempt.job_id for attempt in won} == waiting
        assert {attempt.machine_id for attempt in won} == set(names)


def test_the_same_claim_from_many_threads_is_one_attempt(fleet: Fleet, crowd: ThreadPoolExecutor, tries: int) -> None:
    a_machine(fleet)

    for _ in range(tries // 8):
        waiting = [a_job(fleet) for _ in range(2)]
        same = partial(claim, fleet, waiting[0].id, claim_id=uuid4())
        given = {(attempt.job_id, attempt.number) for attempt in race(crowd, *[same] * RIVALS)}

        assert len(given) == 1
        for job in waiting:
            cancel(fleet, job)


def test_jobs_that_make_a_machine_sick_at_once_are_both_seen(
    fleet: Fleet, crowd: ThreadPoolExecutor, clock: Clock, tries: int
) -> None:
    def complete(job: Job, machine_id: str) -> None:
        with fleet.transaction() as tx:
            attempts.finish(tx, job.id, 2, machine_id, Outcome(AttemptState.COMPLETED))

    for number in range(tries // 8):
        clock.advance(1)
        a_machine(fleet, boot_id=f"start-{number}")
        failed = [a_job(fleet), a_job(fleet)]
        others = [a_machine(fleet, name) for name in ("gpu-2", "gpu-3")]
        for job in failed:
            assert claim(fleet, job.id, boot_id=f"start-{number}") is not None
        for job in failed:
            with fleet.transaction() as tx:
                attempts.finish(tx, job.id, 1, MACHINE, Outcome(AttemptState.ERROR, "bad", "bad"))
        for other in others:
            given = claim(fleet, failed[0].id, other)
            assert given is not None
            images.receive(fleet, an_upload(the_job(fleet, given.job_id), attempt=2, machine_id=other))
        drawing = {str(the_job(fleet, job.id).machine_id): job for job in failed}
        race(crowd, *(partial(complete, drawing[other], other) for other in others))

        with fleet.reading() as session:
            assert machines.get(session, MACHINE).sick is not None


def test_of_many_endings_exactly_one_counts(fleet: Fleet, crowd: ThreadPoolExecutor, tries: int) -> None:
    a_machine(fleet)

    for _ in range(tries // 8):
        job = a_claimed_job(fleet)
        states = [AttemptState.COMPLETED, AttemptState.ERROR, AttemptState.LOST] * (RIVALS // 3)
        results = race(crowd, *(partial(end, fleet, job, state) for state in states))

        (won,) = [result for result in results if not isinstance(result, Exception)]
        assert the_job(fleet, job.id).state == won
        if won == JobState.QUEUED:
            cancel(fleet, job)


def test_of_many_cancels_exactly_one_wins(fleet: Fleet, crowd: ThreadPoolExecutor, tries: int) -> None:
    for _ in range(tries // 8):
        job = a_job(fleet)
        results = race(crowd, *[partial(cancel, fleet, job)] * RIVALS)

        assert sum(not isinstance(result, Exception) for result in results) == 1


def test_a_restart_of_the_machine_and_an_ending_leave_one_truth(
    fleet: Fleet, crowd: ThreadPoolExecutor, tries: int
) -> None:
    a_machine(fleet)
    outcomes = set[str]()

    for number, waits in enumerate(head_starts(tries // 4, outcomes)):
        job = a_job(fleet)
        before, after = f"start-{number}", f"start-{number + 1}"
        restart(fleet, before)
        assert claim(fleet, job.id, boot_id=before) is not None
        images.receive(fleet, an_upload(job))
        _, ended = race(crowd, partial(restart, fleet, after), partial(end, fleet, job), waits=waits)

        kept = the_job(fleet, job.id)
        assert kept.state == (JobState.QUEUED if isinstance(ended, Exception) else JobState.COMPLETED)
        assert kept.attempts[0].state == (AttemptState.LOST if isinstance(ended, Exception) else AttemptState.COMPLETED)
        outcomes.add(kept.state)
        if kept.state == JobState.QUEUED:
            cancel(fleet, job)

    assert outcomes == {JobState.QUEUED, JobState.COMPLETED}


def test_two_sweepers_lose_an_attempt_once(fleet: Fleet, crowd: ThreadPoolExecutor, clock: Clock, tries: int) -> None:
    def sweep() -> int:
        with fleet.transaction() as tx:
            return attempts.lose_of_silent_machines(tx)

    for _ in range(tries // 8):
        job = a_running_job(fleet)
        let_pass(fleet, clock, 20)
        race(crowd, sweep, sweep)

        kept = the_job(fleet, job.id)
        assert (kept.state, kept.attempt, len(kept.attempts)) == (JobState.QUEUED, 1, 1)
        cancel(fleet, job)  # or the next round's machine would be given it


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
        (attempt,) = attempts.running_on(tx.session, MACHINE)
        end(fleet, job)
        attempts.lose(tx, attempt, "the machine was started anew")

    kept = the_job(fleet, job.id)
    assert kept.state == JobState.COMPLETED
    assert [a.state for a in kept.attempts] == [AttemptState.COMPLETED]
