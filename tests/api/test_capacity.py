"""What the fleet can do: for each model what waits, who draws it, and what one more machine would change."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from app.core import capacity, engines, machines
from app.core.capacity import Drawer, time_to_clear
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.lifecycle import HoldingState
from app.core.machines import HoldingReport
from app.core.tables import Machine, Pace
from tests.builders import MODEL, a_job, a_machine, a_model, a_running_job, claim
from tests.support.fakes import Clock
from tests.support.web import Client

GB = 10**9
GPU = {"name": "GPU X", "type": "cuda"}


def of(client: Client, model_id: str = MODEL) -> dict[str, Any]:
    answer = client.get(f"/v1/capacity/{model_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def a_pace(fleet: Fleet, model_id: str = MODEL, *, job: float = 10.0, loading: float = 5.0) -> None:
    """Let a model have been drawn with, on one kind of device."""
    with fleet.transaction() as tx:
        measured = {"job_seconds": job, "loading_seconds": loading, "samples": 9, "updated_at": tx.now}
        tx.session.add(Pace(model_id=model_id, device="GPU X", **measured))


def holding(state: HoldingState, model_id: str = MODEL, **more: Any) -> Sequence[HoldingReport]:
    return [HoldingReport(model_id=model_id, state=state, **more)]


def test_a_model_with_nothing_to_do_is_told_of_too(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    a_model(fleet, "a-lora", kind="lora")

    found = client.get("/v1/capacity").json

    assert [each["model_id"] for each in found["models"]] == [MODEL]
    assert found["models"][0]["jobs_waiting"] == 0
    assert found["models"][0]["work_waiting_seconds"] == 0
    assert found["models"][0]["clear_seconds"] == 0


def test_jobs_are_counted_with_the_age_of_the_oldest(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_running_job(fleet)
    a_job(fleet)
    clock.advance(7)
    a_job(fleet)

    found = of(client)

    assert (found["jobs_waiting"], found["jobs_running"], found["jobs_unended"]) == (2, 1, 3)
    assert found["oldest_waiting_seconds"] == 7


def test_jobs_of_engines_are_told_apart(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL], device=GPU)
    a_job(fleet)
    with fleet.transaction() as tx:
        engine_id = engines.create(tx, engines.EngineSpec(checkpoint_id=MODEL)).id

    a_job(fleet, terms=Terms(engine_id=engine_id))

    found = of(client)

    assert (found["jobs_waiting"], found["jobs_waiting_for_engines"]) == (2, 1)


def test_machines_are_told_apart_by_what_they_can_do(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_model(fleet)
    a_machine(fleet, "lost", ready_for=[MODEL])
    clock.advance(60)
    a_machine(fleet, "ready", ready_for=[MODEL])
    a_machine(fleet, "drained", ready_for=[MODEL])
    a_machine(
        fleet,
        "fetching",
        holdings=holding(HoldingState.DOWNLOADING, bytes_done=2 * GB, bytes_total=7 * GB, bytes_per_second=1e8),
    )
    a_machine(fleet, "proving", holdings=holding(HoldingState.VERIFYING, bytes_total=50 * GB))
    a_machine(fleet, "waiting", holdings=holding(HoldingState.WANTED))
    a_machine(fleet, "broken", holdings=holding(HoldingState.ERROR, error="no room"))
    with fleet.transaction() as tx:
        machines.drain(tx, "drained")
        tx.session.get_one(Machine, "waiting").sick = "it failed what others finished"

    found = of(client)

    assert found["machines_ready"] == 1
    assert (found["machines_downloading"], found["machines_verifying"], found["machines_coming"]) == (1, 1, 2)
    assert (found["machines_drained"], found["machines_sick"], found["machines_silent"]) == (1, 1, 1)
    assert found["machines_failed"] == 1
    assert found["next_ready_in_seconds"] == 50  # five gigabytes at 100 MB/s; the proof of the other takes 100 s


def test_machines_that_went_long_ago_are_no_longer_counted(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_model(fleet)
    a_machine(fleet, "rented", ready_for=[MODEL])
    clock.advance(timedelta(days=2).total_seconds())

    assert of(client)["machines_silent"] == 0


def test_work_is_told_in_measured_seconds(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL], device=GPU)
    for _ in range(4):
        a_job(fleet)
    a_pace(fleet, job=10, loading=5)

    found = of(client)

    assert found["job_seconds"] == 10
    assert found["work_waiting_seconds"] == 40
    assert found["clear_seconds"] == 45  # loading first


def test_where_nothing_was_measured_it_says_so(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL])
    a_job(fleet)

    found = of(client)

    unknown = ("job_seconds", "work_waiting_seconds", "clear_seconds", "new_machine_ready_seconds", "load_seconds")
    assert [found[name] for name in unknown] == [None] * 5


def test_one_more_machine_changes_what_its_arrival_leaves_to_be_done(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "vae", kind="vae", size_bytes=1 * GB)
    a_model(fleet, size_bytes=6 * GB, dependencies=["vae"])
    came = holding(HoldingState.DOWNLOADING, bytes_done=1, bytes_total=6 * GB, bytes_per_second=1e8)
    a_machine(fleet, device=GPU, holdings=came)
    a_machine(fleet, ready_for=[MODEL], device={**GPU, "loaded": [MODEL]})
    for _ in range(20):
        a_job(fleet)
    a_pace(fleet, job=10, loading=5)

    found = of(client)

    assert found["download_bytes_per_second"] == 1e8  # remembered of the download, now that it is over
    assert found["new_machine_bytes"] == 7 * GB
    assert found["new_machine_ready_seconds"] == 75
    assert found["clear_seconds"] == 200
    # The new one misses 7.5 of the jobs; the two share what is left: 75 + (200 - 75) / 2.
    assert found["clear_seconds_with_one_more"] == 137.5
    assert found["seconds_saved_by_one_more"] == 62.5


def test_a_machine_that_would_come_too_late_changes_nothing(client: Client, fleet: Fleet) -> None:
    a_model(fleet, size_bytes=60 * GB)
    a_machine(fleet, device=GPU, holdings=holding(HoldingState.READY, bytes_per_second=1e8))
    a_job(fleet)
    a_pace(fleet)

    found = of(client)

    assert found["new_machine_ready_seconds"] == 605
    assert found["seconds_saved_by_one_more"] == 0


def test_without_a_machine_the_wait_has_no_end_and_one_more_gives_it_one(client: Client, fleet: Fleet) -> None:
    a_model(fleet, size_bytes=10 * GB)
    a_machine(fleet, holdings=holding(HoldingState.READY, "another", bytes_per_second=1e8))
    a_job(fleet)
    a_pace(fleet)

    found = of(client)

    assert found["clear_seconds"] is None
    assert found["clear_seconds_with_one_more"] == 115
    assert found["seconds_saved_by_one_more"] is None


def test_models_that_wait_for_one_machine_share_its_time(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL, "other"], device={**GPU, "loaded": [MODEL, "other"]})
    for model_id in (MODEL, "other"):
        for _ in range(3):
            a_job(fleet, model_id=model_id)
        a_pace(fleet, model_id)

    assert [of(client, model_id)["clear_seconds"] for model_id in (MODEL, "other")] == [60, 60]


def test_what_a_machine_draws_comes_first(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL], device={**GPU, "loaded": [MODEL]})
    first = a_job(fleet)
    assert claim(fleet, first.id) is not None
    a_job(fleet)
    a_pace(fleet)

    assert of(client)["clear_seconds"] == 20


def test_models_with_the_most_work_come_first_and_idle_ones_can_be_left_out(client: Client, fleet: Fleet) -> None:
    for model_id, jobs in (("some", 1), ("idle", 0), ("much", 3)):
        a_model(fleet, model_id)
        a_pace(fleet, model_id)
        for _ in range(jobs):
            a_job(fleet, model_id=model_id)

    everything = client.get("/v1/capacity").json
    waiting = client.get("/v1/capacity?waiting=true&limit=1").json

    assert [each["model_id"] for each in everything["models"]] == ["much", "some", "idle"]
    assert [each["model_id"] for each in waiting["models"]] == ["much"]
    assert (waiting["jobs_waiting"], waiting["models_total"]) == (4, 3)


def test_a_model_that_is_not_there_is_not_told_of(client: Client) -> None:
    answer = client.get("/v1/capacity/nobody")

    assert answer.status_code == 404
    assert answer.json["error"]["code"] == "model_not_found"


def test_a_measurement_serves_all_who_ask_at_a_time(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_job(fleet)
    assert of(client)["jobs_waiting"] == 1
    a_job(fleet)

    soon = of(client)["jobs_waiting"]
    clock.advance(2)

    assert (soon, of(client)["jobs_waiting"]) == (1, 2)


def test_the_number_of_questions_does_not_grow_with_the_fleet(fleet: Fleet) -> None:
    def questions() -> int:
        asked: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            asked.append(statement)

        event.listen(fleet.engine, "before_cursor_execute", note)
        with fleet.reading() as session:
            capacity.measure(session, fleet.limits, fleet.clock())
        event.remove(fleet.engine, "before_cursor_execute", note)
        return sum(statement.lstrip().startswith("SELECT") for statement in asked)

    a_machine(fleet, ready_for=[MODEL], device=GPU)
    a_job(fleet)
    few = questions()
    for number in range(30):
        a_model(fleet, f"m-{number}", size_bytes=GB)
        a_job(fleet, model_id=f"m-{number}")
        a_machine(fleet, f"gpu-{number}", ready_for=[f"m-{number}", MODEL], device=GPU)

    assert questions() == few


@pytest.mark.parametrize(
    ("drawers", "jobs", "seconds"),
    [
        ([], 3, None),
        ([], 0, 0.0),
        ([Drawer(0, 10)], 3, 30.0),
        ([Drawer(0, 10), Drawer(0, 10)], 4, 20.0),
        ([Drawer(0, 10), Drawer(0, 10)], 1, 10.0),  # half a job each is no picture
        ([Drawer(0, 10), Drawer(1000, 10)], 3, 30.0),
        ([Drawer(0, 10), Drawer(20, 5)], 5, 30.0),
        ([Drawer(0, 0.0)], 5, 0.005),
    ],
)
def test_machines_share_what_waits_from_the_moment_they_are_free(
    drawers: list[Drawer], jobs: int, seconds: float | None
) -> None:
    assert time_to_clear(drawers, jobs) == (None if seconds is None else pytest.approx(seconds))
