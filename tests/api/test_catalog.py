"""Seed 003: model lookup, to the letter."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event

from app.api.application import make_application
from app.core import models
from app.core.fleet import Fleet
from app.core.models import CatalogueEntry
from app.settings import Settings
from tests.builders import a_model
from tests.support.processes import free_port
from tests.support.web import Client, client_of

FLUX: dict[str, Any] = {
    "id": "flux-dev",
    "name": "flux1-dev.safetensors",
    "download_url": "https://huggingface.co/black-forest-labs/FLUX.1-dev/resolve/main/flux1-dev.safetensors",
    "file_size_gb": 23.8,
    "hash": "7fac5935ad7b22c0e9147b26ae3f890b",
    "auth_required": True,
    "auth_provider": "huggingface",
    "save_path": "checkpoints/flux1-dev.safetensors",
    "dependencies": [],
    "description": "FLUX.1-dev - Professional AI image generation model",
}
SDXL: dict[str, Any] = {
    "id": "sdxl-base",
    "name": "sd_xl_base_1.0_0.9vae.safetensors",
    "download_url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/"
    "sd_xl_base_1.0_0.9vae.safetensors",
    "file_size_gb": 6.94,
    "hash": "e6bb9ea85bbf7bf6478a7c6d18b71246f22e95d41bcdd80ed40aa212c33cfeff",
    "auth_required": False,
    "auth_provider": None,
    "save_path": "checkpoints/sd_xl_base_1.0_0.9vae.safetensors",
    "dependencies": [],
    "description": "Stable Diffusion XL base model",
}
SEED_FIELDS = list(FLUX)
BATCH = "/api/models/batch"

HOSTILE_IDS = [
    "x' OR '1'='1",
    "flux-dev'; DROP TABLE models; --",
    '"; SELECT 1; --',
    "%",
    "_",
    "flux-dev\n",
    "FLUX-DEV",
    "{}",
    "x" * 10_000,
    "模型",
    "😀",
    "..",
    "\ud800",
]


@pytest.fixture
def stocked(client: Client, fleet: Fleet) -> Client:
    """Return a client of a server that knows the seed's two models."""
    with fleet.transaction() as tx:
        for model in (FLUX, SDXL):
            models.put(tx, CatalogueEntry(**model), origin="api")
    return client


def as_in_the_seed(model: dict[str, Any]) -> dict[str, Any]:
    """Return the seed's fields of an answer, which stand first and in its order."""
    assert list(model)[: len(SEED_FIELDS)] == SEED_FIELDS
    return {name: model[name] for name in SEED_FIELDS}


def look_up(client: Client, *ids: Any) -> dict[str, Any]:
    answer = client.post(BATCH, json={"model_ids": list(ids)})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json
    return body


@contextmanager
def counted_statements(engine: Engine) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("model", [FLUX, SDXL], ids=["flux-dev", "sdxl-base"])
def test_one_model_is_shown_as_in_the_seed(stocked: Client, model: dict[str, Any]) -> None:
    answer = stocked.get(f"/api/models/{model['id']}")

    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert as_in_the_seed(answer.json) == model


def test_an_unknown_model_is_404_with_its_id(stocked: Client) -> None:
    answer = stocked.get("/api/models/nonexistent-model")

    assert (answer.status_code, answer.json) == (404, {"error": "Model not found", "model_id": "nonexistent-model"})


def test_a_batch_is_answered_as_in_the_seed(stocked: Client) -> None:
    body = look_up(stocked, "flux-dev", "sdxl-base", "controlnet-canny")

    assert list(body) == ["models", "not_found"]
    assert [as_in_the_seed(model) for model in body["models"]] == [FLUX, SDXL]
    assert body["not_found"] == ["controlnet-canny"]


def test_a_batch_is_answered_in_the_order_asked_and_each_id_once(stocked: Client) -> None:
    body = look_up(stocked, "z", "sdxl-base", "a", "flux-dev", "sdxl-base", "z", "flux-dev")

    assert [model["id"] for model in body["models"]] == ["sdxl-base", "flux-dev"]
    assert body["not_found"] == ["z", "a"]


