"""`Prefer: wait=N`: the same in every dialect whose clients may wait."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from app.api.application import make_application
from app.api.waiting import open_room
from app.core import images
from app.core.fleet import Fleet, Limits
from app.core.lifecycle import JobState
from app.core.tables import Job
from app.settings import Settings
from tests.builders import MODEL, a_job, a_machine, a_model, an_upload, claim, finish
from tests.support.processes import wait_until
from tests.support.web import Client, client_of

ORDER = {"model_id": MODEL, "prompt": "a red circle"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def stocked(client: Client, fleet: Fleet) -> Client:
    """Return a client of a server with a model and a machine."""
    a_machine(fleet, ready_for=[MODEL])
    a_model(fleet)
    return client


@contextmanager
def drawing(fleet: Fleet, count: int = 1) -> Iterator[None]:
    """Draw the next jobs that come while the block runs."""

    def waiting() -> list[Job]:
        with fleet.reading() as session:
            return session.query(Job).filter(Job.state == JobState.QUEUED).all()

    def draw() -> None:
        wait_until(lambda: len(waiting()) >= count, "the orders come")
        for job in waiting():
            claim(fleet, job.id)
            images.receive(fleet, an_upload(job))
            finish(fleet, job)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def asking(client: Client, path: str, body: dict[str, Any]) -> Callable[[str], Any]:
    return lambda prefer: client.post(path, json=body, headers={"Prefer": prefer})


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/jobs", ORDER, "completed"),
        ("/api/generate", ORDER, "COMPLETED"),
    ],
)
def test_an_order_that_is_waited_for_is_answered_with_its_pictures(
    stocked: Client, fleet: Fleet, path: str, body: dict[str, Any], status: str
) -> None:
    with drawing(fleet):
        answer = asking(stocked, path, body)("wait=60")

    assert (answer.status_code, answer.json["status"]) == (200, status)
    assert len(answer.json["images"]) == 1
    assert answer.headers["Preference-Applied"] == "wait=60"
    assert stocked.get(answer.headers["Location"]).json["status"] == status


def test_a_list_is_waited_for_as_a_whole(stocked: Client, fleet: Fleet) -> None:
    body = {"model_id": MODEL, "prompts": ["one", "two"]}

    with drawing(fleet, 2):
        answer = asking(stocked, "/v1/jobs", body)("wait=60")

    assert answer.status_code == 200
    assert [job["status"] for job in answer.json["jobs"]] == ["completed", "completed"]


@pytest.mark.parametrize(("path", "body"), [("/v1/jobs", ORDER), ("/api/generate", ORDER)])
@pytest.mark.parametrize(
    ("prefer", "applied"), [("wait=1", "wait=1"), ("respond-async", None), ("wait=soon", None), ("", None)]
)
def test_what_does_not_end_in_time_is_202_with_its_address(
    stocked: Client, path: str, body: dict[str, Any], prefer: str, applied: str | None
) -> None:
    answer = asking(stocked, path, body)(prefer)

    assert answer.status_code == 202
    assert answer.headers.get("Preference-Applied") == applied
    assert stocked.get(answer.headers["Location"]).status_code == 200


def test_a_question_may_wait_too(stocked: Client, fleet: Fleet) -> None:
    job = a_job(fleet)

    with drawing(fleet):
        answer = stocked.get(f"/v1/jobs/{job.id}", headers={"Prefer": "wait=60"})

    assert (answer.status_code, answer.json["status"]) == (200, "completed")
    assert answer.headers["Preference-Applied"] == "wait=60"


def test_an_unknown_job_is_not_waited_for(client: Client) -> None:
    answer = client.get("/v1/jobs/00000000-0000-0000-0000-000000000007", headers={"Prefer": "wait=60"})

    assert answer.status_code == 404


def test_where_every_seat_is_taken_an_order_is_kept_and_answered_at_once(stocked: Client, application: Flask) -> None:
    open_room(application, 1)
    with application.app_context(), application.extensions["imagefleet.waiting"].seat():
        answer = asking(stocked, "/v1/jobs", ORDER)("wait=60")

    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


def test_an_order_that_no_machine_serves_says_when_to_try_again(fleet: Fleet, settings: Settings) -> None:
    a_model(fleet)
    strict = client_of(make_application(replace(fleet, limits=Limits(reject_unserved=True)), settings))

    for path in ("/v1/jobs", "/api/generate"):
        answer = strict.post(path, json=ORDER)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30"), path
