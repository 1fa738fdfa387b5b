"""The catalogue, the machines and the pictures as the v1 dialect shows them."""

from typing import Any
from uuid import UUID

import pytest

from app.core import images
from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState
from app.core.machines import HoldingReport
from tests.builders import (
    MODEL,
    a_completed_job,
    a_job,
    a_machine,
    a_model,
    a_picture,
    a_running_job,
    an_upload,
    claim,
    finish,
)
from tests.support.fakes import Clock, MemoryImages
from tests.support.web import Client

ENTRY = {"name": "sdxl.safetensors", "download_url": "https://example.org/sdxl.safetensors"}


def test_an_entry_gets_its_id_and_its_place_from_its_name(client: Client) -> None:
    answer = client.post("/v1/models", json=ENTRY | {"kind": "lora"})

    assert answer.status_code == 201
    assert (answer.json["id"], answer.json["save_path"]) == ("sdxl", "loras/sdxl.safetensors")
    assert (answer.json["availability"], answer.json["origin"], answer.json["jobs_waiting"]) == ("absent", "api", 0)


def test_an_entry_of_the_same_id_is_replaced(client: Client) -> None:
    client.post("/v1/models", json=ENTRY | {"description": "first"})
    client.post("/v1/models", json=ENTRY | {"tags": ["second"]})

    (model,) = client.get("/v1/models").json["models"]

    assert (model["description"], model["tags"]) == (None, ["second"])


def test_what_v1_takes_the_catalog_gives(client: Client) -> None:
    client.post("/v1/models", json=ENTRY | {"id": "a", "hash": "ab" * 32, "dependencies": ["b"]})

    model = client.get("/api/models/a").json

    assert (model["hash"], model["dependencies"]) == ("ab" * 32, ["b"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": "a" * 501}, "name"),
        ({"id": "a b"}, "id must"),
        ({"id": "a\x00"}, "id"),
        ({"hash": "xyz"}, "hash"),
        ({"hash": "a" * 300 + ":" + "ab" * 32}, "hash"),
        ({"save_path": "../x"}, "save_path"),
        ({"save_path": "."}, "save_path"),
        ({"download_url": "javascript:alert(1)"}, "download_url"),
        ({"download_url": "hf://"}, "download_url"),
        ({"kind": "checkpoints"}, "kind"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"size_bytes": 2**63}, "size_bytes"),
        ({"file_size_gb": -1}, "file_size_gb"),
        ({"dependencies": "b"}, "dependencies"),
        ({"dependencies": [1]}, "dependencies"),
        ({"options": []}, "options"),
        ({"options": {"steps": "many"}}, "options.steps"),
        ({"base": "b" * 31}, "base"),
        ({"variant": "b" * 31}, "variant"),
        ({"auth_provider": "b" * 51}, "auth_provider"),
        ({"description": "nul \x00"}, "description"),
        ({"description": "\ud800"}, "description"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_impossible_entry_is_refused_with_the_field(client: Client, more: dict[str, Any], told: str) -> None:
    answer = client.post("/v1/models", json=ENTRY | more)

    assert answer.status_code == 422, answer.text
    assert told in str(answer.json["error"])
    assert client.get("/v1/models").json["models"] == []


def test_an_unknown_model_is_404(client: Client) -> None:
    shown, deleted = client.get("/v1/models/nowhere"), client.delete("/v1/models/nowhere")

    assert (shown.status_code, shown.json["error"]["code"]) == (404, "model_not_found")
    assert (deleted.status_code, deleted.json["error"]["code"]) == (404, "model_not_found")


def test_a_model_is_taken_out_of_the_catalogue(client: Client, fleet: Fleet) -> None:
    a_model(fleet)

    answer = client.delete(f"/v1/models/{MODEL}")

    assert (answer.status_code, answer.data) == (204, b"")
    assert client.get(f"/v1/models/{MODEL}").status_code == 404


def test_a_model_with_jobs_stays(client: Client, fleet: Fleet) -> None:
    a_job(fleet)

    answer = client.delete(f"/v1/models/{MODEL}")

    assert (answer.status_code, answer.json["error"]["code"]) == (409, "model_in_use")
    assert client.get(f"/v1/models/{MODEL}").json["jobs_waiting"] == 1


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ([], "absent"),
        ([HoldingState.ERROR], "error"),
        ([HoldingState.ERROR, HoldingState.WANTED], "downloading"),
        ([HoldingState.VERIFYING], "downloading"),
        ([HoldingState.DOWNLOADING, HoldingState.READY, HoldingState.ERROR], "ready"),
    ],
)
def test_a_models_status_is_that_of_the_machine_that_is_furthest(
    client: Client, fleet: Fleet, states: list[HoldingState], status: str
) -> None:
    a_model(fleet)
    for number, state in enumerate(states):
        a_machine(fleet, f"gpu-{number}", holdings=[HoldingReport(model_id=MODEL, state=state)])

    model = client.get(f"/v1/models/{MODEL}").json

    assert model["availability"] == status
    assert len(model["machines_ready"]) == states.count(HoldingState.READY)


