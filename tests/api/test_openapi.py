"""The machine readable description of the API."""

import re
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import validate

from app.api.application import DIALECTS
from app.api.documents import documents
from app.api.door import Auth, Dialect
from app.settings import Settings
from tests.support.web import Client

A1111_ORDERS = ("txt2img", "img2img", "extra-single-image", "extra-batch-images")
VERBS = {"get", "put", "post", "delete", "patch"}
PAGES = {"/", "/artifacts/{name}", "/static/{filename}"}
OF_FLASK_SMOREST = {"Error", "PaginationMetadata"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def document(client: Client) -> dict[str, Any]:
    """Return the document as a client gets it."""
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json
    return body


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, verb, what) for path, item in document["paths"].items() for verb, what in item.items() if verb in VERBS
    ]


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_route_is_described(document: dict[str, Any], application: Flask) -> None:
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    described = {(path, verb) for path, verb, _ in operations(document)}

    assert routes == described


def test_every_operation_says_what_it_is_for_and_what_comes_back(document: dict[str, Any]) -> None:
    for path, verb, operation in operations(document):
        where = f"{verb} {path}"
        assert operation.get("summary"), where
        if path not in PAGES | {"/health", "/ready"}:
            answers = [status for status in operation["responses"] if status.startswith("2") or status == "501"]
            assert answers, where


def test_an_order_is_described_with_its_limits(document: dict[str, Any]) -> None:
    order = document["components"]["schemas"]["JobRequest"]

    assert {"prompt", "prompts"} <= set(order["properties"])
    assert order["properties"]["priority"]["maximum"] == 9
    assert order["properties"]["steps"]["minimum"] == 1
    assert "Euler a" in order["properties"]["scheduler"]["enum"]


def test_every_post_that_makes_something_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    taking = {
        path
        for path, verb, operation in operations(document)
        if verb == "post" and "Idempotency-Key" in {p.get("name") for p in operation.get("parameters", ())}
    }

    a1111 = {f"/a1111/sdapi/v1/{name}" for name in A1111_ORDERS}
    v1 = {f"/v1/{name}" for name in ("jobs", "engines", "models", "inputs")}
    again = {"/v1/jobs/{job_id}/retry", "/v1/jobs/{job_id}/replay"}
    sdapi = {f"/sdapi/v1/{name}" for name in ("txt2img", "img2img")}
    openai = {f"/openai/v1/images/{name}" for name in ("generations", "edits", "variations")}
    assert taking == {*v1, *again, *a1111, *sdapi, *openai, "/a1111/controlnet/detect", "/generate", "/api/generate"}


def test_machines_and_nobody_else_may_be_told_to_be_upgraded(document: dict[str, Any]) -> None:
    found = {(operation["tags"][0], "426" in operation["responses"]) for _, _, operation in operations(document)}

    assert {tag for tag, is_told in found if is_told} == {"machines"}
    assert ("machines", False) not in found


def test_the_answer_to_an_order_is_a_job_or_a_list_of_them(document: dict[str, Any]) -> None:
    answer = document["paths"]["/v1/jobs"]["post"]["responses"]["202"]

    (schema,) = [content["schema"] for content in answer["content"].values()]
    assert [one["$ref"].rpartition("/")[2] for one in schema["oneOf"]] == ["Job", "JobBatch"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_each_dialect_has_a_document_of_its_own(client: Client, document: dict[str, Any], dialect: Dialect) -> None:
    own = client.get(f"/openapi/{dialect.name}.json").json

    validate(own)
    assert own["paths"]
    assert all(document["paths"][path] == item for path, item in own["paths"].items())
    assert own["info"]["description"] == dialect.about
    assert len(dialect.about.split()) > 5


def test_a_document_of_nobody_is_404_and_names_those_that_are(client: Client) -> None:
    answer = client.get("/openapi/nobody.json")

    assert answer.status_code == 404
    assert "v1, " in answer.json["error"]


def test_the_documents_are_listed_for_the_page_that_shows_them(application: Flask, client: Client) -> None:
    with application.app_context():
        found = documents().listing()

    assert found[0].path == "/openapi.json"
    assert {each.name for each in found} == {"all", *(dialect.name for dialect in DIALECTS)}
    assert all(client.get(each.path).status_code == 200 for each in found)


def test_every_problem_is_in_its_dialects_shape_with_an_example_that_fits(document: dict[str, Any]) -> None:
    dialects = {dialect.name: dialect for dialect in DIALECTS}
    assert not OF_FLASK_SMOREST & set(document["components"]["schemas"])
    for path, verb, operation in operations(document):
        (tag,) = operation["tags"]
        error = dialects[tag].error
        assert error is not None
        assert "default" not in operation["responses"], path
        for status, answer in operation["responses"].items():
            if int(status) < 400 or path == "/ready":
                continue
            content = answer["content"]["application/json"]
            assert content["schema"]["$ref"].rpartition("/")[2] == error.__name__.removesuffix("Schema"), (verb, path)
            assert not error().validate(content["example"]), (verb, path, status)
            assert ("Retry-After" in answer.get("headers", {})) == (status in {"429", "503"})


def test_operations_have_names_of_their_own(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", name) for name in names)


def test_security_is_what_each_dialect_asks_for_where_there_are_tokens(client: Client, guarded: Client) -> None:
    schemes = {
        Auth.OPEN: [],
        Auth.CLIENT: ["bearer"],
        Auth.CLIENT_OR_BASIC: ["basic", "bearer"],
        Auth.MACHINE: ["bearer"],
        Auth.METRICS: [],  # no METRICS_TOKEN is set
    }
    auth = {dialect.name: dialect.auth for dialect in DIALECTS}

    for _, _, operation in operations(guarded.get("/openapi.json").json):
        (tag,) = operation["tags"]
        assert [name for each in operation["security"] for name in each] == schemes[auth[tag]], tag
    for _, _, operation in operations(client.get("/openapi.json").json):
        assert operation["security"] == []


def test_pictures_and_streams_are_described_as_what_they_are(document: dict[str, Any]) -> None:
    def kinds(path: str) -> set[str]:
        return set(document["paths"][path]["get"]["responses"]["200"]["content"])

    assert kinds("/v1/images/{image_id}") == kinds("/api/image/{image_id}") == {"image/png", "image/jpeg", "image/webp"}
    assert kinds("/v1/jobs/{job_id}/events") == kinds("/v1/events") == {"text/event-stream"}
    assert kinds("/metrics") == {"text/plain"}


def test_this_servers_limits_stand_in_the_document(document: dict[str, Any], settings: Settings) -> None:
    order = document["components"]["schemas"]["JobRequest"]["properties"]

    assert order["steps"]["maximum"] == settings.max_steps
    assert order["prompt"]["maxLength"] == settings.max_prompt
    assert order["width"]["maximum"] == settings.max_size
