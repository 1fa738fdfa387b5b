"""Every route has an owner, every owner states who may ask, and every problem comes in its owner's own shape."""

import base64
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask, Response

from app.api.application import DIALECTS, make_application
from app.api.door import Auth, Dialect
from app.bootstrap import make_fleet
from app.core.fleet import Fleet
from app.settings import Settings
from tests.builders import a_model
from tests.support.fakes import RecordingDispatcher
from tests.support.web import Client, client_of

ROUTES = {
    "GET /": "pages",
    "GET /static/<path:filename>": "pages",
    "GET /artifacts/<path:name>": "pages",
    "GET /openapi.json": "pages",
    "GET /openapi/<name>.json": "pages",
    "GET /doc": "pages",
    "GET /doc/<name>": "pages",
    "GET /health": "ops",
    "GET /ready": "ops",
    "GET /metrics": "metrics",
    "POST /v1/jobs": "v1",
    "GET /v1/jobs": "v1",
    "GET /v1/jobs/<uuid:job_id>": "v1",
    "POST /v1/jobs/<uuid:job_id>/cancel": "v1",
    "POST /v1/jobs/<uuid:job_id>/retry": "v1",
    "POST /v1/jobs/<uuid:job_id>/replay": "v1",
    "GET /v1/jobs/<uuid:job_id>/replay": "v1",
    "GET /v1/images/<uuid:image_id>/receipt": "v1",
    "POST /v1/jobs/cancel": "v1",
    "GET /v1/events": "v1",
    "GET /v1/timeline": "v1",
    "GET /v1/jobs/<uuid:job_id>/events": "v1",
    "GET /v1/jobs/<uuid:job_id>/timeline": "v1",
    "GET /v1/jobs/<uuid:job_id>/preview": "v1",
    "GET /v1/jobs/<uuid:job_id>/explain": "v1",
    "GET /v1/jobs/<uuid:job_id>/deliveries": "v1",
    "POST /v1/jobs/<uuid:job_id>/deliveries/<uuid:delivery_id>/redeliver": "v1",
    "GET /v1/images": "v1",
    "GET /v1/images/<uuid:image_id>": "v1",
    "GET /v1/images/<uuid:image_id>/thumbnail": "v1",
    "PATCH /v1/images/<uuid:image_id>": "v1",
    "DELETE /v1/images/<uuid:image_id>": "v1",
    "POST /v1/session": "v1",
    "DELETE /v1/session": "v1",
    "POST /v1/inputs": "v1",
    "GET /v1/inputs/<input_id>": "v1",
    "GET /v1/upscalers": "v1",
    "GET /v1/machines": "v1",
    "GET /v1/machines/<machine_id>": "v1",
    "DELETE /v1/machines/<machine_id>": "v1",
    "POST /v1/machines/plan": "v1",
    "GET /v1/placement": "v1",
    "GET /v1/capacity": "v1",
    "GET /v1/capacity/<model_id>": "v1",
    "POST /v1/machines/<machine_id>/drain": "v1",
    "POST /v1/machines/<machine_id>/undrain": "v1",
    "GET /v1/models": "v1",
    "POST /v1/models": "v1",
    "GET /v1/models/<model_id>": "v1",
    "GET /v1/models/<model_id>/picture": "v1",
    "PATCH /v1/models/<model_id>": "v1",
    "DELETE /v1/models/<model_id>": "v1",
    "GET /machines/v1/inputs/<input_id>": "machines",
    "GET /v1/engines": "v1",
    "POST /v1/engines": "v1",
    "GET /v1/engines/<uuid:engine_id>": "v1",
    "DELETE /v1/engines/<uuid:engine_id>": "v1",
    "PATCH /v1/engines/<uuid:engine_id>/start": "v1",
    "POST /v1/engines/<uuid:engine_id>/start": "v1",
    "PATCH /v1/engines/<uuid:engine_id>/stop": "v1",
    "POST /v1/engines/<uuid:engine_id>/stop": "v1",
    "POST /generate": "simple",
    "GET /models": "simple",
    "GET /status": "simple",
    "POST /api/generate": "gallery",
    "GET /api/status/<uuid:job_id>": "gallery",
    "GET /api/image/<uuid:image_id>": "gallery",
    "GET /api/models": "gallery",
    "GET /api/queue": "gallery",
    "GET /api/models/<model_id>": "catalog",
    "POST /api/models/batch": "catalog",
    "POST /machines/v1/check-in": "machines",
    "POST /machines/v1/jobs/<uuid:job_id>/claim": "machines",
    "PUT /machines/v1/jobs/<uuid:job_id>/attempts/<int:number>/images/<int:position>": "machines",
    "POST /machines/v1/jobs/<uuid:job_id>/attempts/<int:number>/finish": "machines",
    "POST /machines/v1/peers": "machines",
    "POST /machines/v1/models": "machines",
    "GET /a1111/": "a1111",
}

