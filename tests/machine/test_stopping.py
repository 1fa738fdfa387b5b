"""A worker that is told to stop finishes what it draws, or gives it back."""

import pytest

from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from tasks.machine.drivers.contract import Step
from tasks.machine.work import Worker
from tests.builders import a_job, the_job
from tests.support.drivers import ScriptedDriver
from tests.support.processes import wait_until


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def test_a_worker_that_stops_hands_back_what_does_not_end_in_time(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job, next_job = a_job(fleet, n=5), a_job(fleet)
    drawing_worker.grace = -1.0
    scripted.meanwhile = lambda _: drawing_worker.stop()

    drawing_worker.run(job.id)
    drawing_worker.run(next_job.id)

    kept = [the_job(fleet, job_id) for job_id in (job.id, next_job.id)]
    assert {each.state for each in kept} == {JobState.QUEUED}
    assert [attempt.error_code for each in kept for attempt in each.attempts] == ["handed_back"]


def test_a_worker_that_stops_brings_a_short_job_to_its_end(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job = a_job(fleet)
    scripted.meanwhile = lambda _: drawing_worker.stop()

    drawing_worker.run(job.id)

    assert the_job(fleet, job.id).state == JobState.COMPLETED


def test_a_worker_told_twice_to_stop_hands_back_at_once(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job = a_job(fleet, n=5)
    drawing_worker.grace = 3600

    def stop_twice(_: Step) -> None:
        drawing_worker.stop()
        drawing_worker.stop()

    scripted.meanwhile = stop_twice

    drawing_worker.run(job.id)

    assert the_job(fleet, job.id).attempts[0].error_code == "handed_back"


def test_a_job_that_comes_to_no_step_is_handed_back_over_its_head(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job = a_job(fleet)
    drawing_worker.grace = 0
    seen = list[str | None]()

    def load_for_long(_: Step) -> None:
        drawing_worker.stop()
        wait_until(lambda: the_job(fleet, job.id).state == JobState.QUEUED, "the job went back")
        seen.append(the_job(fleet, job.id).attempts[0].error_code)

    scripted.meanwhile = load_for_long

    drawing_worker.run(job.id)

    assert seen == ["handed_back"]
    assert [a.state for a in the_job(fleet, job.id).attempts] == [AttemptState.LOST]
