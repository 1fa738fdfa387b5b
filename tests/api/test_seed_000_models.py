"""Seed 000's models: its fields, its words and its errors, beside ours."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from app.api.application import make_application
from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState
from app.core.machines import HoldingReport
from app.settings import Settings
from tests.builders import MODEL, a_job, a_machine, a_model
from tests.provisioning.origin import Origin, Served
from tests.support.processes import free_port
from tests.support.web import Client, client_of

SEEDS_FIELDS = ["model_id", "name", "status", "path", "model_type", "model_base", "variant", "tags"]
SAFETENSORS = b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Leave what depends on the kind of database to test_models and test_paging."""
    return sqlite_url


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve a file, as the address that a client names."""
    with Origin() as origin:
        origin.files["/sdxl.safetensors"] = Served(SAFETENSORS)
        yield origin


@pytest.fixture
def online(fleet: Fleet, settings: Settings) -> Client:
    """Return a client of a server that may fetch from loopback."""
    downloads = replace(settings.downloads, allow_private_addresses=True)
    return client_of(make_application(fleet, replace(settings, downloads=downloads)))


def post(client: Client, status: int = 201, **body: Any) -> Any:
    answer = client.post("/v1/models", json=body)
    assert answer.status_code == status, answer.text
    return answer.json


def test_the_seeds_body_gets_the_seeds_answer(online: Client, origin: Origin) -> None:
    path = f"{origin.url}/sdxl.safetensors"

    model = post(
        online,
        name="SDXL 1.0 base",
        path=path,
        model_type="Checkpoint",
        model_base="SDXL",
        variant="fp16",
        tags=["photo", "base"],
    )

    assert {name: model[name] for name in SEEDS_FIELDS} == {
        "model_id": "SDXL-1.0-base",
        "name": "SDXL 1.0 base",
        "status": "Downloading",
        "path": path,
        "model_type": "Checkpoint",
        "model_base": "SDXL",
        "variant": "fp16",
        "tags": ["photo", "base"],
    }
    assert (model["id"], model["kind"], model["base"], model["download_url"]) == (
        "SDXL-1.0-base",
        "checkpoint",
        "SDXL",
        path,
    )
    assert model["save_path"] == "checkpoints/SDXL-1.0-base.safetensors"
    assert online.get("/v1/models").json["models"] == [model]


def test_without_a_path_the_name_is_a_repository_on_hugging_face(client: Client) -> None:
    model = post(client, name="stabilityai/sdxl-turbo", check=False, model_type="Checkpoint", model_base="SDXL")

    assert (model["model_id"], model["path"]) == ("sdxl-turbo", "hf://stabilityai/sdxl-turbo")


@pytest.mark.parametrize("path", [{}, {"path": None}])
def test_a_name_that_is_no_repository_needs_a_path(client: Client, path: dict[str, Any]) -> None:
    error = post(client, 422, name="my model", check=False, **path)["error"]

    assert error["code"] == "invalid_model"
    assert "hf://" in error["message"]


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [("Checkpoint", "checkpoint"), ("LoRA", "lora"), ("VAE", "vae"), ("Embedding", "embedding")],
)
def test_the_seeds_types_are_kinds_of_ours(client: Client, model_type: str, kind: str) -> None:
    model = post(client, name="a.safetensors", download_url="https://example.org/a", model_type=model_type)

    assert (model["kind"], model["model_type"]) == (kind, model_type)
    assert [m["id"] for m in client.get(f"/v1/models?model_type={model_type}").json["models"]] == ["a"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", None),
        ("name", 7),
        ("path", ""),
        ("path", 7),
        ("path", ["https://example.org/a"]),
        ("model_type", ""),
        ("model_type", "checkpoint"),
        ("model_type", 1),
        ("model_base", ""),
        ("model_base", 1),
        ("variant", ""),
        ("variant", 16),
        ("tags", "photo"),
        ("tags", [1]),
    ],
)
def test_an_empty_field_or_one_of_the_wrong_type_is_named(client: Client, field: str, value: Any) -> None:
    error = post(client, 422, **{"name": "a", "path": "https://example.org/a", field: value})["error"]

    assert error["code"] == "invalid_request"
    assert field in error["fields"]


@pytest.mark.parametrize(
    ("one", "other"), [("path", "download_url"), ("model_type", "kind"), ("model_base", "base"), ("model_id", "id")]
)
def test_a_thing_is_said_by_one_of_its_names(client: Client, one: str, other: str) -> None:
    words = {"path": "https://x/a", "download_url": "https://x/a", "model_type": "LoRA", "kind": "lora"}

    error = post(client, 422, name="a.bin", **{name: words.get(name, "a") for name in (one, other)})["error"]

    assert other in error["fields"][one][0]


@pytest.mark.parametrize("path", ["/missing.safetensors", "/gone"])
def test_a_file_that_cannot_be_found_is_refused_in_the_seeds_words(online: Client, origin: Origin, path: str) -> None:
    error = post(online, 422, name="a", path=f"{origin.url}{path}", model_type="Checkpoint")["error"]

    assert error["code"] == "file_not_found"
    assert error["message"].startswith("failed to find or download file: ")
    assert online.get("/v1/models").json["models"] == []


def test_a_server_that_does_not_answer_is_no_place_for_a_file(online: Client) -> None:
    error = post(online, 422, name="a", path=f"http://127.0.0.1:{free_port()}/a.bin")["error"]

    assert error["code"] == "file_not_found"


def test_an_address_of_the_servers_own_network_is_not_asked(client: Client, origin: Origin) -> None:
    before = len(origin.asked)

    error = post(client, 422, name="a", path=f"{origin.url}/sdxl.safetensors")["error"]

    assert (error["code"], error["reason"]) == ("file_not_found", "address_refused")
    assert len(origin.asked) == before


def test_our_own_word_is_taken_on_trust_unless_a_check_is_asked_for(online: Client, origin: Origin) -> None:
    post(online, name="a.bin", download_url=f"{origin.url}/missing")

    error = post(online, 422, name="a.bin", download_url=f"{origin.url}/missing", check=True)["error"]

    assert error["code"] == "file_not_found"


def test_files_are_taken_from_this_computer_while_it_is_alone(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(SAFETENSORS)

    model = post(client, name="a", path=f"file://{tmp_path}/a.safetensors")
    error = post(client, 422, name="b", path=f"file://{tmp_path}/b.safetensors")["error"]

    assert model["path"] == f"file://{tmp_path}/a.safetensors"
    assert (model["hash"], model["size_bytes"]) == (f"sha256:{sha256(SAFETENSORS).hexdigest()}", len(SAFETENSORS))
    assert error["code"] == "file_not_found"


@pytest.mark.parametrize(
    "path",
    [
        "http://[x",
        "https://example.org:port/a",
        "file://[x/a",
        "file:///a%00b",
        "file://elsewhere/a",
        "ftp://x/a",
        "http://",
    ],
)
def test_what_is_no_address_is_refused_and_never_a_failure(client: Client, path: str) -> None:
    error = post(client, 422, name="a", path=path)["error"]

    assert error["code"] in {"invalid_model", "file_not_found"}


def test_files_are_off_for_clients_with_tokens_unless_their_folder_is_named(
    fleet: Fleet, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "inside").mkdir()
    for name in ("inside/a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(SAFETENSORS)
    (tmp_path / "inside" / "link.safetensors").symlink_to(tmp_path / "b.safetensors")
    guarded = replace(settings, api_tokens=("t",), machine_token="m")
    known = {"Authorization": "Bearer t"}

    def status(settings: Settings, path: str) -> int:
        body = {"name": "a", "path": f"file://{tmp_path}/{path}"}
        answer = client_of(make_application(fleet, settings)).post("/v1/models", json=body, headers=known)
        assert answer.status_code == 201 or answer.json["error"]["code"] == "file_not_found"
        return int(answer.status_code)

    named = replace(guarded, file_folders=(tmp_path / "inside",))

    assert status(guarded, "inside/a.safetensors") == 422
    assert status(named, "inside/a.safetensors") == 201
    for outside in (
        "b.safetensors",
        "inside/../b.safetensors",
        "inside/%2e%2e/b.safetensors",
        "inside/link.safetensors",
    ):
        assert status(named, outside) == 422, outside


@pytest.mark.parametrize(
    ("holdings", "status", "percent", "reason"),
    [
        ([], "Downloading", None, "no live machine holds a-model"),
        ([(HoldingState.DOWNLOADING, 25)], "Downloading", 25.0, "is downloading it, 25 % done"),
        ([(HoldingState.ERROR, 0)], "Error", None, "no machine could get a-model: gpu-0: no such file"),
        ([(HoldingState.ERROR, 0), (HoldingState.DOWNLOADING, 50)], "Downloading", 50.0, "50 % done"),
        ([(HoldingState.READY, 100), (HoldingState.ERROR, 0)], "Ready", 100.0, None),
    ],
)
def test_the_status_is_that_of_the_machine_that_is_furthest(
    client: Client,
    fleet: Fleet,
    holdings: list[tuple[HoldingState, int]],
    status: str,
    percent: float | None,
    reason: str | None,
) -> None:
    a_model(fleet)
    for number, (state, done) in enumerate(holdings):
        error: dict[str, Any] = {"error_code": "gone", "error": "no such file"} if state == HoldingState.ERROR else {}
        holding = HoldingReport(
            model_id=MODEL, state=state, bytes_done=done, bytes_total=100 if done else None, **error
        )
        a_machine(fleet, f"gpu-{number}", holdings=[holding])

    model = client.get(f"/v1/models/{MODEL}").json

    assert (model["status"], model["percent"]) == (status, percent)
    assert (reason or "") in (model["reason"] or "")
    assert client.get(f"/v1/models?status={status}").json["models"] == [model]
    assert client.get(f"/v1/models?status={'Ready' if status != 'Ready' else 'Error'}").json["models"] == []


def test_two_names_that_make_one_id_do_not_replace_each_other(client: Client) -> None:
    post(client, name="my model", download_url="https://example.org/a")

    error = post(client, 409, name="my-model", download_url="https://example.org/b")["error"]
    named = post(client, name="my-model", id="my-model-2", download_url="https://example.org/b")

    assert error["code"] == "model_exists"
    assert named["model_id"] == "my-model-2"


def test_an_entry_is_changed_by_either_name_and_the_rest_stays(client: Client) -> None:
    before = post(client, id="a", name="a.bin", download_url="https://example.org/a", tags=["x"], size_bytes=10**9)

    answer = client.patch("/v1/models/a", json={"model_base": "SDXL", "tags": ["y"], "size_bytes": 2 * 10**9})

    assert answer.status_code == 200, answer.text
    changed = {"base", "model_base", "tags", "size_bytes", "file_size_gb", "updated_at"}
    assert {name for name in before if before[name] != answer.json[name]} <= changed
    assert (answer.json["base"], answer.json["tags"], answer.json["file_size_gb"]) == ("SDXL", ["y"], 2.0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "_schema"),
        ({"check": True}, "_schema"),
        ({"id": "b"}, "id"),
        ({"path": None}, "path"),
        ({"name": ""}, "name"),
    ],
)
def test_a_change_that_cannot_be_meant_is_refused(client: Client, body: dict[str, Any], field: str) -> None:
    post(client, id="a", name="a.bin", download_url="https://example.org/a")

    answer = client.patch("/v1/models/a", json=body)

    assert (answer.status_code, list(answer.json["error"]["fields"])) == (422, [field])


def test_a_change_to_a_file_that_is_not_there_is_refused(online: Client, origin: Origin) -> None:
    post(online, id="a", name="a.bin", download_url="https://example.org/a")

    answer = online.patch("/v1/models/a", json={"path": f"{origin.url}/missing"})

    assert (answer.status_code, answer.json["error"]["code"]) == (422, "file_not_found")
    assert online.get("/v1/models/a").json["path"] == "https://example.org/a"


def test_what_is_written_anew_at_every_start_is_changed_there(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "a", origin="config")

    answer = client.patch("/v1/models/a", json={"description": "x"})
    unknown = client.patch("/v1/models/nowhere", json={"description": "x"})

    assert (answer.status_code, answer.json["error"]["code"]) == (409, "catalogue_read_only")
    assert (unknown.status_code, unknown.json["error"]["code"]) == (404, "model_not_found")


def test_what_engines_jobs_and_models_need_is_not_deleted_and_they_are_named(client: Client, fleet: Fleet) -> None:
    for model_id, kind in (
        ("base", "checkpoint"),
        ("fur", "lora"),
        ("vae", "vae"),
        ("style", "lora"),
        ("free", "lora"),
    ):
        a_model(fleet, model_id, kind=kind)
    a_model(fleet, "top", dependencies=["style"])
    engine = client.post("/v1/engines", json={"checkpoint": "base", "vae": "vae"}).json["engine_id"]
    job = client.post("/v1/jobs", json={"model_id": "base", "prompt": "free", "loras": ["fur"]}).json["job_id"]

    def told(model_id: str) -> str:
        answer = client.delete(f"/v1/models/{model_id}")
        assert (answer.status_code, answer.json["error"]["code"]) == (409, "model_in_use")
        return str(answer.json["error"]["message"])

    assert "has jobs that wait or run" in told("base")
    assert engine in told("vae")
    assert job in told("fur")
    assert "'top' depends on" in told("style")
    assert client.delete("/v1/models/free").status_code == 204  # the prompt's word is no model
    client.post(f"/v1/jobs/{job}/cancel")
    assert client.delete("/v1/models/fur").status_code == 204


def test_a_job_in_the_history_keeps_its_model(client: Client, fleet: Fleet) -> None:
    job = a_job(fleet)
    client.post(f"/v1/jobs/{job.id}/cancel")

    assert "in the history" in client.delete(f"/v1/models/{MODEL}").json["error"]["message"]


def test_a_model_that_comes_again_under_its_key_replaces_nothing(online: Client, origin: Origin) -> None:
    body = {"name": "SDXL 1.0 base", "path": f"{origin.url}/sdxl.safetensors", "model_type": "Checkpoint"}
    key = {"Idempotency-Key": "a-model"}

    first = online.post("/v1/models", json=body, headers=key)
    online.patch(f"/v1/models/{first.json['id']}", json={"tags": ["changed since"]})
    asked = len(origin.asked)
    again = online.post("/v1/models", json=body, headers=key)
    other = online.post("/v1/models", json=body | {"tags": ["other"]}, headers=key)
    online.delete(f"/v1/models/{first.json['id']}")
    gone = online.post("/v1/models", json=body, headers=key)

    assert (first.status_code, again.status_code, again.json["tags"]) == (201, 201, ["changed since"])
    assert [answer.headers.get("Idempotent-Replayed") for answer in (first, again)] == [None, "true"]
    assert (other.status_code, other.json["error"]["code"]) == (409, "idempotency_key_reused")
    assert (gone.status_code, gone.json["error"]["code"]) == (404, "model_not_found")
    assert len(origin.asked) == asked > 0  # its file is looked at once


def test_a_model_that_was_refused_may_be_sent_again_under_its_key(online: Client, origin: Origin) -> None:
    body = {"name": "late", "path": f"{origin.url}/late.safetensors", "model_type": "VAE"}
    key = {"Idempotency-Key": "a-late-model"}
    early = online.post("/v1/models", json=body, headers=key)
    origin.files["/late.safetensors"] = Served(SAFETENSORS)

    answer = online.post("/v1/models", json=body, headers=key)

    assert (early.status_code, answer.status_code) == (422, 201)
    assert "Idempotent-Replayed" not in answer.headers
