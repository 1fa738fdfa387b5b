"""What a waiting job says of its place in the queue is what machines do."""

import random
from uuid import UUID

import pytest

from app.core import jobs, turns
from app.core.dispatch import model_queue
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.lifecycle import JobState
from app.core.spec import GenerationSpec
from app.core.tables import Job
from tests.builders import MACHINE, MODEL, a_job, a_machine, a_model, claim
from tests.support.fakes import Clock
from tests.support.web import Client


def ahead_of(fleet: Fleet, job_id: UUID) -> int:
    with fleet.reading() as session:
        return jobs.ahead_of(session, session.get_one(Job, job_id))


@pytest.mark.parametrize("seed", range(8))
def test_the_position_says_exactly_when_a_job_begins_if_nothing_comes_between(
    fleet: Fleet, clock: Clock, seed: int
) -> None:
    chance = random.Random(seed)
    a_model(fleet)
    a_model(fleet, "other")
    a_machine(fleet, ready_for=[MODEL])
    owners = ["", "alice", "bob", "carol"]
    waiting = []
    for _ in range(chance.randrange(1, 25)):
        terms = Terms(owner=chance.choice(owners), priority=chance.choice([0, 0, 0, 5, 9]))
        waiting.append(a_job(fleet, terms=terms).id)
        a_job(fleet, model_id="other", terms=terms)
        clock.advance(chance.choice([0, 1]))
        if chance.random() < 0.3 and (begun := claim(fleet, waiting[0])):  # some owners have been served before
            waiting.remove(begun.job_id)
            clock.advance(1)

    promised = {job_id: ahead_of(fleet, job_id) for job_id in waiting}
    begun_at = {}
    for number in range(len(waiting)):
        with fleet.transaction() as tx:
            found = turns.take_next(tx, turns.Line(model_queue(MODEL), MODEL), MACHINE)
            assert found is not None
            jobs.locked(tx.session, found).state = JobState.PROCESSING
            begun_at[found] = number
        clock.advance(1)

    assert promised == begun_at


def test_a_job_shows_its_position_while_it_waits(client: Client, fleet: Fleet, clock: Clock) -> None:
    first = a_job(fleet)
    clock.advance(1)
    second = a_job(fleet)
    a_machine(fleet, ready_for=[MODEL])

    def positions() -> list[int | None]:
        return [client.get(f"/v1/jobs/{job.id}").json["queue_position"] for job in (first, second)]

    before = positions()
    claim(fleet, first.id)

    assert before == [1, 2]
    assert positions() == [None, 1]


def test_hundreds_of_jobs_of_another_owner_do_not_stand_before_a_single_one(fleet: Fleet, clock: Clock) -> None:
    a_model(fleet)
    with fleet.transaction() as tx:
        for _ in range(300):
            jobs.submit(tx, GenerationSpec(model_id=MODEL, prompt="a red circle"), Terms(owner="busy"))
    clock.advance(1)

    single = a_job(fleet, terms=Terms(owner="single", priority=0))

    assert ahead_of(fleet, single.id) <= 1
