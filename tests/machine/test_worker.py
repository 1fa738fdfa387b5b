"""A real worker process: readiness by queue, and the life of its jobs through every kind of accident."""

import hashlib
from uuid import UUID

import requests

from app.broker import CeleryDispatcher
from app.core.dispatch import GENERATE, Message
from provisioning import receipts
from tests.machine.conftest import A_FEW, Machine
from tests.support.processes import WAIT_SECONDS, wait_until


def test_a_worker_starts_with_no_models_queue(machine: Machine) -> None:
    assert machine.setup.ready(control=True)
    wait_until(lambda: machine.consumes(machine.own_queue), "the worker consumes its own queue only")
    assert machine.state() == "wanted"


def test_a_valid_receipt_joins_a_damaged_file_leaves_and_a_new_proof_joins_again(machine: Machine) -> None:
    machine.prove()
    machine.wait_for_state("ready")
    wait_until(lambda: machine.consumes(machine.own_queue, machine.queue), "the worker joined")

    machine.file.write_bytes(b"other weights")
    wait_until(lambda: machine.consumes(machine.own_queue), "the worker left")
    wait_until(lambda: machine.state() != "ready", "the server knows")

    machine.prove()
    machine.wait_for_state("ready")
    wait_until(lambda: machine.consumes(machine.own_queue, machine.queue), "the worker joined again")


def test_a_file_without_a_receipt_is_no_proof(machine: Machine) -> None:
    machine.prove()
    receipts.remove(machine.models_dir, machine.model_id)
    machine.wait_for_state("wanted")

    job_id = machine.order()
    machine.prove()

    assert machine.wait_for_end(job_id)["attempts"][0]["machine_id"] == machine.machine_id


def test_a_job_that_came_too_early_waits_says_why_and_runs(machine: Machine) -> None:
    job_id = machine.order()

    waiting = machine.job(job_id)
    machine.prove()
    done = machine.wait_for_end(job_id)

    assert waiting["status"] == "queued"
    assert machine.machine_id in waiting["waiting_for"]
    assert (done["waiting_for"], len(done["images"])) == (None, 1)


def test_the_pictures_of_a_job_are_what_was_ordered(ready_machine: Machine) -> None:
    job_id = ready_machine.order(n=3, width=64, height=32, image_format="webp")

    images = ready_machine.wait_for_end(job_id)["images"]

    assert [(image["seed"], image["width"], image["height"]) for image in images] == [(7 + k, 64, 32) for k in range(3)]
    files = [requests.get(image["url"], timeout=WAIT_SECONDS) for image in images]
    assert {file.headers["Content-Type"] for file in files} == {"image/webp"}
    assert len({hashlib.sha256(file.content).digest() for file in files}) == 3


def test_the_job_of_a_killed_worker_completes_with_the_second_attempt(ready_machine: Machine) -> None:
    job_id = ready_machine.order_for_a_while()

    ready_machine.worker.kill()
    ready_machine.worker.container.restart()
    done = ready_machine.wait_for_end(job_id)

    assert [attempt["state"] for attempt in done["attempts"]] == ["lost", "completed"]
    assert "started anew" in done["attempts"][0]["error"]["message"]
    assert len(done["images"]) == A_FEW


def test_a_picture_that_is_done_while_the_server_is_away_is_delivered_later(ready_machine: Machine) -> None:
    job_id = ready_machine.order_for_a_while()

    ready_machine.web.stop()
    try:
        ready_machine.wait_for_log("is kept until the API takes it")
    finally:
        ready_machine.web.start()
    done = ready_machine.wait_for_end(job_id)

    assert [attempt["state"] for attempt in done["attempts"]] == ["completed"]
    ready_machine.wait_for_log("delivered late")
    spool = ready_machine.models_dir.parent / "spool" / ready_machine.machine_id
    wait_until(lambda: not list(spool.iterdir()), "nothing is left in the spool")


def test_a_worker_that_dies_after_drawing_still_delivers_what_it_had_drawn(ready_machine: Machine) -> None:
    job_id = ready_machine.order_for_a_while()

    ready_machine.web.stop()
    try:
        ready_machine.wait_for_log("is kept until the API takes it")
        ready_machine.worker.kill()
    finally:
        ready_machine.web.start()
    ready_machine.worker.container.restart()
    done = ready_machine.wait_for_end(job_id)

    assert [attempt["state"] for attempt in done["attempts"]] == ["completed"]


def test_a_cancelled_job_stops_and_the_worker_goes_on(ready_machine: Machine) -> None:
    job_id = ready_machine.order_long()

    answer = ready_machine.web.post(f"v1/jobs/{job_id}/cancel", {})
    ready_machine.wait_for_log("nobody wants it any more")
    next_id = ready_machine.order()

    assert answer["status"] == "cancelled"
    ready_machine.wait_for_end(next_id)
    assert ready_machine.wait_for_end(job_id, "cancelled")["images"] == []


def test_a_worker_told_to_stop_hands_its_job_back(ready_machine: Machine) -> None:
    job_id = ready_machine.order_long()

    ready_machine.worker.kill(signal="SIGTERM")
    status = ready_machine.worker.container.wait()

    assert status == 0
    job = ready_machine.job(job_id)
    assert job["status"] == "queued"
    assert [(attempt["state"], attempt["error"]["code"]) for attempt in job["attempts"]] == [("lost", "handed_back")]
    assert ready_machine.state() != "ready"


def test_a_bell_for_an_ended_job_changes_nothing(ready_machine: Machine) -> None:
    job_id = ready_machine.order()
    before = ready_machine.wait_for_end(job_id)

    ring_again(ready_machine, job_id)
    ready_machine.wait_for_log(f"job {job_id} is not for us")

    assert ready_machine.job(job_id) == before


def test_a_worker_outlives_a_restart_of_the_broker(ready_machine: Machine) -> None:
    ready_machine.setup.broker.restart()

    wait_until(lambda: ready_machine.web.get("ready")["parts"]["broker"] == "ok", "the server reaches the broker")
    first = ready_machine.order()
    wait_until(lambda: ready_machine.job(first)["status"] != "queued" or ring_again(ready_machine, first), "it runs")

    ready_machine.wait_for_end(first)


def test_no_prompt_stands_in_the_workers_log(ready_machine: Machine) -> None:
    ready_machine.wait_for_end(ready_machine.order(prompt="a-secret-prompt"))

    assert "a-secret-prompt" not in ready_machine.worker.logs()


def ring_again(machine: Machine, job_id: UUID) -> bool:
    """Do what the sweeper does for a job whose bell is gone."""
    CeleryDispatcher(machine.setup.app).send([Message(GENERATE, machine.queue, job_id)])
    return False
