"""The gallery dialect, as seed 004 writes it."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from app.catalogue import from_lines
from app.core import jobs, models
from app.core.fleet import Fleet
from app.core.lifecycle import JobState
from tests.builders import MODEL, a_completed_job, a_job, a_machine, a_model, a_running_job, the_job
from tests.support.fakes import Clock
from tests.support.web import Client

ORDER = {"model": MODEL, "prompt": "a red circle"}


def test_an_order_is_taken_at_once_and_its_status_says_the_rest(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    asked = {"steps": 7, "width": 64, "height": 128, "seed": 5, "num_images": 2, "guidance_scale": 3.5}

    answer = client.post("/api/generate", json=ORDER | {"negative_prompt": "blue", "settings": asked})

    job_id = answer.json["job_id"]
    assert (answer.status_code, answer.json["status"]) == (202, "PENDING")
    assert answer.headers["Location"].endswith(f"/api/status/{job_id}")
    found = client.get(f"/api/status/{job_id}").json
    assert (found["status"], found["model"], found["prompt"]) == ("PENDING", MODEL, "a red circle")
    assert found["settings"] == asked
    assert (found["completed_at"], found["image_path"], found["images"], found["error"]) == (None, None, [], None)


def test_diffusers_word_for_steps_and_model_id_are_understood_too(client: Client, fleet: Fleet) -> None:
    a_model(fleet)

    order = {"model_id": MODEL, "prompt": "a red circle", "settings": {"num_inference_steps": 9}}
    job_id = client.post("/api/generate", json=order).json["job_id"]

    assert client.get(f"/api/status/{job_id}").json["settings"]["steps"] == 9


def test_a_completed_job_shows_its_pictures_and_they_can_be_fetched(client: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet)

    found = client.get(f"/api/status/{job.id}").json

    (image,) = found["images"]
    assert (found["status"], found["progress"], found["image_path"]) == ("COMPLETED", 1.0, image["url"])
    assert found["completed_at"]
    picture = client.get(f"/api/image/{image['image_id']}")
    assert (picture.status_code, picture.mimetype) == (200, "image/png")
    again = client.get(f"/api/image/{image['image_id']}", headers={"If-None-Match": picture.headers["ETag"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (JobState.QUEUED, "PENDING"),
        (JobState.PROCESSING, "PROCESSING"),
        (JobState.COMPLETED, "COMPLETED"),
        (JobState.ERROR, "FAILED"),
        (JobState.CANCELLED, "FAILED"),
    ],
)
def test_every_state_has_its_word(client: Client, fleet: Fleet, state: JobState, word: str) -> None:
    job = a_job(fleet) if state == JobState.QUEUED else a_running_job(fleet)
    if state not in {JobState.QUEUED, JobState.PROCESSING}:
        with fleet.transaction() as tx:
            jobs.end(tx, jobs.locked(tx.session, job.id), state, "a_code", "the reason")

    found = client.get(f"/api/status/{job.id}").json

    assert found["status"] == word
    assert found["error"] == ("the reason" if word == "FAILED" else None)


def test_a_cancelled_job_says_that_it_was_cancelled(client: Client, fleet: Fleet) -> None:
    job = a_job(fleet)
    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)

    assert client.get(f"/api/status/{job.id}").json["error"] == "the job was cancelled"


def test_models_tell_their_steps_as_the_seeds_page_reads_them(client: Client, fleet: Fleet) -> None:
    lines = {
        "MODEL_X": 'fixed;some/repo;Fixed;huggingface;false;{"fixed_steps": 25}',
        "MODEL_Y": 'range;another/repo;Range;huggingface;true;{"steps": {"min": 10, "max": 40, "default": 20}}',
        "MODEL_Z": "plain;third/repo;Plain;huggingface;false",
    }
    with fleet.transaction() as tx:
        for entry in from_lines(lines):
            models.put(tx, entry, origin="environment")
    a_model(fleet, "a-lora", kind="lora")
    a_machine(fleet, ready_for=["fixed"])

    found = {model["id"]: model for model in client.get("/api/models").json["models"]}

    assert set(found) == {"fixed", "range", "plain"}
    assert (found["fixed"]["fixed_steps"], found["fixed"]["ready"]) == (25, True)
    assert "steps" not in found["fixed"]
    assert found["range"]["steps"] == {"min": 10, "max": 40, "default": 20}
    assert (found["range"]["requires_auth"], found["range"]["source"], found["range"]["ready"]) == (
        True,
        "huggingface",
        False,
    )
    assert not {"steps", "fixed_steps"} & set(found["plain"])


def test_the_queue_is_shown_oldest_first_with_its_length(client: Client, fleet: Fleet, clock: Clock) -> None:
    running = a_running_job(fleet)
    clock.advance(1)
    first = a_job(fleet)
    clock.advance(1)
    second = a_job(fleet)
    a_completed_job(fleet, model_id="other")

    found = client.get("/api/queue").json

    assert (found["pending"], found["processing"]) == (2, 1)
    assert [job["job_id"] for job in found["jobs"]] == [str(job.id) for job in (running, first, second)]


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"model": "nowhere"}, 404, "model_not_found", "nowhere"),
        ({"model": ""}, 422, "invalid_request", "must not be empty"),
        ({"model": 5}, 422, "invalid_request", "model"),
        ({"prompt": ""}, 422, "invalid_request", "must not be empty"),
        ({"prompt": None}, 422, "invalid_request", "prompt"),
        ({"stepz": 5}, 422, "invalid_request", "stepz"),
        ({"settings": {"steps": 10**6}}, 422, "invalid_request", "limit"),
        ({"settings": {"steps": "many"}}, 422, "invalid_request", "steps"),
        ({"settings": {"steps": 3, "num_inference_steps": 4}}, 422, "invalid_request", "either"),
        ({"settings": {"width": 65}}, 422, "invalid_spec", "multiple"),
        ({"model_id": MODEL}, 422, "invalid_request", "model"),
    ],
)
def test_what_is_wrong_is_said_with_the_field(
    client: Client, fleet: Fleet, change: dict[str, Any], status: int, code: str, words: str
) -> None:
    a_model(fleet)

    answer = client.post("/api/generate", json=ORDER | change)

    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert words in answer.json["error"]


def test_what_is_not_there_is_404_in_the_dialects_shape(client: Client) -> None:
    for path in (f"/api/status/{uuid4()}", f"/api/image/{uuid4()}"):
        answer = client.get(path)
        assert (answer.status_code, set(answer.json)) == (404, {"error", "code"})


def test_an_order_that_comes_twice_under_one_key_is_one_job(client: Client, fleet: Fleet) -> None:
    a_model(fleet)

    first, second = (client.post("/api/generate", json=ORDER, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert first.json["job_id"] == second.json["job_id"]
    assert the_job(fleet, UUID(first.json["job_id"])).dialect == "gallery"
