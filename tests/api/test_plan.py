"""`POST /v1/machines/plan`: what a machine would fetch, asked before anything is fetched."""

from pathlib import Path

import pytest

from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState
from app.core.machines import HoldingReport
from app.plans import plan_for
from app.settings import Settings
from tests.builders import a_machine, a_model
from tests.support.processes import free_port
from tests.support.web import Client

UNREACHABLE = "https://origin.invalid"
"""RFC 2606 keeps this name from ever being found."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def plan(client: Client, wanted: str, **more: str) -> dict[str, object]:
    answer = client.post("/v1/machines/plan", json={"models_needed": wanted, **more})
    assert answer.status_code == 200, answer.json
    body: dict[str, object] = answer.json
    return body


def test_a_plan_names_the_closure_with_what_is_needed_first_and_says_what_would_fail(
    fleet: Fleet, client: Client
) -> None:
    a_model(fleet, "vae", kind="vae", download_url=f"{UNREACHABLE}/vae", dependencies=["base"])
    a_model(fleet, "base", download_url=f"{UNREACHABLE}/base", dependencies=["vae"])

    found = plan(client, "base")

    models = found["models"]
    assert isinstance(models, list)
    assert {line["model"]: line["needed"] for line in models} == {"base": True, "vae": False}
    assert {line["error"]["code"] for line in models} == {"no_route"}
    assert found["would_work"] is False


def test_an_unknown_id_is_told_with_names_that_look_like_it(fleet: Fleet, client: Client) -> None:
    a_model(fleet, "sdxl-base", download_url=f"{UNREACHABLE}/x")

    found = plan(client, "sdxl-bse")

    models = found["models"]
    assert isinstance(models, list)
    assert models[0]["error"]["code"] == "not_found"
    assert "sdxl-base" in models[0]["error"]["message"]


def test_what_the_machine_holds_is_not_fetched_again_and_its_disk_counts(fleet: Fleet, client: Client) -> None:
    a_model(fleet, "base", download_url=f"{UNREACHABLE}/base", size_bytes=10)
    held = [HoldingReport(model_id="base", state=HoldingState.READY)]
    a_machine(fleet, "gpu-1", holdings=held, device={"disk_free": 1000})

    found = plan(client, "base", machine_id="gpu-1")

    assert found["would_work"] is True
    assert found["bytes_to_fetch"] == 0
    assert found["disk_free_after"] == 1000


def test_a_file_on_a_machine_is_not_looked_for_on_the_servers_disk(fleet: Fleet, client: Client) -> None:
    a_model(fleet, "local", download_url="file:///etc/hostname")

    found = plan(client, "local")

    models = found["models"]
    assert isinstance(models, list)
    assert "only there" in models[0]["error"]["message"]


def test_a_machine_that_never_checked_in_cannot_be_planned_for(client: Client) -> None:
    answer = client.post("/v1/machines/plan", json={"models_needed": "x", "machine_id": "nobody"})

    assert answer.status_code == 404


def test_similar_ids_are_told_to_machines_that_ask_for_them_and_to_nobody_else(fleet: Fleet, client: Client) -> None:
    a_model(fleet, "sdxl-base")

    asked = client.post("/api/models/batch", json={"model_ids": ["sdxl-bse"], "near": True})
    plain = client.post("/api/models/batch", json={"model_ids": ["sdxl-bse"]})

    assert asked.json["near"] == {"sdxl-bse": ["sdxl-base"]}
    assert set(plain.json) == {"models", "not_found"}


def test_an_object_is_looked_for_in_the_store_that_the_server_is_told_of(fleet: Fleet, tmp_path: Path) -> None:
    a_model(fleet, "in-a-store", download_url="s3://models/a.safetensors")
    settings = Settings.load(
        {"S3_ENDPOINT": f"http://127.0.0.1:{free_port()}", "ALLOW_PRIVATE_ADDRESSES": "1"}, tmp_path
    )

    found = plan_for(fleet, settings, ["in-a-store"], "http://server.example")

    assert "127.0.0.1" in found["models"][0]["error"]["message"]
