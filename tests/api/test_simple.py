"""The simple dialect, seed 001: an order that answers with its pictures."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from app.core import images, jobs
from app.core.fleet import Fleet
from app.core.lifecycle import JobState
from tests.builders import MODEL, a_completed_job, a_machine, a_model, an_upload, claim, finish, the_job
from tests.support.fakes import RecordingDispatcher
from tests.support.processes import wait_until
from tests.support.web import Client

ORDER = {"model": MODEL, "prompt": "a red circle"}


@contextmanager
def somebody_who_draws(fleet: Fleet, dispatcher: RecordingDispatcher, state: JobState) -> Iterator[None]:
    """End the first job that is ordered, from another thread as a machine does."""

    def work() -> None:
        wait_until(lambda: dispatcher.sent, "something is ordered")
        job_id = dispatcher.sent[0].job_id
        if state == JobState.COMPLETED:
            a_machine(fleet)
            claim(fleet, job_id)
            images.receive(fleet, an_upload(the_job(fleet, job_id)))
            finish(fleet, the_job(fleet, job_id))
            return
        with fleet.transaction() as tx:
            jobs.end(tx, jobs.locked(tx.session, job_id), state, "a_code", "the reason")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def drawn(fleet: Fleet, dispatcher: RecordingDispatcher) -> Iterator[None]:
    a_model(fleet)
    with somebody_who_draws(fleet, dispatcher, JobState.COMPLETED):
        yield


@pytest.mark.usefixtures("drawn")
def test_an_order_answers_with_its_pictures(client: Client) -> None:
    answer = client.post("/generate", json=ORDER | {"size": "64x128", "n": 1, "steps": 3, "seed": 1})

    (image,) = answer.json["images"]
    assert (answer.status_code, answer.json["status"], answer.json["model"]) == (200, "completed", MODEL)
    assert base64.b64decode(image["base64"]) == client.get(image["url"]).data


@pytest.mark.usefixtures("drawn")
def test_addresses_instead_of_bytes(client: Client) -> None:
    (image,) = client.post("/generate", json=ORDER | {"response": "url"}).json["images"]

    assert "base64" not in image
    assert client.get(image["url"]).mimetype == "image/png"


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("accept", ["image/png", "image/*", "image/png;q=1, application/json;q=0.5"])
def test_whoever_accepts_pictures_gets_the_bytes(client: Client, accept: str) -> None:
    answer = client.post("/generate", json=ORDER, headers={"Accept": accept})

    assert (answer.status_code, answer.mimetype) == (200, "image/png")
    assert answer.data == client.get(answer.headers["Content-Location"]).data


@pytest.mark.parametrize(
    ("accept", "order", "drawn_as"),
    [
        ("image/webp", {}, "webp"),
        ("image/webp, image/png;q=0.8, */*;q=0.5", {}, "webp"),
        ("image/jpeg", {"image_format": "webp"}, "webp"),  # what the order says counts
        ("image/*", {}, "png"),
        ("*/*", {}, "png"),
    ],
)
def test_pictures_are_drawn_in_the_format_that_is_accepted(
    client: Client, fleet: Fleet, accept: str, order: dict[str, Any], drawn_as: str
) -> None:
    a_model(fleet)

    answer = client.post("/generate", json=ORDER | {"wait": 0} | order, headers={"Accept": accept})

    assert the_job(fleet, UUID(answer.json["job_id"])).spec["image_format"] == drawn_as


@pytest.mark.parametrize("how", [{"json": {"wait": 0}}, {"headers": {"Prefer": "respond-async"}}])
def test_whoever_does_not_wait_is_told_where_to_ask(client: Client, fleet: Fleet, how: dict[str, Any]) -> None:
    a_model(fleet)

    answer = client.post("/generate", json=ORDER | how.get("json", {}), headers=how.get("headers"))

    assert (answer.status_code, answer.json["status"], answer.json["images"]) == (202, "queued", [])
    assert client.get(answer.headers["Location"]).json["job_id"] == answer.json["job_id"]


@pytest.mark.parametrize("how", [{"json": {"wait": 0.1}}, {"headers": {"Prefer": "wait=0"}}])
def test_after_the_time_that_was_asked_for_the_job_goes_on(client: Client, fleet: Fleet, how: dict[str, Any]) -> None:
    a_model(fleet)

    answer = client.post("/generate", json=ORDER | how.get("json", {}), headers=how.get("headers"))

    assert answer.status_code == 202
    assert the_job(fleet, UUID(answer.json["job_id"])).state == JobState.QUEUED


@pytest.mark.parametrize(
    ("state", "status", "code"), [(JobState.ERROR, 500, "a_code"), (JobState.CANCELLED, 409, "cancelled")]
)
def test_a_job_that_fails_says_why(
    client: Client, fleet: Fleet, dispatcher: RecordingDispatcher, state: JobState, status: int, code: str
) -> None:
    a_model(fleet)

    with somebody_who_draws(fleet, dispatcher, state):
        answer = client.post("/generate", json=ORDER)

    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert "the reason" in answer.json["detail"]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model": "nowhere"}, 404, "nowhere"),
        ({"model": None}, 422, "model"),
        ({"prompt": ""}, 422, "must not be empty"),
        ({"size": "big"}, 422, "WIDTHxHEIGHT"),
        ({"size": "64x64", "width": 64}, 422, "either"),
        ({"size": "99999x64"}, 422, "limit"),
        ({"size": "65x64"}, 422, "multiple"),
        ({"steps": 10**6}, 422, "limit"),
        ({"n": 1000}, 422, "limit"),
        ({"wait": -1}, 422, "wait"),
        ({"response": "fax"}, 422, "response"),
        ({"promt": "x"}, 422, "promt"),
    ],
)
def test_what_is_wrong_is_said_with_the_field(
    client: Client, fleet: Fleet, change: dict[str, Any], status: int, words: str
) -> None:
    a_model(fleet)

    answer = client.post("/generate", json=ORDER | change)

    assert answer.status_code == status
    assert words in answer.json["detail"]


def test_models_are_those_that_draw(client: Client, fleet: Fleet) -> None:
    a_model(fleet, options={"steps": 12})
    a_model(fleet, "a-lora", kind="lora")
    a_machine(fleet, ready_for=[MODEL])

    (found,) = client.get("/models").json["models"]

    assert (found["name"], found["ready"], found["options"]) == (MODEL, True, {"steps": 12})


def test_the_status_says_what_the_machines_have_one_by_one_and_in_all(client: Client, fleet: Fleet) -> None:
    a_completed_job(fleet)
    gpu = {"type": "cuda", "name": "NVIDIA H200", "memory_total": 100, "memory_free": 40}
    a_machine(fleet, "gpu-1", ready_for=[MODEL], device=gpu)
    a_machine(fleet, "gpu-2", ready_for=[], device=gpu)
    a_machine(fleet, "cpu-1", device={"type": "cpu", "name": "CPU", "memory_total": 10, "memory_free": 5})

    found = client.get("/status").json

    by_name = {machine["name"]: machine for machine in found["machines"]}
    assert (found["status"], found["jobs"]) == ("ok", {"queued": 0, "processing": 0})
    assert found["resources"]["gpus"] == 2
    assert found["resources"]["gpu_memory"] == {"total": 200, "free": 80}
    assert found["resources"]["cpu_memory"] == {"total": 10, "free": 5}
    assert (by_name["gpu-1"]["models"], by_name["gpu-2"]["models"]) == ([MODEL], [])


def test_a_fleet_in_which_no_machine_is_ready_is_idle(client: Client) -> None:
    assert client.get("/status").json["status"] == "idle"
