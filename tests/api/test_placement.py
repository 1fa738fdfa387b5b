"""The placement adviser over a real database: what is ordered, what lies where, and what is proposed."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from flask import Flask

from app.cli import cli
from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState
from app.core.machines import HoldingReport
from app.core.tables import Engine
from tests.builders import MODEL, a_completed_job, a_job, a_machine, a_model
from tests.support.fakes import Clock
from tests.support.web import Client, serving

GB = 10**9


def proposals(client: Client) -> dict[str, dict[str, Any]]:
    answer = client.get("/v1/placement")
    assert answer.status_code == 200, answer.text
    return {each["machine_id"]: each for each in answer.json["machines"]}


def holding(model_id: str, state: HoldingState = HoldingState.READY, **more: Any) -> HoldingReport:
    return HoldingReport(model_id=model_id, state=state, **more)


def test_a_model_that_is_ordered_is_proposed_where_it_fits(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "vae", kind="vae", size_bytes=1 * GB)
    a_model(fleet, size_bytes=9 * GB, dependencies=["vae"])
    a_model(fleet, "old", size_bytes=5 * GB)
    a_machine(fleet, "small", device={"disk_free": 2 * GB, "memory_total": 8 * GB})
    a_machine(
        fleet,
        "large",
        needed=["old"],
        device={"disk_free": 20 * GB, "memory_total": 24 * GB},
        holdings=[holding("old", bytes_per_second=1e8, bytes_total=5 * GB)],
    )
    a_job(fleet)

    found = proposals(client)

    assert found["small"]["changed"] is False
    assert found["large"]["setting"] == f"old,{MODEL}"
    assert (found["large"]["bytes_to_fetch"], found["large"]["seconds_to_fetch"]) == (10 * GB, 100.0)
    assert found["large"]["explanation"].startswith(f"add {MODEL}: 1 job of it waits or runs, and no machine")


def test_what_is_on_its_way_has_taken_its_room(client: Client, fleet: Fleet) -> None:
    a_model(fleet, size_bytes=9 * GB)
    a_model(fleet, "coming", size_bytes=5 * GB)
    on_its_way = holding("coming", HoldingState.DOWNLOADING, bytes_total=5 * GB)
    a_machine(fleet, needed=["coming"], device={"disk_free": 12 * GB}, holdings=[on_its_way])
    a_job(fleet)

    answer = client.get("/v1/placement").json

    assert answer["machines"][0]["changed"] is False
    assert "larger disk" in answer["unplaced"][0]["explanation"]


def test_what_has_come_of_a_download_is_not_taken_off_a_disk_twice(client: Client, fleet: Fleet) -> None:
    a_model(fleet, size_bytes=9 * GB)
    a_model(fleet, "coming", size_bytes=5 * GB)
    nearly_here = holding("coming", HoldingState.DOWNLOADING, bytes_total=5 * GB, bytes_done=4 * GB)
    a_machine(fleet, needed=["coming"], device={"disk_free": 11 * GB}, holdings=[nearly_here])
    a_job(fleet)

    assert client.get("/v1/placement").json["machines"][0]["setting"] == f"coming,{MODEL}"


def test_memory_that_a_machine_has_measured_rules_out_a_smaller_one(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_model(fleet, size_bytes=9 * GB)
    knows = holding(MODEL, weights_bytes=18 * GB, drawing_bytes=2 * GB)
    a_machine(fleet, "gone", device={"memory_total": 24 * GB}, holdings=[knows])
    clock.advance(60)
    a_machine(fleet, "a-small-one", device={"memory_total": 16 * GB})
    a_machine(fleet, "large", device={"memory_total": 24 * GB})
    a_job(fleet)

    found = proposals(client)

    assert found["gone"]["explanation"] == "left alone: it no longer checks in"
    assert found["a-small-one"]["adds"] == []
    assert found["large"]["adds"] == [MODEL]


def test_what_was_ordered_in_the_last_hour_keeps_its_place_and_older_orders_do_not(
    client: Client, fleet: Fleet, clock: Clock
) -> None:
    a_model(fleet, "new", size_bytes=9 * GB)
    a_model(fleet, size_bytes=9 * GB)
    a_completed_job(fleet)

    def checked_in() -> None:
        a_machine(fleet, needed=[MODEL], device={"disk_free": 0}, holdings=[holding(MODEL)])

    checked_in()
    a_job(fleet, model_id="new")
    soon = proposals(client)["gpu-1"]
    clock.advance(timedelta(hours=2).total_seconds())
    checked_in()
    later = proposals(client)["gpu-1"]

    assert soon["drops"] == []
    assert (later["drops"], later["setting"]) == ([MODEL], "new")


def test_a_machine_for_which_another_server_draws_is_left_alone(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, device={"type": "remote", "name": "webui"})
    a_job(fleet)

    assert proposals(client)["gpu-1"]["explanation"].startswith("left alone: its models are those of the server")


def test_the_model_of_an_engine_stays(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "new", size_bytes=9 * GB)
    a_model(fleet, size_bytes=9 * GB)
    a_machine(fleet, needed=[MODEL], device={"disk_free": 0}, holdings=[holding(MODEL)])
    with fleet.transaction() as tx:
        engine = Engine(id=uuid4(), checkpoint_id=MODEL, machine_id="gpu-1", is_wanted=True)
        engine.created_at = engine.updated_at = tx.now
        tx.session.add(engine)
    a_job(fleet, model_id="new")

    assert proposals(client)["gpu-1"]["drops"] == []


def test_the_commands_tell_of_capacity_and_placement(
    fleet: Fleet, application: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_machine(fleet)
    a_job(fleet)
    with serving(application) as url:
        monkeypatch.setenv("FLEET_URL", url)
        monkeypatch.setenv("DATA_DIR", str(tmp_path))  # no server runs on this folder
        placed, measured = (CliRunner().invoke(cli, [name]) for name in ("placement", "capacity"))

    assert placed.output.startswith(f"gpu-1 *  MACHINE_MODELS_NEEDED={MODEL}\n    add {MODEL}: 1 job"), placed.output
    assert measured.output.splitlines()[1].split()[:3] == [MODEL, "1", "0"]
