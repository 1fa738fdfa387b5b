"""The OpenAI dialect: its bodies to the letter, and what is kept of its orders."""

import base64
import io
from datetime import timedelta
from typing import Any

import pytest
from PIL import Image

from app.core import inputs, jobs
from app.core.fleet import Fleet
from app.core.lifecycle import JobState
from tests.builders import MODEL, a_machine, a_model, a_picture
from tests.support.fakes import MONDAY, Clock, RecordingDispatcher
from tests.support.openai_door import (
    EDIT,
    GENERATE,
    NOT_WAITING,
    ORDER,
    USAGE,
    a_file,
    a_served_fleet,
    newest,
    send,
    somebody_who_draws,
)
from tests.support.web import Client


@pytest.fixture
def served(fleet: Fleet) -> Fleet:
    """Return a fleet with a machine that is ready for its model."""
    return a_served_fleet(fleet)


def test_an_order_answers_with_its_pictures(client: Client, served: Fleet, dispatcher: RecordingDispatcher) -> None:
    with somebody_who_draws(served, dispatcher):
        answer = client.post(GENERATE, json=ORDER | {"n": 2, "quality": "hd", "user": "somebody"})

    job = newest(served)
    picture = base64.b64encode(a_picture()).decode()
    assert answer.status_code == 200
    assert answer.json == {
        "created": int(MONDAY.timestamp()),
        "data": [{"b64_json": picture, "seed": 7}, {"b64_json": picture, "seed": 8}],
        "background": "opaque",
        "output_format": "png",
        "quality": "high",
        "size": "8x8",
        "usage": USAGE,
        "safety_identifier": "somebody",
        "job_id": str(job.id),
    }
    assert (job.dialect, job.caller) == ("openai", "somebody")
    assert answer.headers["X-Request-Id"]


def test_an_address_needs_no_token_holds_for_an_hour_and_cannot_be_made_up(
    fleet: Fleet, guarded: Client, served: Fleet, dispatcher: RecordingDispatcher, clock: Clock
) -> None:
    with somebody_who_draws(served, dispatcher):
        answer = guarded.post(
            GENERATE, json=ORDER | {"response_format": "url"}, headers={"Authorization": "Bearer first-client"}
        )
    url = answer.json["data"][0]["url"]
    folder = url.rpartition("/")[0]

    assert guarded.get(url).status_code == 200
    for name in ("x", f"{newest(fleet).images[0].id}.png", f"{fleet.vault.seal('webhook x 99999999999')}.png"):
        forged = guarded.get(f"{folder}/{name}")
        assert (forged.status_code, forged.json["error"]["code"]) == (404, "image_not_found"), name
    clock.advance(timedelta(minutes=60).total_seconds())
    late = guarded.get(url)
    assert late.status_code == 404
    assert "hold for 60 minutes" in late.json["error"]["message"]


def test_who_prefers_not_to_wait_is_told_where_to_ask(client: Client, served: Fleet) -> None:
    answer = client.post(GENERATE, json=ORDER, headers=NOT_WAITING)

    job = newest(served)
    assert answer.status_code == 202
    assert answer.json == {
        "created": int(MONDAY.timestamp()),
        "data": [],
        "background": "opaque",
        "output_format": "png",
        "usage": USAGE,
        "job_id": str(job.id),
    }
    assert client.get(answer.headers["Location"]).json["job_id"] == str(job.id)
    assert answer.headers["Preference-Applied"] == "respond-async"


def test_a_mask_of_theirs_becomes_one_of_ours(client: Client, served: Fleet) -> None:
    mask = Image.new("RGBA", (16, 8), (255, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 4, 8))
    mask.paste((0, 0, 0, 1), (8, 0, 16, 8))  # nearly transparent is not transparent
    form = {
        "model": MODEL, "prompt": "a hat", "n": "2", "seed": "5", "guidance_scale": "2.5", "output_format": "webp",
        "image": a_file(Image.new("RGB", (16, 8), "red")), "mask": a_file(mask),
    }  # fmt: skip

    answer = send(client, EDIT, form)

    assert answer.status_code == 202, answer.text
    spec = newest(served).spec
    assert (spec["prompt"], spec["n"], spec["seed"], spec["guidance_scale"]) == ("a hat", 2, 5, 2.5)
    assert (spec["strength"], spec["mask"]["blur"], spec["mask"]["only_masked"]) == (1.0, 0, False)
    with served.reading() as session:
        kept = Image.open(io.BytesIO(inputs.read(served, inputs.get(session, spec["mask"]["image"]))))
    assert kept.mode == "L"
    assert [kept.getpixel((x, 0)) for x in (0, 3, 4, 8, 15)] == [255, 255, 0, 0, 0]


@pytest.mark.parametrize("path", [GENERATE, EDIT])
def test_a_key_makes_one_order_of_two_and_its_second_use_for_another_is_refused(
    client: Client, served: Fleet, path: str
) -> None:
    def ask(prompt: str) -> Any:
        headers = NOT_WAITING | {"Idempotency-Key": "mine"}
        if path == GENERATE:
            return client.post(path, json=ORDER | {"prompt": prompt}, headers=headers)
        return send(client, path, {"prompt": prompt, "image": a_file(Image.new("RGB", (8, 8), "red"))}, headers)

    first, again, other = ask("a"), ask("a"), ask("b")

    assert first.json["job_id"] == again.json["job_id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (other.status_code, other.json["error"]["code"]) == (409, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("state", "status", "code"), [(JobState.ERROR, 500, "a_code"), (JobState.CANCELLED, 409, "a_code")]
)
def test_a_job_without_pictures_says_why_and_its_client_does_not_try_again(
    client: Client, served: Fleet, dispatcher: RecordingDispatcher, state: JobState, status: int, code: str
) -> None:
    headers = NOT_WAITING | {"Idempotency-Key": "mine"}
    client.post(GENERATE, json=ORDER, headers=headers)
    job = newest(served)
    with served.transaction() as tx:
        jobs.end(tx, jobs.locked(tx.session, job.id), state, "a_code", "the reason")

    answer = client.post(GENERATE, json=ORDER, headers=headers)

    assert (answer.status_code, answer.headers["X-Should-Retry"]) == (status, "false")
    assert (answer.json["error"]["code"], answer.json["error"]["job_id"]) == (code, str(job.id))
    assert "the reason" in answer.json["error"]["message"]


def test_models_are_listed_with_those_first_that_are_ready(client: Client, fleet: Fleet) -> None:
    for model_id in ("a-first", "b-second"):
        a_model(fleet, model_id)
    a_model(fleet, "a-lora", kind="lora")
    a_machine(fleet, ready_for=["b-second"])

    answer = client.get("/openai/v1/models")

    shown = [
        {"id": model_id, "object": "model", "created": int(MONDAY.timestamp()), "owned_by": "imagefleet"}
        for model_id in ("b-second", "a-first")
    ]
    assert answer.json == {"object": "list", "data": shown}
    assert client.get("/openai/v1/models/a-first").json == shown[1]