A1111 = {
    "POST": """
        txt2img img2img interrupt skip options png-info extra-single-image extra-batch-images interrogate
        refresh-checkpoints refresh-vae refresh-loras refresh-embeddings unload-checkpoint reload-checkpoint
    """,
    "GET": """
        progress options sd-models memory samplers schedulers cmd-flags sd-vae upscalers latent-upscale-modes loras
        embeddings hypernetworks face-restorers realesrgan-models prompt-styles scripts script-info extensions
    """,
}

BESIDE_A1111 = {
    "GET": """
        internal/ping controlnet/version controlnet/model_list controlnet/module_list controlnet/control_types
        controlnet/settings
    """,
    "POST": "controlnet/detect",
}

ROUTES |= {f"{method} /a1111/{name}": "a1111" for method, names in BESIDE_A1111.items() for name in names.split()}
ROUTES |= {f"{method} /a1111/sdapi/v1/{name}": "a1111" for method, names in A1111.items() for name in names.split()}

SDAPI = {
    "POST": "txt2img img2img jobs/<uuid:job_id>/cancel",
    "DELETE": "jobs/<uuid:job_id>",
    "GET": """
        jobs jobs/<uuid:job_id> models models/<model_id> sd-models sd-models/<model_id> loras loras/<lora_id> samplers
        schedulers upscalers sd-vae
    """,
}

ROUTES |= {f"{method} /sdapi/v1/{name}": "sdapi" for method, names in SDAPI.items() for name in names.split()}

OPENAI = {
    "POST": "images/generations images/edits images/variations",
    "GET": "models models/<model_id>",
}

ROUTES |= {f"{method} /openai/v1/{name}": "openai" for method, names in OPENAI.items() for name in names.split()}
ROUTES |= {"GET /openai/v1/images/drawn/<name>": "openai-drawn"}

AUTH = {
    "openai": Auth.CLIENT,
    "openai-drawn": Auth.OPEN,
    "pages": Auth.OPEN,
    "ops": Auth.OPEN,
    "metrics": Auth.METRICS,
    "v1": Auth.CLIENT,
    "simple": Auth.CLIENT,
    "gallery": Auth.CLIENT,
    "catalog": Auth.OPEN,
    "machines": Auth.MACHINE,
    "sdapi": Auth.CLIENT,
    "a1111": Auth.CLIENT_OR_BASIC,
}

OF_CLIENTS = {Auth.CLIENT, Auth.CLIENT_OR_BASIC}

SHAPES = {
    "openai": {"error"},
    "openai-drawn": {"error"},
    "pages": {"error"},
    "ops": {"status", "error"},
    "metrics": {"status", "error"},
    "v1": {"error"},
    "simple": {"detail", "code"},
    "gallery": {"error", "code"},
    "catalog": {"error"},
    "machines": {"code", "message", "facts"},
    "sdapi": {"detail", "error"},
    "a1111": {"detail"},
}

CLIENT, OTHER_CLIENT, MACHINE = "first-client", "second-client", "a-machine"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def routes_of(app: Flask) -> Iterator[tuple[str, str]]:
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule.rule


def owner_of(path: str) -> Dialect:
    """Find whose path it is: the longest prefix wins."""
    owners = [(len(p), d) for d in DIALECTS for p in d.prefixes if path == p or path.startswith(p.rstrip("/") + "/")]
    return max(owners, key=lambda owner: owner[0])[1]


def path_of(rule: str) -> str:
    """Fill in a rule's variables."""
    values = {
        "<path:filename>": "x",
        "<path:name>": "x",
        "<uuid:job_id>": str(uuid4()),
        "<uuid:image_id>": str(uuid4()),
        "<uuid:engine_id>": str(uuid4()),
        "<int:number>": "1",
        "<int:position>": "0",
        "<machine_id>": "x",
        "<model_id>": "x",
        "<lora_id>": "x",
        "<name>": "x",
        "<input_id>": "x",
    }
    for variable, value in values.items():
        rule = rule.replace(variable, value)
    return rule


def ask(client: Client, route: str, token: str | None = None, scheme: str = "Bearer") -> Any:
    method, _, rule = route.partition(" ")
    headers = {} if token is None else {"Authorization": f"{scheme} {token}"}
    return client.open(path_of(rule), method=method, headers=headers)


def test_every_route_has_the_owner_that_the_table_says(application: Flask) -> None:
    found = {f"{method} {rule}": owner_of(path_of(rule)).name for method, rule in routes_of(application)}

    assert found == ROUTES


