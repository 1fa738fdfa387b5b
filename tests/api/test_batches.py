"""Jobs that wait for the same are given to a machine in one claim, as far as it asked for them."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.core import alike, attempts, batches, images, jobs, replay
from app.core.errors import StaleAttempt
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.lifecycle import AttemptState, JobState
from app.core.live import Progress
from app.core.spec import GenerationSpec
from app.core.tables import Attempt, Job
from tests.builders import (
    BOOT,
    MACHINE,
    MODEL,
    a_job,
    a_machine,
    a_model,
    a_running_job,
    an_upload,
    claim,
    finish,
    let_pass,
    the_job,
)
from tests.support.fakes import Clock
from tests.support.web import Client


@pytest.fixture(autouse=True)
def machine(fleet: Fleet) -> str:
    """Have a machine that is ready."""
    a_model(fleet)
    return a_machine(fleet, ready_for=[MODEL])


Orders = Callable[..., Job]


@pytest.fixture
def order(fleet: Fleet, clock: Clock) -> Orders:
    """Return what orders one job behind the other."""

    def ordered(**more: Any) -> Job:
        clock.advance(0.001)
        return a_job(fleet, **more)

    return ordered


def of(owner: str, **more: Any) -> Terms:
    return Terms(owner=owner, **more)


def taken(
    fleet: Fleet, job: Job, most: int = 4, claim_id: UUID | None = None, kinds: Mapping[str, int] | None = None
) -> list[Attempt]:
    """Follow the bell of a job as a machine does that draws so many pictures in one pass; returns what it was given."""
    wide = {alike.kind_of(GenerationSpec.from_json(job.spec)): most} if kinds is None else kinds
    with fleet.transaction() as tx:
        first = attempts.claim(tx, job.id, MACHINE, BOOT, claim_id)
        given = [first, *batches.take_along(tx, first, wide)]
        tx.session.flush()
        for attempt in given:
            tx.session.refresh(attempt)
        tx.session.expunge_all()
        return given


def ids(given: list[Attempt]) -> list[UUID]:
    return [attempt.job_id for attempt in given]


def test_jobs_that_are_alike_are_given_in_one_claim_each_as_an_attempt_of_its_own(fleet: Fleet, order: Orders) -> None:
    waiting = [order(prompt=f"a cat, {number}", steps=4) for number in range(6)]

    given = taken(fleet, waiting[5])

    assert ids(given) == [job.id for job in waiting[:4]]
    assert {(attempt.number, attempt.machine_id, attempt.together) for attempt in given} == {(1, MACHINE, 4)}
    states = [the_job(fleet, job.id).state for job in waiting]
    assert states == [JobState.PROCESSING] * 4 + [JobState.QUEUED] * 2


def test_each_job_of_a_batch_ends_on_its_own(client: Client, fleet: Fleet, order: Orders) -> None:
    done, failed, cancelled, lost = (order() for _ in range(4))
    assert len(taken(fleet, done)) == 4

    images.receive(fleet, an_upload(done))
    finish(fleet, done)
    finish(fleet, failed, AttemptState.ERROR, error_code="cannot_draw", error="no", permanent=True)
    client.post(f"/v1/jobs/{cancelled.id}/cancel")
    finish(fleet, lost, AttemptState.LOST, error_code="handed_back")

    states = [the_job(fleet, job.id).state for job in (done, failed, cancelled, lost)]
    assert states == [JobState.COMPLETED, JobState.ERROR, JobState.CANCELLED, JobState.QUEUED]
    with pytest.raises(StaleAttempt):
        finish(fleet, cancelled)


def test_no_more_pictures_than_the_machine_asked_for(fleet: Fleet, order: Orders) -> None:
    waiting = [order(n=n) for n in (2, 3, 1, 1)]

    given = taken(fleet, waiting[0], most=4)

    assert ids(given) == [waiting[0].id, waiting[2].id, waiting[3].id]


def test_a_machine_that_does_not_ask_is_given_one(client: Client, fleet: Fleet, order: Orders) -> None:
    first, second = order(), order()

    answer = client.post(f"/machines/v1/jobs/{first.id}/claim", json={"machine_id": MACHINE, "boot_id": BOOT})

    assert "also" not in answer.json
    assert the_job(fleet, second.id).state == JobState.QUEUED
    assert the_job(fleet, first.id).attempts[0].together == 1


def test_a_machine_that_asks_over_http_is_given_all_that_each_job_needs(
    client: Client, fleet: Fleet, order: Orders
) -> None:
    first, second = order(), order()
    wide = {alike.kind_of(GenerationSpec.from_json(first.spec)): 2}

    body = {"machine_id": MACHINE, "boot_id": BOOT, "together": wide}
    found = client.post(f"/machines/v1/jobs/{first.id}/claim", json=body).json

    (also,) = found.pop("also")
    assert also == found | {"job_id": str(second.id), "spec": second.spec}
    assert "imagefleet_batched_jobs_total 1.0" in client.get("/metrics").text


def test_what_is_not_alike_waits(fleet: Fleet, order: Orders) -> None:
    head, other, same = order(steps=4), order(steps=5), order(steps=4)

    assert ids(taken(fleet, head)) == [head.id, same.id]
    assert the_job(fleet, other.id).state == JobState.QUEUED


def test_a_kind_that_the_machine_did_not_name_is_drawn_alone(fleet: Fleet, order: Orders) -> None:
    head = order()
    order()

    assert ids(taken(fleet, head, kinds={"another": 4})) == [head.id]


def test_owners_take_turns_within_a_batch(fleet: Fleet, order: Orders) -> None:
    owner_of = {order(terms=of(owner)).id: owner for owner in "aaaaabbc"}

    given = taken(fleet, the_job(fleet, next(iter(owner_of))), most=4)

    assert "".join(owner_of[job_id] for job_id in ids(given)) == "abca"


def test_a_batch_is_a_turn_of_each_owner_who_is_in_it(fleet: Fleet, order: Orders) -> None:
    owner_of = {order(terms=of(owner)).id: owner for owner in "aaabbbc"}
    bell = the_job(fleet, next(iter(owner_of)))

    given = [taken(fleet, bell, most=2), taken(fleet, bell, most=1), taken(fleet, bell, most=2)]

    assert ["".join(owner_of[job_id] for job_id in ids(each)) for each in given] == ["ab", "c", "ab"]


def test_the_priority_decides_who_comes_along(fleet: Fleet, order: Orders) -> None:
    low, high, head = order(), order(priority=5), order(priority=9)

    assert ids(taken(fleet, low, most=2)) == [head.id, high.id]


def test_what_is_not_due_or_past_its_deadline_does_not_come_along(fleet: Fleet, clock: Clock, order: Orders) -> None:
    head, early, late = (order(priority=priority) for priority in (9, 8, 7))
    with fleet.transaction() as tx:
        tx.session.get_one(Job, early.id).next_attempt_at = clock.now + timedelta(seconds=30)
        tx.session.get_one(Job, late.id).deadline_at = clock.now

    assert ids(taken(fleet, head)) == [head.id]


def test_a_second_try_is_drawn_alone_and_comes_along_with_nobody(fleet: Fleet, order: Orders) -> None:
    tried, fresh, other = order(priority=9), order(), order(priority=5)
    assert claim(fleet, tried.id) is not None
    finish(fleet, tried, AttemptState.LOST, error_code="handed_back")

    assert ids(taken(fleet, fresh)) == [tried.id]
    finish(fleet, tried, AttemptState.LOST, error_code="handed_back", attempt=2)
    with fleet.transaction() as tx:
        tx.session.get_one(Job, tried.id).rank = 9
    assert ids(taken(fleet, fresh)) == [other.id, fresh.id]


def test_a_replay_is_drawn_alone(fleet: Fleet, order: Orders) -> None:
    origin = a_running_job(fleet, seed=1)
    images.receive(fleet, an_upload(origin))
    finish(fleet, origin)
    waiting = order(seed=1)
    with fleet.transaction() as tx:
        again = replay.order(tx, origin.id, Terms(priority=9)).id

    assert ids(taken(fleet, waiting)) == [again]
    assert ids(taken(fleet, waiting)) == [waiting.id]


def test_a_claim_that_is_asked_again_gives_the_same_batch(fleet: Fleet, order: Orders) -> None:
    waiting = [order() for _ in range(5)]
    name = uuid4()

    first, again = taken(fleet, waiting[0], 3, name), taken(fleet, waiting[0], 3, name)

    assert sorted(ids(first)) == sorted(ids(again)) == sorted(job.id for job in waiting[:3])
    assert the_job(fleet, waiting[3].id).state == JobState.QUEUED


def test_what_a_machine_takes_with_it_costs_the_others_of_its_batch_no_try(
    fleet: Fleet, clock: Clock, order: Orders
) -> None:
    job, other = order(), order()
    with fleet.transaction() as tx:
        tx.session.get_one(Job, job.id).max_attempts = 1
    assert len(taken(fleet, job)) == 2

    a_machine(fleet, boot_id="boot-2", ready_for=[MODEL])

    assert {the_job(fleet, each.id).state for each in (job, other)} == {JobState.QUEUED}
    again = claim(fleet, job.id, boot_id="boot-2")
    assert again is not None
    a_machine(fleet, boot_id="boot-3", ready_for=[MODEL])
    assert (again.number, the_job(fleet, job.id).state) == (2, JobState.ERROR)


def drawn_together(fleet: Fleet, clock: Clock, order: Orders, seconds: float, count: int = 4) -> list[Job]:
    waiting = [order(steps=10, width=512, height=512) for _ in range(count)]
    assert len(taken(fleet, waiting[0])) == count
    clock.advance(seconds)
    for job in waiting:
        images.receive(fleet, an_upload(job))
        finish(fleet, job, timings={"denoising": seconds - 1})
    return waiting


def test_a_batch_teaches_what_each_of_its_jobs_has_of_the_machine(
    client: Client, fleet: Fleet, clock: Clock, order: Orders
) -> None:
    alone = a_running_job(fleet, steps=10, width=512, height=512)
    clock.advance(5)
    images.receive(fleet, an_upload(alone))
    finish(fleet, alone, timings={"denoising": 4.0})
    for _ in range(3):
        drawn_together(fleet, clock, order, 8)
        a_machine(fleet, ready_for=[MODEL])

    waiting = [order(steps=10, width=512, height=512) for _ in range(5)]

    # Four are before it, a quarter of 8 s each; by itself it would take 5 s.
    eta = client.get(f"/v1/jobs/{waiting[-1].id}").json["eta"]
    assert eta["seconds"] == pytest.approx(4 * 2 + 5, rel=0.15)


def test_a_running_batch_counts_once_and_says_how_long_it_takes(
    client: Client, fleet: Fleet, clock: Clock, order: Orders
) -> None:
    drawn_together(fleet, clock, order, 8)
    a_machine(fleet, ready_for=[MODEL])
    running = [order(steps=10, width=512, height=512) for _ in range(4)]
    assert len(taken(fleet, running[0])) == 4
    clock.advance(2)
    a_machine(fleet, ready_for=[MODEL], attempts=frozenset((job.id, 1) for job in running))
    behind = order(steps=10, width=512, height=512)
    fleet.live.report(running[0].id, Progress(1, "denoising", step=5, steps=10))

    assert client.get(f"/v1/jobs/{behind.id}").json["eta"]["seconds"] == pytest.approx(6 + 2, rel=0.1)
    eta = client.get(f"/v1/jobs/{running[0].id}").json["eta"]
    assert (eta["seconds"], "4 jobs of its pass" in eta["basis"]) == (pytest.approx(2), True)


def test_explain_says_that_a_job_shares_its_pass(client: Client, fleet: Fleet, clock: Clock, order: Orders) -> None:
    running = [order() for _ in range(3)]
    behind = order()
    taken(fleet, running[0], most=3)
    let_pass(fleet, clock, 1)

    drawn = client.get(f"/v1/jobs/{running[1].id}/explain").json
    waits = client.get(f"/v1/jobs/{behind.id}/explain").json

    assert "in one pass with 2 more" in str(drawn)
    assert "and 2 more in the same pass" in str(waits)


def test_a_cancelled_job_of_a_batch_leaves_the_others(fleet: Fleet, order: Orders) -> None:
    one, other = order(), order()
    taken(fleet, one)

    with fleet.transaction() as tx:
        jobs.cancel(tx, one.id, fleet)

    assert fleet.live.is_unwanted(one.id)
    assert not fleet.live.is_unwanted(other.id)
    assert the_job(fleet, other.id).state == JobState.PROCESSING
