"""What every answer says to browsers, under which name we are asked, and what the server asks in its own name."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from flask import Flask, Response

from app import logs
from app.api.application import DIALECTS, make_application
from app.api.refusals import Refused
from app.core.fleet import Fleet
from app.settings import Settings
from app.storage import FolderStore
from tests.api.test_doors import owner_of, path_of, routes_of
from tests.builders import a_model
from tests.support.processes import free_port
from tests.support.web import Client, client_of

TOKEN = "a-clients-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HARDENED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def known(settings: Settings) -> Settings:
    """Return the settings of a server that asks for tokens."""
    return replace(settings, api_tokens=(TOKEN,), machine_token="a-machine", auth_failures_per_minute=0)


# Headers


@pytest.mark.parametrize("headers", [{}, BEARER], ids=["refused", "let in"])
def test_every_answer_of_every_route_says_what_browsers_must_not_make_of_it(
    fleet: Fleet, known: Settings, headers: dict[str, str]
) -> None:
    application = make_application(fleet, known)
    client = client_of(application)
    paths = [(method, path_of(rule)) for method, rule in routes_of(application)]

    for method, path in [*paths, *(("GET", f"{d.prefixes[0].rstrip('/')}/no/such/path") for d in DIALECTS)]:
        answer = client.open(path, method=method, headers=headers)
        assert {name: answer.headers.get(name) for name in HARDENED} == HARDENED, path
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], path
        assert "unsafe" not in answer.headers["Content-Security-Policy"], path
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"]), path
        assert "Strict-Transport-Security" not in answer.headers
        assert "Access-Control-Allow-Origin" not in answer.headers, path


def test_nothing_that_needed_a_token_is_kept_by_caches_in_between(fleet: Fleet, known: Settings) -> None:
    application = make_application(fleet, known)
    client = client_of(application)

    for method, rule in routes_of(application):
        answer = client.open(path_of(rule), method=method, headers=BEARER)
        if answer.mimetype == "application/json":
            assert answer.headers["Cache-Control"] in {"no-store", "no-cache"} or "ETag" in answer.headers, rule


@pytest.mark.parametrize(
    ("public_url", "seconds", "told"),
    [
        ("https://fleet.example.org", 3600, "max-age=3600"),
        ("http://fleet.example.org", 3600, None),
        ("", 3600, None),
        ("https://fleet.example.org", 0, None),
    ],
)
def test_browsers_are_told_to_insist_on_tls_where_the_operator_says_so(
    fleet: Fleet, known: Settings, public_url: str, seconds: int, told: str | None
) -> None:
    client = client_of(make_application(fleet, replace(known, public_url=public_url, hsts_seconds=seconds)))

    assert client.get("/health").headers.get("Strict-Transport-Security") == told


def test_a_failure_has_the_headers_too_and_names_the_request_that_the_log_names(
    application: Flask, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Response:
        logs_of.append(logs.request_id.get())
        raise RuntimeError("inside")

    logs_of: list[str] = []
    application.view_functions["v1.list_models"] = fail

    answer = client.get("/v1/models")

    request_id = answer.headers["X-Request-Id"]
    assert logs_of == [request_id]
    assert request_id in answer.json["error"]["message"]
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "failed" in caplog.text


# Request ids


@pytest.mark.parametrize("status", [500, 503])
def test_every_dialect_names_the_request_where_it_fails(application: Flask, client: Client, status: int) -> None:
    def fail(**_: Any) -> Response:
        raise RuntimeError("inside") if status == 500 else Refused(503, "not_now", "come again")

    for endpoint in set(application.view_functions):
        application.view_functions[endpoint] = fail

    for dialect in DIALECTS:
        path = next(path_of(r) for verb, r in routes_of(application) if verb == "GET" and owner_of(r) is dialect)
        answer = client.get(path, headers={"X-Request-Id": "my-own-1"})
        assert answer.status_code == dialect.status_of(status), path
        assert answer.headers["X-Request-Id"] == "my-own-1"
        assert answer.text.count("my-own-1") == (0 if dialect.name == "catalog" else 1), answer.text  # its seed's words


@pytest.mark.parametrize("given", ["a", "req-1.2_3", "0" * 64, "9f1c0a2e-7d1b-4c55-9d2e-1f0c6a3b2d11"])
def test_a_well_formed_request_id_is_taken(client: Client, given: str) -> None:
    assert client.get("/health", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a b", "0" * 65, "<script>", "ü", "a,b", "-x", "a\tb", "${jndi:ldap://x}"])
def test_anything_else_gets_a_new_one(client: Client, given: str) -> None:
    found = client.get("/health", headers={"X-Request-Id": given}).headers["X-Request-Id"]

    assert re.fullmatch("[0-9a-f]{32}", found)


def test_log_lines_of_a_request_carry_its_id_and_others_none(
    application: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    log = logging.getLogger("app.test")

    def look() -> str:
        log.warning("inside")
        return "ok"

    application.view_functions["ops.health"] = look
    try:
        logs.configure("WARNING")
        client_of(application).get("/health", headers={"X-Request-Id": "my-id"})
        log.warning("outside")
    finally:
        root.handlers[:] = before
        root.setLevel(level)

    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("app.test: ")[2] for line in lines] == ["inside [my-id]", "outside"]


# Under which name


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("anything.localhost:1", 200),
        ("192.0.2.7", 200),
        ("evil.example.org", 421),
        ("evil.example.org:8000", 421),
        ("localhost.evil.example.org", 421),
        ("127.0.0.1.evil.example.org", 421),
        ("", 421),
        ("[", 421),
        ("[::1", 421),
        ("//evil.example.org", 421),
        ("localhost@evil.example.org", 421),
        ("x" * 5000, 421),
    ],
)
def test_an_open_server_is_not_asked_under_a_strangers_name(client: Client, host: str, status: int) -> None:
    answer = client.get("/v1/jobs", headers={"Host": host})

    assert answer.status_code == status
    if status != 200:
        assert answer.json["error"]["code"] == "wrong_host"
        assert "ALLOWED_HOSTS" in answer.json["error"]["message"]


def test_the_operators_names_are_taken(fleet: Fleet, settings: Settings) -> None:
    named = replace(
        settings, allowed_hosts=("fleet.lan",), public_url="https://pics.example.org", fleet_url="http://in:8000"
    )
    client = client_of(make_application(fleet, named))

    told = [
        client.get("/v1/jobs", headers={"Host": host}).status_code
        for host in ("fleet.lan", "pics.example.org", "in:80")
    ]

    assert told == [200] * 3
    assert client.get("/v1/jobs", headers={"Host": "192.0.2.7"}).status_code == 421


def test_with_tokens_a_name_matters_only_where_the_operator_says_so(fleet: Fleet, known: Settings) -> None:
    def told(settings: Settings) -> int:
        client = client_of(make_application(fleet, settings))
        return int(client.get("/v1/jobs", headers={"Host": "any.example.org", **BEARER}).status_code)

    assert told(known) == 200
    assert told(replace(known, allowed_hosts=("fleet.lan",))) == 421


@pytest.mark.parametrize("host", ["evil.example.org", "localhost"])
def test_machines_and_health_checks_may_call_the_server_what_they_like(
    fleet: Fleet, known: Settings, host: str
) -> None:
    client = client_of(make_application(fleet, replace(known, allowed_hosts=("fleet.lan",))))
    machine = {"Host": host, "Authorization": "Bearer a-machine"}

    told = client.post("/machines/v1/check-in", json={"machine_id": "gpu-1", "boot_id": "b"}, headers=machine)

    assert told.status_code == 200
    assert client.get("/health", headers={"Host": host}).status_code == 200
    assert client.post("/api/models/batch", json={"model_ids": []}, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example.org"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 422),
        ({"Sec-Fetch-Site": "none"}, 422),
        ({}, 422),
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/generate", "/api/generate", "/a1111/sdapi/v1/png-info"])
def test_a_page_of_another_site_orders_nothing_from_an_open_server(
    client: Client, headers: dict[str, str], status: int, path: str
) -> None:
    answer = client.post(path, json={"steps": "x"}, headers=headers)

    assert answer.status_code == status or (status == 422 and answer.status_code in {400, 422})


# What the server asks in its own name


class Secret(BaseHTTPRequestHandler):
    """Something in the server's own network that is nobody's business."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Remember that it was asked."""
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"secret")

    do_POST = do_GET  # noqa: N815  # the library's own naming

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def inner_service() -> Iterator[int]:
    """Run it on a free port of loopback."""
    Secret.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Secret)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_host_is_no_way_through_the_check_of_addresses(fleet: Fleet, known: Settings) -> None:
    client = client_of(make_application(fleet, known))
    with inner_service() as port:
        a_model(fleet, "stolen", download_url=f"http://127.0.0.1:{port}/secret", hash="0" * 64)
        a_model(fleet, "ours", download_url="/secret", hash="0" * 64)

        for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
            answer = client.post(
                "/v1/machines/plan", json={"models_needed": "stolen,ours"}, headers={"Host": host, **BEARER}
            )
            lines = {line["model"]: line for line in answer.json["models"]}
            assert lines["stolen"]["error"]["code"] == "address_refused"
        entry = {
            "name": "x",
            "download_url": f"http://127.0.0.1:{port}/x",
            "save_path": "checkpoints/x",
            "hash": "0" * 64,
            "check": True,
        }
        client.post("/v1/models", json=entry, headers={"Host": f"127.0.0.1:{port}", **BEARER})

        assert Secret.asked == []


