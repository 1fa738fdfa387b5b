"""The machine readable description of the API."""

import re
from typing import Any

import pytest
from flask import Flask
from openapi_spec_validator import validate

from tests.support.web import Client

NOT_DESCRIBED = {"/static/{filename}", "/openapi.json"}
VERBS = {"get", "put", "post", "delete", "patch"}
PAGES = {"/", "/artifacts/{name}"}


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

    assert {route for route in routes if route[0] not in NOT_DESCRIBED} == described


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


def test_every_post_that_takes_an_order_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    taking = {
        path
        for path, verb, operation in operations(document)
        if verb == "post" and "Idempotency-Key" in {p.get("name") for p in operation.get("parameters", ())}
    }

    a1111 = {f"/a1111/sdapi/v1/{name}" for name in ("txt2img", "img2img")}
    v1 = {"/v1/jobs", "/v1/jobs/{job_id}/retry", "/v1/jobs/{job_id}/replay"}
    assert taking == {*v1, *a1111, "/v1/engines", "/generate", "/api/generate"}


def test_the_answer_to_an_order_is_a_job_or_a_list_of_them(document: dict[str, Any]) -> None:
    answer = document["paths"]["/v1/jobs"]["post"]["responses"]["202"]

    (schema,) = [content["schema"] for content in answer["content"].values()]
    assert [one["$ref"].rpartition("/")[2] for one in schema["oneOf"]] == ["Job", "JobBatch"]
