"""A client that sends the same request again gets the same jobs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from app.api.application import make_application
from app.core import images
from app.core.fleet import Fleet
from app.core.idempotency import KEPT, forget_old
from app.settings import Settings
from tests.builders import (
    MODEL,
    a_completed_job,
    a_machine,
    a_model,
    an_upload,
    claim,
    finish,
    the_job,
)
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.web import Client, client_of

ORDER: Mapping[str, Any] = {"model_id": MODEL, "prompt": "a red circle"}
KEY = {"Idempotency-Key": "one-of-a-kind"}


@pytest.fixture
def stocked(client: Client, fleet: Fleet) -> Client:
    """Return a client of a server with one model."""
    a_model(fleet)
    return client


def post(client: Client, body: Mapping[str, Any], status: int = 202, **more: Any) -> Any:
    answer = client.post("/v1/jobs", json=body, **more)
    assert answer.status_code == status, answer.text
    return answer


def ids_of(client: Client) -> list[str]:
    return [job["job_id"] for job in client.get("/v1/jobs").json["jobs"]]


def test_the_same_request_again_answers_with_the_same_job(stocked: Client, dispatcher: RecordingDispatcher) -> None:
    first = post(stocked, ORDER, headers=KEY)

    second = post(stocked, dict(reversed(list(ORDER.items()))), headers=KEY)

    assert second.json == first.json
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert ids_of(stocked) == [first.json["job_id"]]
    assert len(dispatcher.sent) == 1


def test_a_repeated_request_shows_the_job_as_it_is_now(stocked: Client, fleet: Fleet) -> None:
    job_id = post(stocked, ORDER, headers=KEY).json["job_id"]
    stocked.post(f"/v1/jobs/{job_id}/cancel")

    again = post(stocked, ORDER, headers=KEY).json

    assert (again["job_id"], again["status"]) == (job_id, "cancelled")


@pytest.mark.parametrize("change", [{"prompt": "a blue circle"}, {"n": 2}, {"priority": 1}, {"expires_in": 60}])
def test_another_request_under_the_same_key_is_refused(stocked: Client, change: dict[str, Any]) -> None:
    first = post(stocked, ORDER, headers=KEY)

    answer = post(stocked, {**ORDER, **change}, 409, headers=KEY)

    assert answer.json["error"]["code"] == "idempotency_key_reused"
    assert "one-of-a-kind" in answer.json["error"]["message"]
    assert ids_of(stocked) == [first.json["job_id"]]


def test_another_key_or_none_makes_another_job(stocked: Client) -> None:
    made = [post(stocked, ORDER, headers=headers) for headers in (KEY, {"Idempotency-Key": "another"}, {}, {})]

    assert len({answer.json["job_id"] for answer in made}) == 4


@pytest.mark.parametrize("key", ["", " ", "a b", "ü", "a" * 256, "a\tb"])
def test_a_key_that_is_none_is_refused(stocked: Client, key: str) -> None:
    answer = stocked.post("/v1/jobs", json=ORDER, headers=[("Idempotency-Key", key)])

    assert (answer.status_code, answer.json["error"]["code"]) == (422, "invalid_idempotency_key")
    assert ids_of(stocked) == []


def test_the_longest_key_is_taken(stocked: Client) -> None:
    headers = {"Idempotency-Key": "~" * 255}

    assert post(stocked, ORDER, headers=headers).json == post(stocked, ORDER, headers=headers).json


def test_a_request_that_failed_may_be_sent_again_under_its_key(client: Client, fleet: Fleet) -> None:
    post(client, ORDER, 404, headers=KEY)
    a_model(fleet)

    answer = post(client, ORDER, headers=KEY)

    assert "Idempotent-Replayed" not in answer.headers


def test_the_keys_of_two_clients_are_not_each_others_business(guarded: Client, fleet: Fleet) -> None:
    a_model(fleet)
    first, second = (KEY | {"Authorization": f"Bearer {token}"} for token in ("first-client", "second-client"))

    mine = post(guarded, ORDER, headers=first).json["job_id"]
    other = post(guarded, {**ORDER, "n": 2}, headers=second).json["job_id"]

    assert mine != other
    assert post(guarded, ORDER, headers=first).json["job_id"] == mine


def test_a_key_is_forgotten_after_a_day(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    first = post(stocked, ORDER, headers=KEY).json["job_id"]
    clock.advance(KEPT.total_seconds() - 1)
    still = post(stocked, ORDER, headers=KEY).json["job_id"]
    clock.advance(2)

    later = post(stocked, {**ORDER, "n": 2}, headers=KEY).json["job_id"]

    assert still == first != later
    with fleet.transaction() as tx:
        assert forget_old(tx) == 0
    clock.advance(KEPT.total_seconds())
    with fleet.transaction() as tx:
        assert forget_old(tx) == 1


def test_a_list_comes_again_whole(stocked: Client) -> None:
    body = {"model_id": MODEL, "prompts": ["one", "two"]}

    first, second = (post(stocked, body, headers=KEY) for _ in range(2))

    assert second.json == first.json
    assert len(ids_of(stocked)) == 2


def test_a_retry_comes_again_as_the_same_job(client: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet)

    first, second = (client.post(f"/v1/jobs/{job.id}/retry", headers=KEY) for _ in range(2))
    other = client.post(f"/v1/jobs/{job.id}/retry", json={"new_seed": True}, headers=KEY)

    assert (first.status_code, second.status_code, other.status_code) == (202, 202, 409)
    assert first.json["job_id"] == second.json["job_id"] != str(job.id)


def test_one_key_is_for_one_route(client: Client, fleet: Fleet) -> None:
    one, other = (a_completed_job(fleet).id for _ in range(2))

    answers = [client.post(f"/v1/jobs/{job_id}/retry", json={}, headers=KEY) for job_id in (one, other)]

    assert [answer.status_code for answer in answers] == [202, 409]


def test_a_repeated_key_of_an_automatic1111_client_waits_for_the_same_pictures(
    stocked: Client, fleet: Fleet, settings: Settings
) -> None:
    impatient = client_of(make_application(fleet, replace(settings, a1111_wait_seconds=1)))
    a_machine(fleet, ready_for=[MODEL])
    body = {"prompt": "a red circle", "seed": 7}
    path = "/a1111/sdapi/v1/txt2img"

    first = impatient.post(path, json=body, headers=KEY)
    (job_id,) = ids_of(impatient)
    draw(fleet, UUID(job_id))
    second = impatient.post(path, json=body, headers=KEY)
    other = impatient.post(path, json=body | {"seed": 8}, headers=KEY)

    assert first.status_code == 504
    assert (second.status_code, second.headers["Idempotent-Replayed"], len(second.json["images"])) == (200, "true", 1)
    assert ids_of(impatient) == [job_id]
    assert (other.status_code, set(other.json)) == (409, {"error", "detail", "body", "errors"})


def draw(fleet: Fleet, job_id: UUID) -> None:
    """Let a machine draw a job."""
    assert claim(fleet, job_id) is not None
    job = the_job(fleet, job_id)
    images.receive(fleet, an_upload(job))
    finish(fleet, job)