def test_an_empty_batch_has_an_empty_answer(stocked: Client) -> None:
    assert look_up(stocked) == {"models": [], "not_found": []}


def test_a_batch_of_unknown_ids_is_no_error(stocked: Client) -> None:
    assert look_up(stocked, "a", "b") == {"models": [], "not_found": ["a", "b"]}


def test_dependencies_and_missing_facts_are_told_as_json_has_them(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "a-lora", kind="lora", dependencies=["sdxl-base", "vae"])

    model = client.get("/api/models/a-lora").json

    assert model["dependencies"] == ["sdxl-base", "vae"]
    assert (model["hash"], model["file_size_gb"], model["description"]) == (None, None, None)


def test_bytes_are_also_told_in_gigabytes(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "big", size_bytes=6_940_000_000)

    assert client.get("/api/models/big").json["file_size_gb"] == 6.94


def test_what_the_server_hands_out_itself_has_an_address_the_asker_can_reach(client: Client, fleet: Fleet) -> None:
    a_model(fleet, "own", download_url="/artifacts/own.bin")

    model = client.get("/api/models/own", base_url="http://fleet.example.org:8080").json

    assert model["download_url"] == "http://fleet.example.org:8080/artifacts/own.bin"


def test_a_hundred_ids_take_one_select(stocked: Client, fleet: Fleet) -> None:
    ids = ["flux-dev", *(f"unknown-{k}" for k in range(99))]

    with counted_statements(fleet.engine) as statements:
        body = look_up(stocked, *ids)

    assert len(body["not_found"]) == 99
    assert len([s for s in statements if s.lstrip().upper().startswith("SELECT")]) == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "model_ids must be an array"),
        ({"model_ids": None}, "model_ids must be an array"),
        ({"model_ids": "flux-dev"}, "model_ids must be an array"),
        ({"model_ids": {"0": "flux-dev"}}, "model_ids must be an array"),
        ({"ids": ["flux-dev"]}, "model_ids must be an array"),
        ({"model_ids": ["flux-dev", 1]}, "1"),
        ({"model_ids": [None]}, "None"),
        ({"model_ids": [True]}, "True"),
        ({"model_ids": [["flux-dev"]]}, "flux-dev"),
        ({"model_ids": [""]}, "non-empty"),
        (["flux-dev"], "must be JSON such as"),
        ("flux-dev", "must be JSON such as"),
        (None, "must be JSON such as"),
        (7, "must be JSON such as"),
    ],
)
def test_a_body_of_another_form_is_400_and_says_what_is_wrong(stocked: Client, body: Any, told: str) -> None:
    answer = stocked.post(BATCH, json=body)

    assert answer.status_code == 400
    assert list(answer.json) == ["error"]
    assert told in answer.json["error"]


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", "application/json"),
        (b"{not json", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"model_ids=flux-dev", "application/x-www-form-urlencoded"),
        (b'{"model_ids": ["flux-dev"]}', "text/plain"),
    ],
)
def test_what_is_no_json_is_400(stocked: Client, data: bytes, content_type: str) -> None:
    answer = stocked.post(BATCH, data=data, content_type=content_type)

    assert answer.status_code == 400
    assert list(answer.json) == ["error"]


def test_more_ids_than_the_limit_are_400_and_as_many_are_not(fleet: Fleet, settings: Settings) -> None:
    client = client_of(make_application(fleet, replace(settings, max_batch_ids=3)))

    answer = client.post(BATCH, json={"model_ids": ["a", "b", "c", "d"]})

    assert answer.status_code == 400
    assert "3 are the most" in answer.json["error"]
    assert look_up(client, "a", "b", "c")["not_found"] == ["a", "b", "c"]


def test_the_default_limit_of_ids_is_answered(stocked: Client, settings: Settings) -> None:
    ids = [f"unknown-{k}" for k in range(settings.max_batch_ids)]

    assert look_up(stocked, *ids)["not_found"] == ids