def test_a_silent_machine_holds_nothing_any_more(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_model(fleet)
    a_machine(fleet, ready_for=[MODEL])
    clock.advance(60)

    assert client.get(f"/v1/models/{MODEL}").json["availability"] == "absent"
    assert [m["alive"] for m in client.get("/v1/machines").json["machines"]] == [False]


def test_a_machine_shows_what_it_needs_and_how_far_each_model_is(client: Client, fleet: Fleet) -> None:
    failed = HoldingReport(
        model_id="broken", state=HoldingState.ERROR, error_code="hash_mismatch", error="expected ab, found cd"
    )
    coming = HoldingReport(
        model_id="big", state=HoldingState.DOWNLOADING, bytes_done=10**11, bytes_total=2 * 10**11, bytes_per_second=1.5
    )

    a_machine(fleet, needed=["broken", "big"], holdings=[failed, coming], device={"type": "cuda"}, version="0.1")
    machine = client.get("/v1/machines/gpu-1").json

    assert (machine["models_needed"], machine["device"], machine["alive"]) == (
        ["broken", "big"],
        {"type": "cuda"},
        True,
    )
    big, broken = machine["models"]
    assert (big["bytes_done"], big["bytes_total"], big["error"]) == (10**11, 2 * 10**11, None)
    assert broken["error"] == {"code": "hash_mismatch", "message": "expected ab, found cd"}


@pytest.mark.parametrize("machine_id", ["nowhere", "%00", "x'--"])
def test_an_unknown_machine_is_404(client: Client, machine_id: str) -> None:
    answer = client.get(f"/v1/machines/{machine_id}")

    assert (answer.status_code, answer.json["error"]["code"]) == (404, "machine_not_found")


def test_a_picture_is_served_as_it_was_delivered(client: Client, fleet: Fleet) -> None:
    data = a_picture("blue", "WEBP")
    job = a_running_job(fleet)
    image_id = images.receive(fleet, an_upload(job, data=data, media_type="image/webp"))
    finish(fleet, job)

    answer = client.get(f"/v1/images/{image_id}")

    assert (answer.status_code, answer.content_type, answer.data) == (200, "image/webp", data)
    assert "immutable" in answer.headers["Cache-Control"]


def test_a_picture_that_a_browser_has_is_not_sent_again(client: Client, fleet: Fleet) -> None:
    (image,) = a_completed_job(fleet).images
    etag = client.get(f"/v1/images/{image.id}").headers["ETag"]

    again = client.get(f"/v1/images/{image.id}", headers={"If-None-Match": etag})

    assert (again.status_code, again.data) == (304, b"")


def test_a_picture_is_not_shown_before_its_job_is_completed(client: Client, fleet: Fleet) -> None:
    job = a_running_job(fleet)
    image_id = images.receive(fleet, an_upload(job))

    assert client.get(f"/v1/images/{image_id}").status_code == 404
    finish(fleet, job)
    assert client.get(f"/v1/images/{image_id}").status_code == 200


def test_a_picture_of_an_attempt_that_lost_is_never_shown(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_running_job(fleet)
    stale = images.receive(fleet, an_upload(job))
    clock.advance(60)
    a_machine(fleet, boot_id="boot-2")
    claim(fleet, job.id, boot_id="boot-2")
    shown = images.receive(fleet, an_upload(job, attempt=2, data=a_picture("blue")))
    finish(fleet, job, attempt=2)

    assert client.get(f"/v1/images/{stale}").status_code == 404
    assert client.get(f"/v1/images/{shown}").data == a_picture("blue")
    assert [image["image_id"] for image in client.get(f"/v1/jobs/{job.id}").json["images"]] == [str(shown)]


def test_a_picture_whose_bytes_are_gone_is_404(client: Client, fleet: Fleet) -> None:
    (image,) = a_completed_job(fleet).images
    assert isinstance(fleet.images, MemoryImages)
    fleet.images.kept.clear()

    answer = client.get(f"/v1/images/{image.id}")

    assert (answer.status_code, answer.json["error"]["code"]) == (404, "image_not_found")


@pytest.mark.parametrize("image_id", [str(UUID(int=7)), "1", "../../etc/passwd"])
def test_an_unknown_picture_is_404(client: Client, image_id: str) -> None:
    answer = client.get(f"/v1/images/{image_id}")

    assert answer.status_code == 404
    assert answer.json["error"]["code"] in {"image_not_found", "not_found"}