def test_every_dialect_states_who_may_ask() -> None:
    assert {dialect.name: dialect.auth for dialect in DIALECTS} == AUTH


def test_every_blueprint_belongs_to_one_dialect(application: Flask) -> None:
    owned = [blueprint.name for dialect in DIALECTS for blueprint in dialect.blueprints]

    assert sorted(owned) == sorted(set(application.blueprints) - {"api-docs"})


@pytest.mark.parametrize("route", [route for route, owner in ROUTES.items() if AUTH[owner] is Auth.OPEN])
@pytest.mark.parametrize("token", [None, CLIENT, MACHINE, "wrong"])
def test_an_open_route_asks_for_no_token(guarded: Client, route: str, token: str | None) -> None:
    assert ask(guarded, route, token).status_code != 401


@pytest.mark.parametrize("route", [route for route, owner in ROUTES.items() if AUTH[owner] in OF_CLIENTS])
def test_a_clients_route_takes_any_clients_token_and_no_other(guarded: Client, route: str) -> None:
    assert ask(guarded, route, CLIENT).status_code != 401
    assert ask(guarded, route, OTHER_CLIENT).status_code != 401
    for token in (None, "", "wrong", MACHINE, CLIENT[:-1], f"{CLIENT}x", f"{CLIENT},{OTHER_CLIENT}", "ключ"):
        assert ask(guarded, route, token).status_code == 401, token


@pytest.mark.parametrize("route", [route for route, owner in ROUTES.items() if AUTH[owner] is Auth.CLIENT_OR_BASIC])
def test_a_token_may_come_as_the_password_where_clients_know_no_other_way(guarded: Client, route: str) -> None:
    def basic(credentials: str) -> str:
        return base64.b64encode(credentials.encode()).decode()

    assert ask(guarded, route, basic(f"anybody:{CLIENT}"), "Basic").status_code != 401
    for credentials in (f"{CLIENT}:", "anybody:wrong", f"anybody:{MACHINE}", CLIENT, ""):
        assert ask(guarded, route, basic(credentials), "Basic").status_code == 401, credentials
    assert ask(guarded, route, "not base64", "Basic").status_code == 401


@pytest.mark.parametrize("route", [route for route, owner in ROUTES.items() if AUTH[owner] is Auth.MACHINE])
def test_a_machines_route_takes_the_machines_token_and_no_other(guarded: Client, route: str) -> None:
    assert ask(guarded, route, MACHINE).status_code != 401
    for token in (None, "", "wrong", CLIENT):
        assert ask(guarded, route, token).status_code == 401, token


@pytest.mark.parametrize("route", ROUTES)
def test_a_server_without_tokens_is_open(client: Client, route: str) -> None:
    assert ask(client, route).status_code != 401


def test_the_scheme_is_bearer_in_any_case_and_no_other(guarded: Client) -> None:
    assert ask(guarded, "GET /v1/jobs", CLIENT, "bearer").status_code == 200
    for scheme in ("Basic", "Token", "", "BearerX"):
        assert ask(guarded, "GET /v1/jobs", CLIENT, scheme).status_code == 401, scheme


def test_a_refusal_says_what_to_send_and_never_what_was_sent(guarded: Client) -> None:
    missing, wrong = ask(guarded, "GET /v1/jobs"), ask(guarded, "GET /v1/jobs", "first-clienT")

    assert missing.json["error"]["code"] == "missing_token"
    assert "Authorization: Bearer" in missing.json["error"]["message"]
    assert wrong.json["error"] == {"code": "wrong_token", "message": "this token is not in the server's API_TOKENS"}
    assert missing.headers["WWW-Authenticate"] == wrong.headers["WWW-Authenticate"] == 'Bearer realm="imagefleet"'


@pytest.mark.parametrize("tokens", [["wrong"], ["first-clienT"], ["", CLIENT[:3]], ["x" * 5000]])
def test_the_refusal_is_the_same_for_every_wrong_token(guarded: Client, tokens: list[str]) -> None:
    bodies = {ask(guarded, "GET /v1/jobs", token).text for token in tokens if token}

    assert bodies == {ask(guarded, "GET /v1/jobs", "wrong").text}


def test_a_wrong_token_is_refused_before_anything_is_read(guarded: Client, fleet: Fleet) -> None:
    a_model(fleet)

    answer = guarded.post("/v1/jobs", data=b"{not json", headers={"Authorization": "Bearer wrong"})

    assert answer.status_code == 401


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_path_that_is_nowhere_is_404_in_its_owners_shape(client: Client, dialect: Dialect) -> None:
    for prefix in dialect.prefixes:
        path = f"{prefix.rstrip('/')}/no/such/path"
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.content_type == "application/json"
        assert set(answer.json) == SHAPES[owner_of(path).name]
        assert path in answer.text or answer.json == {
            "detail": "Not Found"
        }  # Automatic1111's words, which clients know


