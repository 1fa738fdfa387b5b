"""Machines that get no more jobs: drained by an operator, sick by what they failed, or two under one name."""

from typing import Any

import pytest

from app.core import images
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState
from app.core.tables import Job
from tests.builders import (
    BOOT,
    MACHINE,
    MODEL,
    a_job,
    a_machine,
    a_running_job,
    an_upload,
    claim,
    finish,
    the_job,
)
from tests.support.fakes import Clock
from tests.support.web import Client

OTHER = "gpu-2"


@pytest.fixture(autouse=True)
def pair(fleet: Fleet) -> None:
    """Have two machines that are ready."""
    for name in (MACHINE, OTHER):
        a_machine(fleet, name, ready_for=[MODEL])


def complete(fleet: Fleet, machine_id: str, job: Job | None = None) -> Job:
    """Let a machine draw a job."""
    job = job or a_job(fleet)
    attempt = claim(fleet, job.id, machine_id)
    assert attempt is not None
    images.receive(fleet, an_upload(job, attempt=attempt.number, machine_id=machine_id))
    return finish(fleet, job, attempt=attempt.number, machine_id=machine_id)


def strike(fleet: Fleet, clock: Clock) -> Job:
    """Let gpu-1 fail what gpu-2 then finishes."""
    job = a_job(fleet)
    assert claim(fleet, job.id, MACHINE) is not None
    finish(fleet, job, AttemptState.ERROR, error_code="cuda_error", error="an illegal memory access")
    clock.advance(1)
    return complete(fleet, OTHER, job)


def check_in(client: Client, boot_id: str = BOOT) -> Any:
    body = {"machine_id": MACHINE, "boot_id": boot_id, "holdings": [{"model_id": MODEL, "state": "ready"}]}
    return client.post("/machines/v1/check-in", json=body).json


def ask_for(client: Client, job: Job, boot_id: str = BOOT) -> Any:
    return client.post(f"/machines/v1/jobs/{job.id}/claim", json={"machine_id": MACHINE, "boot_id": boot_id})


def shown(client: Client) -> Any:
    return client.get(f"/v1/machines/{MACHINE}").json