def test_what_the_server_hands_out_itself_is_still_found_by_its_plans(fleet: Fleet, known: Settings) -> None:
    with inner_service() as port:
        a_model(fleet, "ours", download_url="/artifact", hash="0" * 64)
        client = client_of(make_application(fleet, replace(known, fleet_url=f"http://127.0.0.1:{port}")))

        answer = client.post(
            "/v1/machines/plan", json={"models_needed": "ours"}, headers={"Host": "any.example.org", **BEARER}
        )

        assert (
            answer.json["models"][0]["error"] is None or answer.json["models"][0]["error"]["code"] != "address_refused"
        )
        assert Secret.asked == ["/artifact"]


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/static/../settings.py",
        "/static/%2e%2e/settings.py",
        "/static/..%2fsettings.py",
        "/static//etc/passwd",
        "/static/%00",
        "/artifacts/../settings.py",
        "/artifacts/%2e%2e%2fsettings.py",
        "/artifacts//etc/passwd",
        "/artifacts/%2fetc%2fpasswd",
        "/artifacts/..\\settings.py",
        "/doc/..%2f..%2fsettings.py",
        "/v1/inputs/..%2f..%2fdb",
        "/v1/images/..%2f..%2fdb",
        "/api/image/..%2fdb",
        "/v1/models/..%2f..%2fetc",
        "/v1/models/%00",
        "/api/models/..%2f..%2fetc",
        "/openapi/..%2f..%2fsettings.json",
    ],
)
def test_no_path_leads_out_of_what_is_handed_out(client: Client, path: str) -> None:
    answer = client.get(path, follow_redirects=True)

    assert answer.status_code in {400, 404, 422}
    assert "root:" not in answer.text
    assert "Settings" not in answer.text


def test_a_store_follows_no_link_out_of_its_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store = FolderStore(tmp_path / "images")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "ab").symlink_to(outside)

    for key in ("ab/secret", "../outside/secret", "/etc/passwd", str(outside / "secret")):
        with pytest.raises(KeyError):
            store.get(key)
        with pytest.raises(KeyError):
            store.put(key, b"x")
    assert (outside / "secret").read_bytes() == b"secret"
