"""A claim that is asked twice, a job's second try, and jobs that no third machine should be bothered with."""

from typing import Any
from uuid import uuid4

import pytest

from app.core.dispatch import machine_queue
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.tables import Job
from tests.builders import BOOT, MACHINE, MODEL, a_job, a_machine, a_running_job, claim, finish, let_pass, the_job
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.web import Client

FAILED: dict[str, Any] = {"error_code": "no_luck", "error": "it did not work"}


@pytest.fixture
def pair(fleet: Fleet) -> tuple[str, str]:
    """Have two machines that are ready."""
    return a_machine(fleet, ready_for=[MODEL]), a_machine(fleet, "gpu-2", ready_for=[MODEL])


def ask_for(client: Client, job: Job, **more: Any) -> Any:
    body = {"machine_id": MACHINE, "boot_id": BOOT, **more}
    return client.post(f"/machines/v1/jobs/{job.id}/claim", json=body)


def a_failed_job(fleet: Fleet, *, state: AttemptState = AttemptState.ERROR) -> Job:
    """Let gpu-1 fail a job that may be tried again."""
    job = a_job(fleet)
    assert claim(fleet, job.id) is not None
    return finish(fleet, job, state, **FAILED)


def test_a_claim_whose_answer_was_lost_is_answered_again(client: Client, fleet: Fleet, pair: tuple[str, str]) -> None:
    first, second = a_job(fleet), a_job(fleet)
    claim_id = str(uuid4())

    lost, again = ask_for(client, first, claim_id=claim_id), ask_for(client, first, claim_id=claim_id)

    assert lost.status_code == 200
    assert again.json == lost.json
    states = {the_job(fleet, job.id).state for job in (first, second)}
    assert states == {JobState.PROCESSING, JobState.QUEUED}


def test_another_claim_gets_another_job(client: Client, fleet: Fleet, pair: tuple[str, str]) -> None:
    first, _ = a_job(fleet), a_job(fleet)

    given = {ask_for(client, first, claim_id=str(uuid4())).json["job_id"] for _ in range(2)}

    assert len(given) == 2


def test_a_claim_that_is_asked_again_may_be_missing_from_the_next_check_in(
    client: Client, fleet: Fleet, clock: Clock, pair: tuple[str, str]
) -> None:
    job, claim_id = a_job(fleet), str(uuid4())
    ask_for(client, job, claim_id=claim_id)
    clock.advance(4)

    ask_for(client, job, claim_id=claim_id)
    clock.advance(4)
    a_machine(fleet, ready_for=[MODEL])

    assert the_job(fleet, job.id).state == JobState.PROCESSING


def test_an_attempt_never_begins_before_the_last_one_ended(fleet: Fleet, clock: Clock) -> None:
    job = a_running_job(fleet)
    a_machine(fleet, boot_id="boot-2", ready_for=[MODEL])

    clock.advance(-1)  # a claim that waited for its machine's lock while the job was taken back, or another clock
    assert claim(fleet, job.id, boot_id="boot-2") is not None

    kept = the_job(fleet, job.id)
    lost, again = kept.attempts
    assert again.started_at == kept.started_at == lost.ended_at


def test_the_claim_of_an_earlier_process_is_not_answered_again(
    client: Client, fleet: Fleet, pair: tuple[str, str]
) -> None:
    job, claim_id = a_job(fleet), str(uuid4())
    ask_for(client, job, claim_id=claim_id)
    a_machine(fleet, boot_id="boot-2", ready_for=[MODEL])

    again = ask_for(client, job, claim_id=claim_id, boot_id="boot-2")

    assert again.json["attempt"] == 2


def test_a_second_try_is_another_machines(fleet: Fleet, pair: tuple[str, str]) -> None:
    job = a_failed_job(fleet)

    mine, theirs = claim(fleet, job.id), claim(fleet, job.id, "gpu-2")

    assert mine is None
    assert theirs is not None
    assert (theirs.job_id, theirs.number) == (job.id, 2)


def test_the_bell_of_a_second_try_is_rung_where_it_can_be_drawn(
    fleet: Fleet, pair: tuple[str, str], dispatcher: RecordingDispatcher
) -> None:
    a_machine(fleet, "gpu-3", ready_for=[MODEL])
    busy = a_job(fleet)
    assert claim(fleet, busy.id, "gpu-2") is not None
    dispatcher.sent.clear()

    job = a_failed_job(fleet)

    assert [m.job_id for m in dispatcher.sent if m.queue == machine_queue("gpu-3")] == [job.id]
    assert not [m for m in dispatcher.sent if m.queue in {machine_queue("gpu-1"), machine_queue("gpu-2")}]


