"""/metrics: what Prometheus reads."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import delete, event, text

from app.api.application import make_application
from app.api.ops import routes
from app.api.ops.routes import KEPT_SECONDS, MOST_OF_THE_TIME
from app.core import census, counters, deliveries
from app.core.census import EXPECTED_BACK
from app.core.deliveries import Answer, Parcel
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.lifecycle import AttemptState, HoldingState
from app.core.machines import HoldingReport
from app.core.measures import JOBS_ACCEPTED, Tally
from app.core.tables import Attempt, Delivery, Hook, Image, Job
from app.settings import Settings
from tests.builders import (
    MACHINE,
    MODEL,
    a_completed_job,
    a_job,
    a_machine,
    a_model,
    a_running_job,
    an_upload,
    finish,
)
from tests.support.fakes import Clock
from tests.support.web import Client, client_of

Samples = dict[tuple[str, ...], float]


@dataclass
class Stopwatch:
    """In place of the module `time`: each look at it shows `step` seconds more than the one before."""

    step: float = 0.0
    shown: float = 0.0

    def monotonic(self) -> float:
        self.shown += self.step
        return self.shown


@pytest.fixture(autouse=True)
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """Let counting take no time: how long a count is good for depends on it, and a busy computer is slow."""
    watch = Stopwatch()
    monkeypatch.setattr(routes, "time", watch)
    return watch


def samples(told: str) -> Samples:
    """Read all samples: {(name, label value, ...): number}; of a model or a machine first."""
    return {
        (
            sample.name.removeprefix("imagefleet_"),
            *(sample.labels[name] for name in sorted(sample.labels, key=lambda n: (n not in {"model", "machine"}, n))),
        ): sample.value
        for family in text_string_to_metric_families(told)
        for sample in family.samples
    }


def measured(client: Client, clock: Clock) -> Samples:
    """Ask when what was counted before is no longer good."""
    clock.advance(KEPT_SECONDS)
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=")
    return samples(answer.text)


def end(client: Client, job: Job, attempt: int = 1) -> Any:
    body = {"machine_id": MACHINE, "state": "completed"}
    return client.post(f"/machines/v1/jobs/{job.id}/attempts/{attempt}/finish", json=body)


def bring(client: Client, job: Job) -> Any:
    upload = an_upload(job)
    query = {"machine_id": MACHINE, "seed": 7, "width": 8, "height": 8, "sha256": upload.sha256}
    path = f"/machines/v1/jobs/{job.id}/attempts/1/images/0"
    return client.put(path, query_string=query, data=upload.data, content_type="image/png")


def test_what_waits_and_is_drawn_is_counted_by_model(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_completed_job(fleet)
    a_running_job(fleet)
    a_job(fleet, model_id="other")
    clock.advance(30)
    a_job(fleet, model_id="other")

    found = measured(client, clock)

    assert found["jobs", MODEL, "processing"] == 1
    assert found["jobs", "other", "queued"] == 2
    assert ("jobs", MODEL, "completed") not in found
    assert found["oldest_queued_seconds", "other"] == 30 + KEPT_SECONDS


def test_what_was_accepted_and_has_ended_is_counted_by_model_dialect_and_state(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    a_completed_job(fleet)
    finish(fleet, a_running_job(fleet), AttemptState.ERROR, error="no", permanent=True)
    cancelled = a_job(fleet, terms=Terms(dialect="gallery"))
    client.post(f"/v1/jobs/{cancelled.id}/cancel")

    found = measured(client, clock)

    assert found["jobs_accepted_total", MODEL, "v1"] == 2
    assert found["jobs_accepted_total", MODEL, "gallery"] == 1
    assert found["jobs_ended_total", MODEL, "v1", "completed"] == 1
    assert found["jobs_ended_total", MODEL, "v1", "error"] == 1
    assert found["jobs_ended_total", MODEL, "gallery", "cancelled"] == 1


def test_attempts_are_counted_by_how_they_ended(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_completed_job(fleet)
    finish(fleet, a_running_job(fleet), AttemptState.LOST)
    running = a_running_job(fleet, model_id="other")
    client.post(f"/v1/jobs/{running.id}/cancel")

    found = measured(client, clock)

    assert [found["attempts_total", MODEL, state] for state in ("completed", "lost")] == [1, 1]
    assert found["attempts_total", "other", "cancelled"] == 1


def test_waits_runs_and_their_phases_are_histograms(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_job(fleet)
    clock.advance(7)
    a_machine(fleet, ready_for=[MODEL])
    client.post(f"/machines/v1/jobs/{job.id}/claim", json={"machine_id": MACHINE, "boot_id": "boot-1"})
    bring(client, job)
    clock.advance(20)
    timings = {"loading": 3.0, "denoising": 16.0, "encoding": 0.04, "uploading": 0.7, "resting": 1.0}
    finish(fleet, job, timings=timings)

    found = measured(client, clock)

    assert found["job_wait_seconds_bucket", MODEL, "5.0"] == 0
    assert found["job_wait_seconds_bucket", MODEL, "10.0"] == 1
    assert (found["job_wait_seconds_sum", MODEL], found["job_wait_seconds_count", MODEL]) == (7, 1)
    assert (found["job_run_seconds_bucket", MODEL, "30.0"], found["job_run_seconds_sum", MODEL]) == (1, 20)
    phases = {key[1]: value for key, value in found.items() if key[0] == "phase_seconds_sum"}
    known = {name: seconds for name, seconds in timings.items() if name != "resting"}
    assert phases == {"queued": 7, **known, "other": 1.0}


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
    found = measured(client, clock)
    assert found["stale_results_refused_total",] == 0
    assert not any(key[0] == "jobs_ended_total" for key in found)


def test_webhooks_are_counted_by_outcome_and_what_is_owed_waits(client: Client, fleet: Fleet, clock: Clock) -> None:
    hook = {"url": "https://hooks.example.org/", "events": ["processing", "completed"]}
    given = {"model_id": a_model(fleet).id, "prompt": "a red circle", "webhook": hook}
    ordered = [client.post("/v1/jobs", json=given).get_json()["job_id"] for _ in range(4)]
    for job_id in ordered:
        a_machine(fleet, ready_for=[MODEL])
        client.post(f"/machines/v1/jobs/{job_id}/claim", json={"machine_id": MACHINE, "boot_id": "boot-1"})
    for status, error in ((204, None), (410, None), (None, "it did not answer")):
        with fleet.transaction() as tx:
            parcel = deliveries.take(tx, "hooks.example.org:443")
            assert isinstance(parcel, Parcel)
            deliveries.record(tx, parcel, Answer(tx.now, 0.1, status, error))
    clock.advance(60)

    found = measured(client, clock)

    assert [found["webhook_tries_total", outcome] for outcome in ("delivered", "refused", "no_answer")] == [1, 1, 1]
    assert [found["webhook_deliveries_total", state] for state in ("delivered", "given_up")] == [1, 1]
    assert found["webhooks_owed",] == 2
    assert found["webhooks_overdue_seconds",] >= 60


def test_machines_are_counted_by_state(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_machine(fleet, "gone-for-long", ready_for=[MODEL])
    clock.advance(EXPECTED_BACK.total_seconds())
    a_machine(fleet, "cut-off", ready_for=[MODEL])
    a_machine(fleet, "said-goodbye")
    clock.advance(30)
    for name in ("gpu-1", "gpu-2"):
        a_machine(fleet, name, ready_for=[MODEL])
    client.post("/v1/machines/gpu-2/drain")
    a_machine(fleet, "says-goodbye", device={"left": True})

    found = measured(client, clock)

    states = ("alive", "drained", "sick", "silent", "left")
    assert [found["machines", state] for state in states] == [1, 1, 0, 1, 3]


def test_readiness_of_models_counts_live_machines_that_are_given_jobs(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    a_machine(fleet, "cut-off", ready_for=[MODEL])
    clock.advance(30)
    a_machine(fleet, "gpu-0", ready_for=[MODEL, "drained"])
    assert client.post("/v1/machines/gpu-0/drain").status_code == 200
    a_machine(fleet, "gpu-1", ready_for=[MODEL, "other"])
    a_machine(fleet, "gpu-2", holdings=[HoldingReport(model_id=MODEL, state=HoldingState.ERROR)])

    found = measured(client, clock)

    assert [found["model_machines", MODEL, state] for state in ("ready", "error")] == [1, 1]
    assert found["model_machines", "other", "ready"] == 1
    assert ("model_machines", "drained", "ready") not in found  # or nobody would hear that its jobs wait for nobody


def test_a_download_that_stands_still_is_told_from_one_that_moves(client: Client, fleet: Fleet, clock: Clock) -> None:
    def check_in(machine: str, model_id: str, done: int) -> None:
        holding = HoldingReport(model_id=model_id, state=HoldingState.DOWNLOADING, bytes_done=done, bytes_total=100)
        a_machine(fleet, machine, holdings=[holding])

    for done in range(40):
        check_in("gpu-1", "moving", done)
        check_in("gpu-2", "stuck", 7)
        clock.advance(3)

    found = measured(client, clock)

    assert found["download_standstill_seconds", "stuck"] == 120 + KEPT_SECONDS
    assert found["download_standstill_seconds", "moving"] == 3 + KEPT_SECONDS


def told_by_a_machine(fleet: Fleet, boot_id: str = "boot-1", **device: Any) -> None:
    a_machine(fleet, boot_id=boot_id, device={"type": "cuda", "name": "H200", **device})


def test_what_machines_count_becomes_counters_of_the_fleet(client: Client, fleet: Fleet, clock: Clock) -> None:
    told_by_a_machine(fleet, swaps=2, hits=5, misses=3, downloaded_bytes=1000, verification_failures=1)
    told_by_a_machine(fleet, swaps=2, hits=9, misses=3, downloaded_bytes=1500, verification_failures=1)
    # A new process counts from its start; what provisioning has done stands on the disk and goes on.
    told_by_a_machine(fleet, "boot-2", swaps=3, hits=1, misses=1, downloaded_bytes=1600, verification_failures=1)
    a_machine(fleet, "gpu-2", device={"swaps": 10, "downloaded_bytes": "a lot", "hits": -4, "misses": 2**60})

    found = measured(client, clock)

    assert found["pipeline_swaps_total",] == 2 + 3 + 10
    assert [found["pipeline_lookups_total", result] for result in ("hit", "miss")] == [9 + 1, 3 + 1]
    assert found["downloaded_bytes_total",] == 1600
    assert found["verification_failures_total",] == 1


def test_an_emptied_disk_does_not_take_bytes_back(client: Client, fleet: Fleet, clock: Clock) -> None:
    for reading in (1000, 30):
        told_by_a_machine(fleet, downloaded_bytes=reading)

    assert measured(client, clock)["downloaded_bytes_total",] == 1030


def test_memory_is_told_of_live_machines(client: Client, fleet: Fleet, clock: Clock) -> None:
    told_by_a_machine(fleet, memory_total=80 * 10**9, memory_free=30 * 10**9)

    found = measured(client, clock)

    memory = [found["device_memory_bytes", MACHINE, "cuda", kind] for kind in ("total", "free")]
    assert memory == [80 * 10**9, 30 * 10**9]


def test_lookups_of_machines_are_timed(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_model(fleet)
    before = measured(client, clock)

    began = time.perf_counter()
    for body in ({"model_ids": [MODEL]}, {"model_ids": [MODEL, "unknown"]}, {"wrong": 1}):
        client.post("/api/models/batch", json=body)
    seconds = time.perf_counter() - began

    assert before["batch_lookup_seconds_count",] == 0
    found = measured(client, clock)
    assert found["batch_lookup_seconds_count",] == found["batch_lookup_seconds_bucket", "+Inf"] == 3
    assert 0 < found["batch_lookup_seconds_sum",] <= seconds


def test_what_retention_deletes_does_not_make_a_counter_smaller(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_completed_job(fleet)
    before = measured(client, clock)

    with fleet.transaction() as tx:
        for table in (Image, Attempt, Delivery, Hook, Job):
            tx.session.execute(delete(table))

    after = measured(client, clock)
    kept = {key: value for key, value in before.items() if key[0].endswith(("_total", "_sum", "_count", "_bucket"))}
    assert kept["jobs_ended_total", MODEL, "v1", "completed"] == 1
    assert kept == {key: after[key] for key in kept}


def test_all_processes_of_the_server_tell_the_same(
    client: Client, fleet: Fleet, settings: Settings, clock: Clock
) -> None:
    elsewhere = replace(fleet, tally=Tally())
    other = client_of(make_application(elsewhere, settings))
    a_completed_job(fleet)
    a_completed_job(elsewhere)
    client.post("/api/models/batch", json={"model_ids": [MODEL]})
    other.post("/api/models/batch", json={"model_ids": [MODEL]})

    counters.write(fleet)

    found = [measured(each, clock) for each in (other, client, other)]
    assert all(each["jobs_ended_total", MODEL, "v1", "completed"] == 2 for each in found)
    assert all(each["batch_lookup_seconds_count",] == 2 for each in found)


def test_what_the_database_does_not_take_is_written_down_later(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_job(fleet)
    with fleet.engine.begin() as connection:
        connection.execute(text("ALTER TABLE measured RENAME TO away"))

    with pytest.raises(Exception, match="measured"):
        counters.write(fleet)

    with fleet.engine.begin() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO measured"))
    assert measured(client, clock)["jobs_accepted_total", MODEL, "v1"] == 1


def test_a_change_that_is_taken_back_is_not_counted(client: Client, fleet: Fleet, clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError), fleet.transaction() as tx:
        tx.count(JOBS_ACCEPTED, MODEL, "v1")
        raise ZeroDivisionError

    assert ("jobs_accepted_total", MODEL, "v1") not in measured(client, clock)


def test_there_are_never_more_series_than_prometheus_can_bear(
    client: Client, fleet: Fleet, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "MOST_SERIES", 3)
    for _ in range(2):
        for number in range(5):
            a_job(fleet, model_id=f"model-{number}")
        counters.write(fleet)

    found = measured(client, clock)

    accepted = {key[1]: value for key, value in found.items() if key[0] == "jobs_accepted_total"}
    assert accepted == {"model-0": 2, "model-1": 2, "model-2": 2, "other": 4}


@contextmanager
def statements(fleet: Fleet) -> Iterator[list[tuple[str, Any]]]:
    """Collect what is asked of the database."""
    asked: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        asked.append((statement, parameters))

    event.listen(fleet.engine, "before_cursor_execute", listen)
    try:
        yield asked
    finally:
        event.remove(fleet.engine, "before_cursor_execute", listen)


def test_a_scrape_reads_indexes_of_what_is_not_over_and_no_table_of_jobs(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    a_completed_job(fleet)

    with statements(fleet) as asked:
        measured(client, clock)

    large = [each for each in asked if "FROM jobs" in each[0] or "FROM deliveries" in each[0]]
    assert len(large) == 3
    if fleet.engine.dialect.name == "postgresql":
        # What other tests have deleted makes each index look alike.
        with fleet.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM (ANALYZE) jobs, deliveries")
    with fleet.engine.connect() as connection:
        if fleet.engine.dialect.name == "postgresql":
            # Small tables are read whole, whatever there is. For now only: other tests are given this connection.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
            explain, by_index = "EXPLAIN", "Index Only Scan"
        else:
            explain, by_index = "EXPLAIN QUERY PLAN", "USING COVERING INDEX"
        for statement, parameters in large:
            lines = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
            plan = " ".join(str(line[-1]) for line in lines)
            assert by_index in plan
            assert re.search(r"Index Cond: \(\(?state|\(state=\?", plan), plan


def test_of_more_models_than_are_named_those_with_jobs_come_first(
    client: Client, fleet: Fleet, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "MOST_MODELS", 2)
    for number in range(3):
        a_machine(fleet, f"gpu-{number}", ready_for=["common", "usual", "frequent"])
    a_machine(fleet, "gpu-3", ready_for=["rare"])
    a_job(fleet, model_id="rare")

    found = measured(client, clock)

    told = {key[1]: number for key, number in found.items() if key[0] == "model_machines" and key[2] == "ready"}
    # Else nobody would seem ready for what waits, and somebody would be woken.
    assert (told.pop("rare"), told.pop("other"), list(told.values())) == (1, 6, [3])
    assert found["jobs", "rare", "queued"] == 1


def test_who_asks_often_is_told_the_same_number_of_jobs_for_some_seconds(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    measured(client, clock)
    a_job(fleet)

    soon = samples(client.get("/metrics").text)

    assert ("jobs", MODEL, "queued") not in soon
    assert soon["jobs_accepted_total", MODEL, "v1"] == 1  # a counter must never go back, so it is never kept
    assert measured(client, clock)["jobs", MODEL, "queued"] == 1


def test_a_count_that_took_long_is_good_for_longer(
    client: Client, fleet: Fleet, clock: Clock, stopwatch: Stopwatch
) -> None:
    stopwatch.step = KEPT_SECONDS
    measured(client, clock)
    a_job(fleet)

    assert ("jobs", MODEL, "queued") not in measured(client, clock)
    clock.advance(MOST_OF_THE_TIME * stopwatch.step - 2 * KEPT_SECONDS - 1)
    assert ("jobs", MODEL, "queued") not in measured(client, clock)
    clock.advance(1)
    assert measured(client, clock)["jobs", MODEL, "queued"] == 1


def test_the_control_worker_and_the_web_tell_when_they_were_last_there(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    from tasks.control.sweep import sweep  # noqa: PLC0415  # the only test of a door that needs the control worker

    sweep(fleet)
    clock.advance(40)

    assert measured(client, clock)["part_silent_seconds", "control"] == 40 + KEPT_SECONDS


def test_who_asks_for_openmetrics_gets_it(client: Client, fleet: Fleet) -> None:
    a_completed_job(fleet)

    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family.type for family in openmetrics(answer.text)}  # type: ignore[no-untyped-call]  # it has no types
    assert families["imagefleet_jobs_ended"] == "counter"
    assert families["imagefleet_phase_seconds"] == "histogram"
    assert families["imagefleet_jobs"] == "gauge"


def test_the_numbers_are_for_those_who_have_the_token_where_there_is_one(fleet: Fleet, settings: Settings) -> None:
    client = make_application(fleet, replace(settings, metrics_token="for-prometheus")).test_client()

    def asked_with(token: str) -> int:
        return client.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code

    assert client.get("/metrics").status_code == 401
    assert client.get("/health").status_code == 200
    assert [asked_with("for-prometheus"), asked_with("another")] == [200, 401]
