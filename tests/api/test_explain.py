"""Why a job is where it is: for each machine, in a word for programs and a sentence for people."""

from datetime import timedelta
from typing import Any

import pytest

from app.core import images, machines
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, HoldingState
from app.core.machines import HoldingReport
from app.core.tables import Job, Machine
from tests.builders import (
    MODEL,
    a_completed_job,
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


def explained(client: Client, job: Job) -> dict[str, Any]:
    answer = client.get(f"/v1/jobs/{job.id}/explain")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json
    return body


def verdict(client: Client, job: Job, machine_id: str = "gpu-1") -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {m["machine_id"]: m for m in explained(client, job)["machines"]}
    return found[machine_id]


def holding(fleet: Fleet, state: HoldingState, **more: Any) -> None:
    a_machine(fleet, holdings=[HoldingReport(model_id=MODEL, state=state, **more)])


def test_without_any_machine_it_says_what_to_start(client: Client, fleet: Fleet) -> None:
    found = explained(client, a_job(fleet))

    assert found["machines"] == []
    assert found["status"] == "queued"
    assert f"MACHINE_MODELS_NEEDED={MODEL}" in found["unblock"]


def test_a_machine_that_was_not_told_to_hold_the_model(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=["another"])

    found = verdict(client, a_job(fleet))

    assert found["reason"] == "no_receipt"
    assert found["unblock"] == f"add {MODEL} to its MACHINE_MODELS_NEEDED"


def test_a_download_is_told_with_its_rate_and_rest(client: Client, fleet: Fleet) -> None:
    total = 10**10
    holding(fleet, HoldingState.DOWNLOADING, bytes_done=43 * 10**8, bytes_total=total, bytes_per_second=10**8)
    job = a_job(fleet)

    found = verdict(client, job)

    assert (found["reason"], found["seconds"]) == ("downloading", 57.0)
    assert "43 % of 10.0 GB at 100.0 MB/s, about 57 s left" in found["message"]
    assert "43 % done" in explained(client, job)["summary"]
    assert explained(client, job)["unblock"] is None


def test_a_download_that_stands_still_says_so(client: Client, fleet: Fleet) -> None:
    holding(fleet, HoldingState.DOWNLOADING, bytes_done=1, bytes_total=100)

    found = verdict(client, a_job(fleet))

    assert (found["reason"], found["seconds"]) == ("downloading", None)
    assert "nothing arrives" in found["message"]


@pytest.mark.parametrize(
    ("state", "more", "reason", "told"),
    [
        (HoldingState.WANTED, {}, "wanted", "going to fetch"),
        (HoldingState.VERIFYING, {"bytes_total": 5 * 10**8}, "verifying", "proving"),
        (HoldingState.ERROR, {"error_code": "hash_mismatch", "error": "wrong hash"}, "model_error", "wrong hash"),
        (HoldingState.ERROR, {"error_code": "out_of_memory", "error": "24 GB needed"}, "no_memory", "24 GB needed"),
    ],
)
def test_how_far_a_machine_is_with_the_model(
    client: Client, fleet: Fleet, state: HoldingState, more: dict[str, Any], reason: str, told: str
) -> None:
    holding(fleet, state, **more)

    found = verdict(client, a_job(fleet))

    assert found["reason"] == reason
    assert told in found["message"]


def test_a_busy_machine_says_with_what_since_when_and_for_how_long(client: Client, fleet: Fleet, clock: Clock) -> None:
    first = a_running_job(fleet)
    a_job(fleet)
    clock.advance(20)
    finish_first(fleet, first)
    clock.advance(1)
    running = a_running_job(fleet)
    clock.advance(5)
    a_machine(fleet, ready_for=[MODEL], attempts=frozenset({(running.id, 1)}))

    found = verdict(client, a_job(fleet))

    assert found["reason"] == "busy"
    assert "for 5.0 s, and will for about 15 s still" in found["message"]
    assert found["seconds"] == pytest.approx(15)


def finish_first(fleet: Fleet, job: Job) -> None:
    images.receive(fleet, an_upload(job))
    finish(fleet, job)


def test_a_free_machine_lets_others_come_first(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_job(fleet)
    clock.advance(1)
    mine = a_job(fleet)
    a_machine(fleet, ready_for=[MODEL])

    assert verdict(client, mine)["reason"] == "others_first"
    assert "1 other job" in verdict(client, mine)["message"]


def test_a_free_machine_should_take_what_is_next(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL])

    found = verdict(client, a_job(fleet))

    assert found["reason"] == "free"
    assert "control worker" in found["unblock"]


def test_a_drained_machine_says_how_to_undrain_it(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL])
    with fleet.transaction() as tx:
        machines.drain(tx, "gpu-1")
    job = a_job(fleet)

    found = verdict(client, job)

    assert found["reason"] == "drained"
    assert "POST /v1/machines/gpu-1/undrain" in found["unblock"]
    assert "undrain" in explained(client, job)["unblock"]


