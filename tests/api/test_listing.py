"""Listing jobs by pages, and cancelling several at once."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.core.fleet import Fleet
from app.core.lifecycle import JobState
from app.core.live import Progress
from tests.builders import MODEL, a_completed_job, a_job, a_machine, a_model, a_running_job, claim, the_job
from tests.support.fakes import Clock
from tests.support.web import Client


def pages(client: Client, **query: Any) -> Iterator[list[str]]:
    """Read a listing page by page, as a client does."""
    cursor = None
    while True:
        more: dict[str, str] = {"cursor": cursor} if cursor else {}
        answer = client.get("/v1/jobs", query_string={**query, **more})
        assert answer.status_code == 200, answer.text
        yield [job["job_id"] for job in answer.json["jobs"]]
        cursor = answer.json["next"]
        if cursor is None:
            return


def flat(client: Client, **query: Any) -> list[str]:
    return [job_id for page in pages(client, **query) for job_id in page]


def test_paging_skips_and_repeats_nothing_among_jobs_of_the_same_moment(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    made = []
    for _ in range(4):
        made += [str(a_job(fleet).id) for _ in range(5)]
        clock.advance(0.000001)

    found = list(pages(client, limit=3))

    assert [len(page) for page in found] == [3, 3, 3, 3, 3, 3, 2]
    assert sorted(job_id for page in found for job_id in page) == sorted(made)
    assert {frozenset(flat(client)[k : k + 5]) for k in (0, 5, 10, 15)} == {
        frozenset(made[k : k + 5]) for k in (0, 5, 10, 15)
    }


def test_jobs_that_come_while_somebody_reads_change_nothing_behind(client: Client, fleet: Fleet, clock: Clock) -> None:
    made = []
    for _ in range(6):
        made.append(str(a_job(fleet).id))
        clock.advance(1)

    found = []
    for page in pages(client, limit=2):
        found += page
        a_job(fleet)
        clock.advance(1)

    assert found == made[::-1]


def test_a_full_last_page_has_no_next(client: Client, fleet: Fleet) -> None:
    for _ in range(4):
        a_job(fleet)

    assert [len(page) for page in pages(client, limit=2)] == [2, 2]
    assert client.get("/v1/jobs?limit=4").json["next"] is None


def test_several_states_are_listed_at_once(client: Client, fleet: Fleet) -> None:
    completed, running = a_completed_job(fleet), a_running_job(fleet)
    queued = a_job(fleet)

    assert set(flat(client, status="queued,processing")) == {str(queued.id), str(running.id)}
    assert flat(client, status="completed") == [str(completed.id)]


def test_the_cursor_keeps_to_the_filters(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "other")
    mine = [str(a_job(fleet).id) for _ in range(5)]
    for _ in range(5):
        a_job(fleet, model_id="other")

    assert sorted(flat(client, model_id=MODEL, status="queued", limit=2)) == sorted(mine)


@pytest.mark.parametrize("cursor", ["x", "", "====", "bm90IGEgY3Vyc29y", "MjAyNi0wMS0wMQ==", "é", "a" * 5000])
def test_a_cursor_of_somebody_elses_making_is_422(client: Client, cursor: str) -> None:
    answer = client.get("/v1/jobs", query_string={"cursor": cursor})

    assert answer.status_code == 422
    assert "cursor" in answer.json["error"]["fields"]


@pytest.mark.parametrize("query", ["status=queued,done", "batch_id=5", "status="])
def test_a_wrong_filter_is_422(client: Client, query: str) -> None:
    assert client.get(f"/v1/jobs?{query}").status_code == 422


def test_every_client_sees_all_jobs(guarded: Client, fleet: Fleet) -> None:
    a_model(fleet)
    first, second = ({"Authorization": f"Bearer {token}"} for token in ("first-client", "second-client"))
    order = {"model_id": MODEL, "prompt": "a red circle"}
    job_id = guarded.post("/v1/jobs", json=order, headers=first).json["job_id"]

    assert [job["job_id"] for job in guarded.get("/v1/jobs", headers=second).json["jobs"]] == [job_id]


def test_a_cancelled_job_is_gone_at_once_and_its_bell_is_refused(client: Client, fleet: Fleet) -> None:
    job, other = a_job(fleet), a_job(fleet)
    a_machine(fleet, ready_for=[MODEL])

    answer = client.post(f"/v1/jobs/{job.id}/cancel")

    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    begun = claim(fleet, job.id)
    assert begun is None or begun.job_id == other.id
    assert claim(fleet, job.id) is None
    assert the_job(fleet, job.id).attempts == []


def test_several_jobs_are_cancelled_and_each_says_what_became_of_it(client: Client, fleet: Fleet) -> None:
    completed, running, queued, unknown = a_completed_job(fleet), a_running_job(fleet), a_job(fleet), uuid4()
    wanted = [str(job_id) for job_id in (completed.id, queued.id, unknown, running.id, queued.id)]

    answer = client.post("/v1/jobs/cancel", json={"job_ids": wanted})

    assert answer.status_code == 200
    told = answer.json["jobs"]
    assert [(job["job_id"], job["cancelled"], job["status"]) for job in told] == [
        (str(completed.id), False, "completed"),
        (str(queued.id), True, "cancelled"),
        (str(unknown), False, None),
        (str(running.id), True, "cancelled"),
    ]
    assert [job["error"] and job["error"]["code"] for job in told] == ["job_ended", None, "job_not_found", None]
    assert fleet.live.report(running.id, Progress(1, "denoising")) is True
    assert the_job(fleet, completed.id).state == JobState.COMPLETED


def test_cancelled_twice_is_told_the_second_time(client: Client, fleet: Fleet) -> None:
    body = {"job_ids": [str(a_job(fleet).id)]}

    first, second = (client.post("/v1/jobs/cancel", json=body).json["jobs"][0] for _ in range(2))

    assert (first["cancelled"], first["status"]) == (True, "cancelled")
    assert (second["cancelled"], second["status"], second["error"]["code"]) == (False, "cancelled", "job_ended")


def test_a_batch_is_cancelled_by_its_id(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    made = client.post("/v1/jobs", json={"model_id": MODEL, "prompts": ["a", "b", "c"]}).json
    other = a_job(fleet)

    answer = client.post("/v1/jobs/cancel", json={"batch_id": made["batch_id"]}).json["jobs"]

    assert [(job["job_id"], job["cancelled"]) for job in answer] == [(job["job_id"], True) for job in made["jobs"]]
    of_batch = flat(client, batch_id=made["batch_id"], status="cancelled")
    assert of_batch == [job["job_id"] for job in reversed(made["jobs"])]
    assert the_job(fleet, other.id).state == JobState.QUEUED


def test_an_unknown_batch_is_404(client: Client) -> None:
    answer = client.post("/v1/jobs/cancel", json={"batch_id": str(uuid4())})

    assert (answer.status_code, answer.json["error"]["code"]) == (404, "job_not_found")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"job_ids": []},
        {"job_ids": ["x"]},
        {"job_ids": [str(UUID(int=k)) for k in range(1001)]},
        {"job_ids": [str(UUID(int=1))], "batch_id": str(UUID(int=1))},
        {"job_ids": None},
        [],
    ],
)
def test_a_wrong_wish_to_cancel_is_422(client: Client, wrong: Any) -> None:
    assert client.post("/v1/jobs/cancel", json=wrong).status_code == 422
