"""A job that has not begun by its deadline is cancelled, and nobody is told otherwise before."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.lifecycle import AttemptState, JobState
from tasks.control.sweep import sweep
from tests.builders import (
    MODEL,
    a_job,
    a_machine,
    a_model,
    claim,
    finish,
    the_job,
)
from tests.support.fakes import Clock
from tests.support.web import Client

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


def test_a_job_that_has_not_begun_by_its_deadline_is_cancelled_and_says_so(
    stocked: Client, fleet: Fleet, clock: Clock
) -> None:
    a_machine(fleet, ready_for=[MODEL])
    job_id = post(stocked, {**ORDER, "expires_in": 60}).json["job_id"]
    clock.advance(59)
    sweep(fleet)
    assert stocked.get(f"/v1/jobs/{job_id}").json["status"] == "queued"

    clock.advance(1)
    sweep(fleet)

    job = the_job(fleet, UUID(job_id))
    assert (job.state, job.error_code) == (JobState.CANCELLED, "deadline_passed")
    assert "had not begun by" in str(job.error)


@pytest.mark.parametrize("look", ["show", "list", "replay", "retry"])
def test_nobody_is_told_that_an_overdue_job_still_waits(stocked: Client, fleet: Fleet, clock: Clock, look: str) -> None:
    body = {**ORDER, "expires_in": 0.5}
    job_id = post(stocked, body, headers=KEY).json["job_id"]
    clock.advance(1)

    seen = {
        "show": lambda: stocked.get(f"/v1/jobs/{job_id}").json,
        "list": lambda: stocked.get("/v1/jobs").json["jobs"][0],
        "replay": lambda: post(stocked, body, headers=KEY).json,
        "retry": lambda: stocked.post(f"/v1/jobs/{job_id}/retry").json and stocked.get(f"/v1/jobs/{job_id}").json,
    }[look]()

    assert (seen["status"], seen["error"]["code"]) == ("cancelled", "deadline_passed")
    assert the_job(fleet, UUID(job_id)).state == JobState.CANCELLED


def test_a_list_of_what_waits_leaves_out_what_is_overdue(stocked: Client, clock: Clock) -> None:
    for _ in range(3):
        post(stocked, {**ORDER, "expires_in": 1})
    waiting = post(stocked, ORDER).json["job_id"]
    for _ in range(3):
        post(stocked, {**ORDER, "expires_in": 1})
    clock.advance(2)

    found = stocked.get("/v1/jobs?status=queued&limit=1").json["jobs"]

    assert [job["job_id"] for job in found] == [waiting]
    assert [job["job_id"] for job in stocked.get("/v1/jobs?status=queued").json["jobs"]] == [waiting]
    assert len(stocked.get("/v1/jobs?status=cancelled").json["jobs"]) == 6


def test_an_overdue_job_never_starts(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    job_id = UUID(post(stocked, {**ORDER, "expires_in": 5}).json["job_id"])
    a_machine(fleet, ready_for=[MODEL])
    clock.advance(5)

    assert claim(fleet, job_id) is None


def test_a_job_that_began_in_time_keeps_its_deadline_though_it_is_lost_later(fleet: Fleet, clock: Clock) -> None:
    a_model(fleet)
    a_machine(fleet, ready_for=[MODEL])

    job = a_job(fleet, terms=Terms(deadline_at=clock.now + timedelta(seconds=5)))
    assert claim(fleet, job.id) is not None
    clock.advance(6)
    finish(fleet, job, AttemptState.LOST)
    sweep(fleet)

    assert the_job(fleet, job.id).state == JobState.QUEUED
    assert claim(fleet, job.id) is not None


def test_a_deadline_is_a_moment_with_its_zone_and_shown_in_utc(stocked: Client, clock: Clock) -> None:
    deadline = (clock.now + timedelta(hours=1)).isoformat().replace("+00:00", "Z")

    job = post(stocked, {**ORDER, "deadline": deadline}).json
    relative = post(stocked, {**ORDER, "expires_in": 1.5}).json

    assert job["deadline"] == (clock.now + timedelta(hours=1)).isoformat()
    assert relative["deadline"] == (clock.now + timedelta(seconds=1.5)).isoformat()
    assert post(stocked, ORDER).json["deadline"] is None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": -1}, "expires_in"),
        ({"expires_in": "soon"}, "expires_in"),
        ({"expires_in": 1e300}, "expires_in"),
        ({"expires_in": float("nan")}, "expires_in"),
        ({"deadline": "2026-01-05T11:59:59Z"}, "passed"),
        ({"deadline": "2026-01-05T12:00:00Z"}, "passed"),
        ({"deadline": "2030-01-05T12:00:00"}, "deadline"),
        ({"deadline": "9999-12-31T23:59:59-12:00"}, "deadline"),
        ({"deadline": "0001-01-01T00:00:00+12:00"}, "passed"),
        ({"deadline": 5}, "deadline"),
        ({"deadline": "2026-01-05T13:00:00Z", "expires_in": 5}, "either"),
    ],
)
def test_a_wrong_deadline_is_refused(stocked: Client, wrong: dict[str, Any], told: str) -> None:
    answer = post(stocked, {**ORDER, **wrong}, 422)

    assert told in str(answer.json["error"])
    assert ids_of(stocked) == []


def test_an_order_comes_again_after_its_deadline_too(stocked: Client, clock: Clock) -> None:
    body = {**ORDER, "deadline": (clock.now + timedelta(minutes=1)).isoformat()}
    first = post(stocked, body, headers=KEY).json["job_id"]
    clock.advance(120)

    assert post(stocked, body, headers=KEY).json["job_id"] == first