def test_a_machine_that_fails_what_others_finish_gets_no_more_jobs_and_says_why(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    failed = [strike(fleet, clock) for _ in range(2)]
    waiting = a_job(fleet)

    refused, orders, seen = ask_for(client, waiting), check_in(client), shown(client)

    assert (refused.status_code, refused.json["code"]) == (409, "not_claimable")
    assert orders["drained"] is True
    assert orders["reason"] == seen["sick"] == refused.json["message"]
    assert (seen["drained"], seen["alive"]) == (False, True)
    for job in failed:
        assert f"job {job.id} (cuda_error: an illegal memory access), finished by gpu-2" in seen["sick"]
    assert claim(fleet, waiting.id, OTHER) is not None


def test_one_failure_may_be_chance(client: Client, fleet: Fleet, clock: Clock) -> None:
    strike(fleet, clock)

    assert shown(client)["sick"] is None
    assert ask_for(client, a_job(fleet)).status_code == 200


def test_a_machine_that_completes_something_in_between_is_well(client: Client, fleet: Fleet, clock: Clock) -> None:
    strike(fleet, clock)
    clock.advance(1)
    complete(fleet, MACHINE)
    clock.advance(1)
    strike(fleet, clock)

    assert shown(client)["sick"] is None


def test_failures_that_are_long_ago_do_not_count(client: Client, fleet: Fleet, clock: Clock) -> None:
    strike(fleet, clock)
    clock.advance(3700)
    for name in (MACHINE, OTHER):
        a_machine(fleet, name, ready_for=[MODEL])
    strike(fleet, clock)

    assert shown(client)["sick"] is None


def test_failures_that_nobody_else_made_good_do_not_count(client: Client, fleet: Fleet, clock: Clock) -> None:
    for _ in range(3):
        job = a_job(fleet)
        assert claim(fleet, job.id, MACHINE) is not None
        finish(fleet, job, AttemptState.ERROR, error_code="bad", error="bad", permanent=True)
        clock.advance(1)
    strike(fleet, clock)

    assert shown(client)["sick"] is None


def test_a_new_start_is_well(client: Client, fleet: Fleet, clock: Clock) -> None:
    for _ in range(2):
        strike(fleet, clock)

    orders = check_in(client, "boot-2")

    assert (orders["drained"], orders["reason"], shown(client)["sick"]) == (False, None, None)
    assert ask_for(client, a_job(fleet), "boot-2").status_code == 200


def test_an_operator_forgives_and_what_was_before_does_not_count_again(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    for _ in range(2):
        strike(fleet, clock)
    clock.advance(1)

    answer = client.post(f"/v1/machines/{MACHINE}/undrain")
    strike(fleet, clock)

    assert (answer.status_code, answer.json["sick"]) == (200, None)
    assert shown(client)["sick"] is None
    strike(fleet, clock)
    assert shown(client)["sick"] is not None


def test_a_drained_machine_finishes_and_gets_no_more_jobs(client: Client, fleet: Fleet) -> None:
    running = a_running_job(fleet)

    answer = client.post(f"/v1/machines/{MACHINE}/drain")
    waiting = a_job(fleet)
    refused, orders = ask_for(client, waiting), check_in(client)

    assert (answer.status_code, answer.json["drained"]) == (200, True)
    assert [(job["job_id"], job["attempt"]) for job in answer.json["jobs"]] == [(str(running.id), 1)]
    assert refused.status_code == 409
    assert (orders["drained"], "drained" in orders["reason"]) == (True, True)
    images.receive(fleet, an_upload(running))
    assert finish(fleet, running).state == "completed"
    assert client.post(f"/v1/machines/{MACHINE}/undrain").json["drained"] is False
    assert ask_for(client, waiting).status_code == 200


def test_a_drained_machine_stays_drained_when_it_starts_anew(client: Client) -> None:
    client.post(f"/v1/machines/{MACHINE}/drain")

    assert check_in(client, "boot-2")["drained"] is True


@pytest.mark.parametrize("verb", ["drain", "undrain"])
@pytest.mark.parametrize("name", ["nobody", "a%00b"])
def test_a_machine_that_never_was_cannot_be_drained(client: Client, verb: str, name: str) -> None:
    answer = client.post(f"/v1/machines/{name}/{verb}")

    assert (answer.status_code, answer.json["error"]["code"]) == (404, "machine_not_found")


def test_a_waiting_job_says_that_those_who_could_draw_it_are_sick_or_drained(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    for _ in range(2):
        strike(fleet, clock)
    client.post(f"/v1/machines/{OTHER}/drain")

    waiting = client.get(f"/v1/jobs/{a_job(fleet).id}").json

    assert "cuda_error" in waiting["waiting_for"]
    assert f"machine '{OTHER}' is drained" in waiting["waiting_for"]


def test_what_a_machine_draws_is_shown(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)

    (mine, other) = client.get("/v1/machines").json["machines"]

    attempt = the_job(fleet, job.id).attempts[0]
    drawn = {"job_id": str(job.id), "attempt": 1, "started_at": attempt.started_at.isoformat()}
    assert mine["jobs"] == [{**drawn, "model_id": MODEL, "progress": 0.0}]
    assert other["jobs"] == []


def test_two_hosts_under_one_name_are_noticed_and_get_no_jobs(
    client: Client, fleet: Fleet, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = []
    for boot_id in (BOOT, "boot-b", BOOT, "boot-b"):
        reasons.append(check_in(client, boot_id)["reason"])
        clock.advance(3)

    assert reasons[:2] == [None, None]
    assert "give each host a MACHINE_ID of its own" in reasons[3]
    assert shown(client)["sick"] == reasons[3]
    assert "two processes check in as machine 'gpu-1' in turns" in caplog.text
    assert ask_for(client, a_job(fleet), "boot-b").status_code == 409


def test_the_one_that_stays_when_its_twin_has_gone_gets_jobs_again(client: Client, fleet: Fleet, clock: Clock) -> None:
    for boot_id in (BOOT, "boot-b", BOOT):
        check_in(client, boot_id)

    clock.advance(61)

    assert check_in(client)["reason"] is None
    assert ask_for(client, a_job(fleet)).status_code == 200


def test_a_machine_that_starts_anew_again_and_again_is_no_twin(client: Client) -> None:
    assert {check_in(client, f"start-{number}")["reason"] for number in range(5)} == {None}