def test_a_failed_job_does_not_keep_others_from_its_machine(fleet: Fleet, pair: tuple[str, str]) -> None:
    failed = a_failed_job(fleet)
    other = a_job(fleet)

    given = claim(fleet, failed.id)

    assert given is not None
    assert given.job_id == other.id


def test_after_a_while_anybody_may_try_again(fleet: Fleet, clock: Clock, pair: tuple[str, str]) -> None:
    job = a_failed_job(fleet)

    clock.advance(14)
    for name in pair:
        a_machine(fleet, name, ready_for=[MODEL])
    before = claim(fleet, job.id)
    clock.advance(1)
    after = claim(fleet, job.id)

    assert before is None
    assert after is not None


@pytest.mark.parametrize("why", ["silent", "drained", "another model", "downloading"])
def test_the_only_machine_that_can_may_try_again_at_once(client: Client, fleet: Fleet, clock: Clock, why: str) -> None:
    a_machine(fleet, "gpu-2", ready_for=["other" if why == "another model" else MODEL])
    if why == "silent":
        let_pass(fleet, clock, 20)
    if why == "drained":
        client.post("/v1/machines/gpu-2/drain")
    if why == "downloading":
        a_machine(fleet, "gpu-2")
    a_machine(fleet, ready_for=[MODEL])

    job = a_failed_job(fleet)

    assert claim(fleet, job.id) is not None


def test_a_job_that_was_lost_may_run_again_on_the_restarted_machine(fleet: Fleet, pair: tuple[str, str]) -> None:
    job = a_running_job(fleet)
    a_machine(fleet, boot_id="boot-2", ready_for=[MODEL])

    again = claim(fleet, job.id, boot_id="boot-2")

    assert again is not None
    assert again.number == 2


def test_what_a_machine_gave_back_costs_no_try(fleet: Fleet) -> None:
    job = a_running_job(fleet)
    for number in range(1, job.max_attempts + 1):
        finish(fleet, job, AttemptState.LOST, attempt=number, error_code="handed_back", error="the machine was stopped")
        assert claim(fleet, job.id) is not None

    failed = finish(fleet, job, AttemptState.ERROR, attempt=job.max_attempts + 1, **FAILED)

    assert failed.state == JobState.QUEUED


@pytest.mark.parametrize("state", [AttemptState.LOST, AttemptState.ERROR])
def test_a_lost_job_keeps_its_place_and_a_failed_one_goes_behind_the_others(
    fleet: Fleet, clock: Clock, pair: tuple[str, str], state: AttemptState
) -> None:
    job = a_running_job(fleet)
    clock.advance(1)
    waiting = a_job(fleet)
    clock.advance(1)
    finish(fleet, job, state, **FAILED)

    given = claim(fleet, job.id, "gpu-2")

    assert given is not None
    assert given.job_id == (job.id if state == AttemptState.LOST else waiting.id)


def test_a_job_that_fails_on_two_machines_ends_and_names_both_attempts(fleet: Fleet, pair: tuple[str, str]) -> None:
    job = a_failed_job(fleet)
    assert claim(fleet, job.id, "gpu-2") is not None

    ended = finish(
        fleet, job, AttemptState.ERROR, attempt=2, machine_id="gpu-2", error_code="other_luck", error="nor here"
    )

    assert (ended.state, ended.error_code) == (JobState.ERROR, "failed_on_two_machines")
    assert ended.error == (
        "it failed on two machines and is not tried again: attempt 1 on gpu-1: no_luck: it did not work; "
        "attempt 2 on gpu-2: other_luck: nor here"
    )


def test_a_lost_attempt_is_no_failure(fleet: Fleet, pair: tuple[str, str]) -> None:
    job = a_failed_job(fleet, state=AttemptState.LOST)
    assert claim(fleet, job.id, "gpu-2") is not None

    ended = finish(fleet, job, AttemptState.ERROR, attempt=2, machine_id="gpu-2", **FAILED)

    assert ended.state == JobState.QUEUED


def test_a_failure_for_good_on_the_second_machine_keeps_its_own_reason(fleet: Fleet, pair: tuple[str, str]) -> None:
    job = a_failed_job(fleet)
    assert claim(fleet, job.id, "gpu-2") is not None

    ended = finish(fleet, job, AttemptState.ERROR, attempt=2, machine_id="gpu-2", permanent=True, **FAILED)

    assert (ended.state, ended.error_code) == (JobState.ERROR, "no_luck")
