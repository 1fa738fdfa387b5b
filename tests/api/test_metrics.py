"""/metrics: what Prometheus reads."""

from dataclasses import replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from app.api.application import make_application
from app.api.ops.routes import KEPT_SECONDS
from app.core.fleet import Fleet
from app.core.lifecycle import DeliveryState
from app.core.tables import Delivery, Job
from app.settings import Settings
from tests.builders import (
    MACHINE,
    MODEL,
    a_completed_job,
    a_job,
    a_machine,
    a_running_job,
    an_upload,
)
from tests.support.fakes import Clock
from tests.support.web import Client


def measured(client: Client, clock: Clock) -> dict[tuple[str, ...], float]:
    """Read all samples: {(name, label value, ...): number}."""
    clock.advance(KEPT_SECONDS)
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=")
    return {
        (sample.name.removeprefix("imagefleet_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def end(client: Client, job: Job, attempt: int = 1) -> Any:
    body = {"machine_id": MACHINE, "state": "completed"}
    return client.post(f"/machines/v1/jobs/{job.id}/attempts/{attempt}/finish", json=body)


def bring(client: Client, job: Job) -> Any:
    upload = an_upload(job)
    query = {"machine_id": MACHINE, "seed": 7, "width": 8, "height": 8, "sha256": upload.sha256}
    path = f"/machines/v1/jobs/{job.id}/attempts/1/images/0"
    return client.put(path, query_string=query, data=upload.data, content_type="image/png")


def test_jobs_and_machines_are_counted(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_completed_job(fleet)
    a_running_job(fleet)
    a_job(fleet, model_id="other")
    clock.advance(30)
    a_job(fleet, model_id="other")
    for name in ("gpu-2", "gpu-3"):
        a_machine(fleet, name)
    client.post("/v1/machines/gpu-2/drain")

    found = measured(client, clock)

    assert found["jobs", MODEL, "completed"] == found["jobs", MODEL, "processing"] == 1
    assert found["jobs", "other", "queued"] == 2
    assert found["oldest_queued_seconds", "other"] == 30 + KEPT_SECONDS
    assert [found["machines", state] for state in ("alive", "drained", "sick", "silent")] == [1, 1, 0, 1]
    assert found["webhook_deliveries", "owed"] == 0


def test_what_a_stale_attempt_brings_is_counted_once_each_time(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_running_job(fleet)
    before = measured(client, clock)
    a_machine(fleet, boot_id="boot-2")

    refused = [bring(client, job).status_code, end(client, job).status_code, end(client, job).status_code]

    assert refused == [409] * 3
    assert before["stale_results_refused_total",] == 0
    assert measured(client, clock)["stale_results_refused_total",] == 3


def test_what_is_taken_or_wrong_for_other_reasons_is_not_counted(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_running_job(fleet, n=2)

    early, taken = end(client, job), bring(client, job)

    assert (early.status_code, taken.status_code) == (409, 201)
    assert measured(client, clock)["stale_results_refused_total",] == 0


def test_deliveries_are_counted(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_job(fleet)
    with fleet.transaction() as tx:
        for position, state in enumerate([DeliveryState.OWED, DeliveryState.DELIVERED, DeliveryState.DELIVERED]):
            row = Delivery(job_id=job.id, position=position, event="completed", body={}, created_at=tx.now)
            row.state, row.next_try_at, row.host = state, tx.now, "hooks.example.org"
            tx.session.add(row)

    found = measured(client, clock)

    assert [found["webhook_deliveries", state] for state in ("owed", "delivered", "given_up", "void")] == [1, 2, 0, 0]


def test_who_asks_often_is_told_the_same_for_some_seconds(client: Client, fleet: Fleet, clock: Clock) -> None:
    measured(client, clock)
    a_job(fleet)

    soon = client.get("/metrics").text

    assert f'model="{MODEL}"' not in soon
    assert measured(client, clock)["jobs", MODEL, "queued"] == 1


def test_the_numbers_are_for_those_who_have_the_token_where_there_is_one(fleet: Fleet, settings: Settings) -> None:
    client = make_application(fleet, replace(settings, metrics_token="for-prometheus")).test_client()

    def asked_with(token: str) -> int:
        return client.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code

    assert client.get("/metrics").status_code == 401
    assert client.get("/health").status_code == 200
    assert [asked_with("for-prometheus"), asked_with("another")] == [200, 401]
