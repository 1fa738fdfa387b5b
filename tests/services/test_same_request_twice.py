"""Two requests that are one: sent at the same moment under one key, they make one job, on real databases."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import Engine, func, select

from app.api.application import make_application
from app.core import idempotency, jobs
from app.core.errors import JobEnded, ModelNotFound
from app.core.fleet import Fleet
from app.core.idempotency import Request
from app.core.lifecycle import JobState
from app.core.spec import GenerationSpec
from app.core.tables import IdempotencyKey, Job
from app.settings import Settings
from tests.builders import MODEL, a_job, a_model, the_job
from tests.support.web import client_of

RIVALS = 4


@pytest.fixture
def tries(engine: Engine) -> int:
    """Return how often a race is run: SQLite has one writer at a time and syncs each commit to the disk."""
    return 100 if engine.dialect.name == "postgresql" else 20


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    """Return threads that race."""
    with ThreadPoolExecutor(RIVALS) as pool:
        yield pool


@pytest.fixture
def server(fleet: Fleet, settings: Settings) -> Flask:
    """Return an application with one model."""
    a_model(fleet)
    return make_application(fleet, settings)


def post_together(crowd: ThreadPoolExecutor, app: Flask, bodies: list[dict[str, Any]]) -> list[Any]:
    """Send requests at the same moment, under one key that nobody has used before."""
    barrier = threading.Barrier(len(bodies))
    headers = {"Idempotency-Key": str(uuid4())}

    def send(body: dict[str, Any]) -> Any:
        client = client_of(app)
        barrier.wait()
        return client.post("/v1/jobs", json=body, headers=headers)

    return list(crowd.map(send, bodies))


def count_of_jobs(fleet: Fleet) -> int:
    with fleet.reading() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def test_of_identical_requests_at_the_same_moment_one_makes_the_job(
    fleet: Fleet, server: Flask, crowd: ThreadPoolExecutor, tries: int
) -> None:
    body = {"model_id": MODEL, "prompt": "a red circle"}

    for number in range(tries):
        answers = post_together(crowd, server, [body] * RIVALS)

        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json["job_id"] for answer in answers}) == 1
        assert sorted(answer.headers.get("Idempotent-Replayed", "") for answer in answers) == ["", *["true"] * 3]
        assert count_of_jobs(fleet) == number + 1


def test_of_different_requests_under_one_key_one_is_taken_and_the_others_are_told(
    fleet: Fleet, server: Flask, crowd: ThreadPoolExecutor, tries: int
) -> None:
    bodies: list[dict[str, Any]] = [{"model_id": MODEL, "prompt": f"circle {number}"} for number in range(RIVALS)]

    for number in range(tries // 4):
        answers = post_together(crowd, server, bodies)

        assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]
        assert count_of_jobs(fleet) == number + 1


def test_a_list_is_made_once_and_whole(fleet: Fleet, server: Flask, crowd: ThreadPoolExecutor, tries: int) -> None:
    body = {"model_id": MODEL, "prompts": ["a", "b", "c"]}

    for number in range(tries // 8):
        answers = post_together(crowd, server, [body] * RIVALS)

        assert len({str(answer.json) for answer in answers}) == 1
        assert count_of_jobs(fleet) == 3 * (number + 1)


def test_when_the_first_fails_the_second_makes_the_job(fleet: Fleet, crowd: ThreadPoolExecutor, tries: int) -> None:
    a_model(fleet)

    for _ in range(tries // 4):
        barrier, request = threading.Barrier(2), Request("", str(uuid4()), "f")

        def order(model_id: str, barrier: threading.Barrier = barrier, request: Request = request) -> str:
            spec = GenerationSpec(model_id=model_id, prompt="a red circle")
            barrier.wait()
            try:
                with fleet.transaction() as tx:
                    found, _ = idempotency.once(tx, request, lambda: [jobs.submit(tx, spec)])
                    return str(found[0].id)
            except ModelNotFound:
                return ""

        failed, made = crowd.map(order, ["nowhere", MODEL])

        assert failed in {"", made}
        with fleet.reading() as session:
            assert session.get_one(IdempotencyKey, ("", request.key)).job_ids == [made]
            assert session.get(Job, UUID(made)) is not None


def test_bulk_cancels_of_the_same_jobs_do_not_wait_for_each_other_for_ever(
    fleet: Fleet, crowd: ThreadPoolExecutor, tries: int
) -> None:
    a_model(fleet)

    for _ in range(tries // 8):
        made = [a_job(fleet).id for _ in range(6)]
        barrier = threading.Barrier(2)

        def cancel(ids: list[Any], barrier: threading.Barrier = barrier) -> list[Any]:
            barrier.wait()
            with fleet.transaction() as tx:
                found = jobs.cancel_each(tx, ids, fleet)
                return [job_id for job_id, outcome in found.items() if not isinstance(outcome, JobEnded)]

        first, second = crowd.map(cancel, [made, made[::-1]])

        assert sorted(first + second) == sorted(made)
        assert {the_job(fleet, job_id).state for job_id in made} == {JobState.CANCELLED}


def test_the_first_client_and_the_second_have_keys_of_their_own_at_the_same_moment(
    fleet: Fleet, settings: Settings, crowd: ThreadPoolExecutor
) -> None:
    a_model(fleet)
    app = make_application(
        fleet, replace(settings, api_tokens=("first-client", "second-client"), machine_token="a-machine")
    )
    body = {"model_id": MODEL, "prompt": "a red circle"}

    def send(token: str) -> Any:
        headers = {"Idempotency-Key": "shared", "Authorization": f"Bearer {token}"}
        return client_of(app).post("/v1/jobs", json=body, headers=headers).json["job_id"]

    made = list(crowd.map(send, ["first-client", "second-client"] * 2))

    assert made[0] == made[2] != made[1] == made[3]