@pytest.mark.parametrize(
    ("path", "method", "owner", "allowed"),
    [
        ("/", "DELETE", "pages", {"GET", "HEAD", "OPTIONS"}),
        ("/health", "POST", "ops", {"GET", "HEAD", "OPTIONS"}),
        ("/v1/jobs", "DELETE", "v1", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("/generate", "GET", "simple", {"OPTIONS", "POST"}),
        ("/api/queue", "DELETE", "gallery", {"GET", "HEAD", "OPTIONS"}),
        ("/api/models/batch", "PUT", "catalog", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("/machines/v1/check-in", "GET", "machines", {"OPTIONS", "POST"}),
        ("/sdapi/v1/txt2img", "DELETE", "sdapi", {"OPTIONS", "POST"}),
        ("/a1111/sdapi/v1/txt2img", "GET", "a1111", {"OPTIONS", "POST"}),
        ("/openai/v1/images/generations", "GET", "openai", {"OPTIONS", "POST"}),
    ],
)
def test_a_method_that_is_not_possible_is_405_in_its_owners_shape_and_names_those_that_are(
    client: Client, path: str, method: str, owner: str, allowed: set[str]
) -> None:
    answer = client.open(path, method=method)

    assert answer.status_code == 405
    assert set(answer.json) == SHAPES[owner]
    instead = " or ".join(sorted(allowed - {"HEAD", "OPTIONS"}))
    assert f"{method} is not possible at {path}; send {instead}" in answer.text or answer.json == {
        "detail": "Method Not Allowed"
    }
    assert {word.strip() for word in answer.headers["Allow"].split(",")} == allowed


@pytest.mark.parametrize(
    ("path", "method", "owner"),
    [
        ("/v1/jobs", "POST", "v1"),
        ("/v1/models", "POST", "v1"),
        ("/generate", "POST", "simple"),
        ("/api/generate", "POST", "gallery"),
        ("/api/models/batch", "POST", "catalog"),
        ("/openai/v1/images/generations", "POST", "openai"),
        ("/machines/v1/check-in", "POST", "machines"),
    ],
)
def test_a_body_that_is_too_large_is_refused_in_its_owners_shape(
    fleet: Fleet, settings: Settings, path: str, method: str, owner: str
) -> None:
    client = client_of(make_application(fleet, replace(settings, max_upload_mb=1)))

    answer = client.open(path, method=method, data=b"[" * 1_500_000, content_type="application/json")

    assert answer.status_code in {400, 413}
    assert set(answer.json) == SHAPES[owner]


@pytest.mark.parametrize(("path", "owner"), [("/v1/jobs", "v1"), ("/machines/v1/check-in", "machines")])
@pytest.mark.parametrize("depth", [100_000])
def test_a_body_nested_without_end_is_refused(client: Client, path: str, owner: str, depth: int) -> None:
    answer = client.post(path, data=b"[" * depth + b"]" * depth, content_type="application/json")

    assert answer.status_code in {400, 422}
    assert set(answer.json) == SHAPES[owner]


def test_a_failure_of_ours_tells_nothing_of_the_inside(client: Client, application: Flask) -> None:
    def fail() -> Response:
        raise RuntimeError("a-secret-inside")

    application.view_functions["v1.list_models"] = fail

    answer = client.get("/v1/models")

    assert (answer.status_code, answer.json["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text


def test_no_log_line_carries_a_prompt_or_a_token(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fleet = replace(make_fleet(settings), dispatcher=RecordingDispatcher())
    tokens = replace(settings, api_tokens=(CLIENT,), machine_token=MACHINE)
    guarded = client_of(make_application(fleet, tokens))
    a_model(fleet)
    order = {"model_id": "a-model", "prompt": "a-secret-prompt", "negative_prompt": "a-secret-wish"}
    known = {"Authorization": f"Bearer {CLIENT}"}

    accepted = guarded.post("/v1/jobs", json=order, headers=known)
    guarded.post("/v1/jobs", json=order | {"steps": 0}, headers=known)
    guarded.post("/v1/jobs", json=order, headers={"Authorization": "Bearer a-secret-guess"})
    with fleet.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE images")
        connection.exec_driver_sql("DROP TABLE attempts")
        connection.exec_driver_sql("DROP TABLE jobs")
    failed = guarded.post("/v1/jobs", json=order, headers=known)
    fleet.engine.dispose()

    assert (accepted.status_code, failed.status_code) == (202, 500)
    assert "failed" in caplog.text
    assert not [word for word in ("a-secret", CLIENT, MACHINE) if word in caplog.text]
