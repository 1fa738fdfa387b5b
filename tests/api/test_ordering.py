"""What a client may say about an order: how urgent it is, that it is to be tried again, that it is many."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.api.application import make_application
from app.core.dispatch import Message
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.spec import shown
from app.settings import Settings
from app.vault import FernetVault
from tests.builders import (
    MODEL,
    a_completed_job,
    a_job,
    a_machine,
    a_model,
    a_running_job,
    claim,
    finish,
    the_job,
)
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.web import Client, client_of

ORDER: Mapping[str, Any] = {"model_id": MODEL, "prompt": "a red circle"}


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


@pytest.mark.parametrize("priority", [-1, 10, 1.5, "9", True])
def test_a_wrong_priority_is_refused(stocked: Client, priority: Any) -> None:
    assert "priority" in post(stocked, {**ORDER, "priority": priority}, 422).json["error"]["fields"]


def test_the_higher_priority_is_drawn_first(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    a_machine(fleet, ready_for=[MODEL])
    made = {}
    for priority in (0, 9, 4):
        made[priority] = post(stocked, {**ORDER, "priority": priority}).json
        clock.advance(1)

    begun = [claim(fleet, UUID(made[0]["job_id"])) for _ in made]

    assert [job["priority"] for job in made.values()] == [0, 9, 4]
    assert [str(attempt and attempt.job_id) for attempt in begun] == [made[p]["job_id"] for p in (9, 4, 0)]


def test_an_ended_job_is_ordered_again_and_names_its_origin(client: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet, seed=7, n=2, steps=3, priority=5)

    answer = client.post(f"/v1/jobs/{job.id}/retry")

    assert answer.status_code == 202
    body = answer.json
    assert (body["retry_of"], body["status"], body["priority"]) == (str(job.id), "queued", 5)
    assert body["parameters"] == shown(job.spec)
    assert client.get(answer.headers["Location"]).json["retry_of"] == str(job.id)
    assert the_job(fleet, job.id).state == JobState.COMPLETED


def test_ordered_again_a_job_takes_new_terms(client: Client, fleet: Fleet) -> None:
    job = a_completed_job(fleet, seed=7, priority=5)

    body = client.post(f"/v1/jobs/{job.id}/retry", json={"new_seed": True, "priority": 0, "expires_in": 60}).json

    assert body["priority"] == 0
    assert body["parameters"]["seed"] != 7
    assert body["deadline"] is not None


@pytest.mark.parametrize("state", ["queued", "processing"])
def test_a_job_that_has_not_ended_is_not_ordered_again(client: Client, fleet: Fleet, state: str) -> None:
    job = a_job(fleet) if state == "queued" else a_running_job(fleet)

    answer = client.post(f"/v1/jobs/{job.id}/retry")

    assert (answer.status_code, answer.json["error"]["code"]) == (409, "job_not_ended")
    assert answer.json["error"]["state"] == state
    assert len(ids_of(client)) == 1


@pytest.mark.parametrize("end", ["cancelled", "error"])
def test_what_failed_or_was_cancelled_may_be_ordered_again(client: Client, fleet: Fleet, end: str) -> None:
    job = a_running_job(fleet)
    if end == "error":
        finish(fleet, job, AttemptState.ERROR, error_code="cannot_draw", permanent=True)
    else:
        client.post(f"/v1/jobs/{job.id}/cancel")

    assert client.post(f"/v1/jobs/{job.id}/retry").json["retry_of"] == str(job.id)


def test_retrying_what_is_not_there_is_404(client: Client) -> None:
    assert client.post(f"/v1/jobs/{uuid4()}/retry").json["error"]["code"] == "job_not_found"


@pytest.mark.parametrize("wrong", [{"new_seed": "maybe"}, {"priority": 10}, {"seed": 5}, []])
def test_a_wrong_retry_is_refused(client: Client, fleet: Fleet, wrong: Any) -> None:
    job = a_completed_job(fleet)

    assert client.post(f"/v1/jobs/{job.id}/retry", json=wrong).status_code == 422


def test_a_retry_goes_where_the_old_job_was_told_and_nobody_elses(
    fleet: Fleet, settings: Settings, tmp_path: Path
) -> None:
    a_model(fleet)
    tokens = replace(settings, api_tokens=("first-client", "second-client"), machine_token="a-machine")
    guarded = client_of(make_application(replace(fleet, vault=FernetVault("", tmp_path / "secret.key")), tokens))
    mine, other = ({"Authorization": f"Bearer {token}"} for token in ("first-client", "second-client"))
    hooked = {**ORDER, "webhook": {"url": "https://example.org/told", "secret": "s3cret"}}
    job_id = post(guarded, hooked, headers=mine).json["job_id"]
    guarded.post(f"/v1/jobs/{job_id}/cancel", headers=mine)

    def told_of(headers: Mapping[str, str]) -> Any:
        again = guarded.post(f"/v1/jobs/{job_id}/retry", headers=headers)
        return guarded.get(f"/v1/jobs/{again.json['job_id']}/deliveries", headers=headers).json["url"]

    assert told_of(mine) == "https://example.org/told"
    assert told_of(other) is None


def test_a_list_of_prompts_is_one_request(stocked: Client, fleet: Fleet, dispatcher: RecordingDispatcher) -> None:
    prompts = [f"circle {number}" for number in range(12)]

    answer = post(stocked, {"model_id": MODEL, "prompts": prompts, "n": 2, "priority": 3})

    made, batch_id = answer.json["jobs"], answer.json["batch_id"]
    assert [job["parameters"]["prompt"] for job in made] == prompts
    assert {(job["batch_id"], job["parameters"]["n"], job["priority"]) for job in made} == {(batch_id, 2, 3)}
    assert [m.job_id for m in dispatcher.sent] == [UUID(job["job_id"]) for job in made]
    assert isinstance(dispatcher.sent[0], Message)
    listed = stocked.get(answer.headers["Location"]).json["jobs"]
    assert [job["job_id"] for job in listed] == [job["job_id"] for job in reversed(made)]


def test_the_prompts_of_a_list_are_drawn_in_their_order(stocked: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL])
    made = post(stocked, {"model_id": MODEL, "prompts": ["a", "b", "c", "d", "e"]}).json["jobs"]

    begun = [claim(fleet, UUID(made[0]["job_id"])) for _ in made]

    assert [str(attempt and attempt.job_id) for attempt in begun] == [job["job_id"] for job in made]


def test_a_seed_is_the_same_for_all_prompts_and_without_one_each_has_its_own(stocked: Client) -> None:
    given, left_out = (
        post(stocked, {"model_id": MODEL, "prompts": ["a", "b", "c"], **more}).json["jobs"]
        for more in ({"seed": 7}, {})
    )

    assert [job["parameters"]["seed"] for job in given] == [7, 7, 7]
    assert len({job["parameters"]["seed"] for job in left_out}) == 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a", ""]}, "prompts"),
        ({"prompts": ["a", 5]}, "prompts"),
        ({"prompts": "a"}, "prompts"),
        ({"prompts": ["a"], "prompt": "b"}, "either"),
        ({"prompts": ["a"] * 101}, "100"),
        ({"prompts": ["a", "b" * 10_001]}, "10000"),
        ({"prompts": ["a", "b"], "width": 13}, "width"),
    ],
)
def test_of_a_wrong_list_nothing_is_kept(
    stocked: Client, dispatcher: RecordingDispatcher, wrong: dict[str, Any], told: str
) -> None:
    answer = post(stocked, {"model_id": MODEL, **wrong}, 422)

    assert told in str(answer.json["error"])
    assert ids_of(stocked) == []
    assert dispatcher.sent == []


def test_an_order_of_one_belongs_to_no_list(stocked: Client) -> None:
    assert post(stocked, ORDER).json["batch_id"] is None