def test_a_sick_machine_says_why(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL])
    with fleet.transaction() as tx:
        tx.session.get_one(Machine, "gpu-1").sick = "it failed what others finished"

    found = verdict(client, a_job(fleet))

    assert (found["reason"], found["message"]) == ("sick", "it failed what others finished")


def test_a_silent_machine_is_named(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_machine(fleet, ready_for=[MODEL])
    clock.advance(300)
    job = a_job(fleet)

    assert verdict(client, job)["reason"] == "silent"
    assert "5 min" in verdict(client, job)["message"]
    assert explained(client, job)["unblock"] == "gpu-1: start it again, or look at its network and its log"


@pytest.mark.parametrize(("code", "reason"), [("out_of_memory", "no_memory"), ("internal_error", "failed_before")])
def test_a_machine_on_which_it_failed_leaves_it_to_others_for_a_while(
    client: Client, fleet: Fleet, clock: Clock, code: str, reason: str
) -> None:
    job = a_running_job(fleet)
    a_machine(fleet, "gpu-2", ready_for=[MODEL])
    finish(fleet, job, AttemptState.ERROR, error_code=code, error="this much was needed")
    clock.advance(5)

    found = verdict(client, job)

    assert (found["reason"], found["seconds"]) == (reason, 10.0)
    assert "this much was needed" in found["message"]
    assert verdict(client, job, "gpu-2")["reason"] == "free"
    clock.advance(11)
    for name in ("gpu-1", "gpu-2"):
        a_machine(fleet, name, ready_for=[MODEL])
    assert verdict(client, job)["reason"] == "free"


def test_a_job_whose_time_has_not_come_says_when(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_job(fleet)
    a_machine(fleet, ready_for=[MODEL])
    with fleet.transaction() as tx:
        tx.session.get_one(Job, job.id).next_attempt_at = clock.now + timedelta(seconds=30)

    found = explained(client, job)

    assert (found["machines"][0]["reason"], found["machines"][0]["seconds"]) == ("not_yet", 30.0)
    assert "begins in 30 s" in found["summary"]
    assert found["unblock"] is None


def test_a_running_job_says_who_draws_it(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_running_job(fleet)
    finish(fleet, job, AttemptState.LOST, error="the machine was stopped")
    claim(fleet, job.id)
    clock.advance(3)

    found = explained(client, job)

    assert "gpu-1 has been drawing it for 3.0 s, attempt 2 of 3" in found["summary"]
    assert "the machine was stopped" in found["summary"]
    assert [machine["reason"] for machine in found["machines"]] == ["tried_it", "draws_it"]


def test_an_ended_job_says_how_it_ended(client: Client, fleet: Fleet) -> None:
    completed = a_completed_job(fleet)
    failed = a_running_job(fleet)
    finish(fleet, failed, AttemptState.ERROR, permanent=True, error_code="cannot_draw", error="no such layer")
    cancelled = a_job(fleet)
    client.post(f"/v1/jobs/{cancelled.id}/cancel")

    assert explained(client, completed)["summary"] == "gpu-1 drew it with attempt 1"
    assert [machine["reason"] for machine in explained(client, completed)["machines"]] == ["drew_it"]
    assert explained(client, failed)["summary"] == "it ended as an error after 1 attempt: no such layer"
    assert explained(client, cancelled)["summary"].startswith("it was cancelled")
    assert the_job(fleet, cancelled.id).attempts == []