@pytest.mark.parametrize("hostile", HOSTILE_IDS)
def test_hostile_ids_are_only_not_found(stocked: Client, hostile: str) -> None:
    body = look_up(stocked, hostile, "flux-dev")

    assert body["not_found"] == [hostile]
    assert [model["id"] for model in body["models"]] == ["flux-dev"]


@pytest.mark.parametrize("path", ["x'%20OR%20'1'='1", "%00", "flux-dev%00", "%25", "%F0%9F%98%80", "%FF", "x" * 5000])
def test_hostile_paths_are_only_not_found(stocked: Client, path: str) -> None:
    answer = stocked.get(f"/api/models/{path}")

    assert answer.status_code == 404
    assert answer.json["error"] == "Model not found"


def test_an_id_with_nul_is_refused_in_a_batch(stocked: Client) -> None:
    assert stocked.post(BATCH, json={"model_ids": ["flux-dev\x00"]}).status_code == 400


@pytest.fixture(params=["no tables", "no server"])
def broken(request: pytest.FixtureRequest, fleet: Fleet, settings: Settings) -> Iterator[Client]:
    """Return a client of a server whose database fails."""
    urls = {"no tables": "sqlite://", "no server": f"postgresql+psycopg://fleet@127.0.0.1:{free_port()}/fleet"}
    engine = create_engine(urls[request.param])
    yield client_of(make_application(replace(fleet, engine=engine), settings))
    engine.dispose()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_error_is_500_and_tells_nothing_of_the_inside(broken: Client) -> None:
    single = broken.get("/api/models/flux-dev")
    batch = broken.post(BATCH, json={"model_ids": ["flux-dev"]})

    assert (single.status_code, single.json) == (500, {"error": "Internal server error"})
    assert (batch.status_code, batch.json) == (500, {"error": "Internal server error"})


def test_the_catalog_needs_no_token_also_where_clients_do(guarded: Client, fleet: Fleet) -> None:
    a_model(fleet, "flux-dev")

    assert guarded.get("/api/models/flux-dev").status_code == 200
    assert len(look_up(guarded, "flux-dev")["models"]) == 1


def test_a_model_that_is_known_is_not_sent_again(stocked: Client, fleet: Fleet) -> None:
    first = stocked.get("/api/models/flux-dev")
    again = stocked.get("/api/models/flux-dev", headers={"If-None-Match": first.headers["ETag"]})
    a_model(fleet, "flux-dev", description="changed")
    changed = stocked.get("/api/models/flux-dev", headers={"If-None-Match": first.headers["ETag"]})

    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert (changed.status_code, changed.json["description"]) == (200, "changed")
    assert first.headers["Cache-Control"] == "no-cache"


def test_a_tag_never_hides_that_a_model_is_gone(stocked: Client) -> None:
    assert stocked.get("/api/models/nowhere", headers={"If-None-Match": "*"}).status_code == 404


def test_an_unknown_field_of_a_batch_is_named(stocked: Client) -> None:
    answer = stocked.post(BATCH, json={"model_ids": ["flux-dev"], "modelIds": []})

    assert (answer.status_code, answer.json) == (400, {"error": "unknown field 'modelIds'; the body has model_ids"})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_address_that_asks_too_often_is_told_when_to_come_again(fleet: Fleet, settings: Settings) -> None:
    known = replace(settings, catalog_requests_per_minute=3, machine_token="m", trusted_proxies=("127.0.0.0/8",))
    client = client_of(make_application(fleet, known))

    def ask(address: str, **more: str) -> Any:
        return client.get("/api/models/x", headers={"X-Forwarded-For": address, **more})

    taken = [ask("203.0.113.1").status_code for _ in range(3)]
    refused = client.post(BATCH, json={"model_ids": ["x"]}, headers={"X-Forwarded-For": "203.0.113.1"})

    assert taken == [404, 404, 404]
    assert (refused.status_code, list(refused.json)) == (429, ["error"])
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert ask("203.0.113.2").status_code == 404
    assert ask("203.0.113.1", Authorization="Bearer m").status_code == 404
    assert ask("203.0.113.1", Authorization="Bearer wrong").status_code == 429
    assert client.get("/v1/jobs").status_code == 200
