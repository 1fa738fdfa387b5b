"""Pages of other web sites: closed by default, and open to those that CORS_ORIGINS names."""

from dataclasses import replace
from typing import Any

import pytest

from app.api.application import make_application
from app.core.fleet import Fleet
from app.parse import SettingsError
from app.settings import Settings
from tests.support.web import Client, client_of

OURS, THEIRS = "https://studio.example.org", "https://elsewhere.example.org"

FOR_BROWSERS = ["/v1/jobs", "/models", "/api/models", "/api/models/x", "/a1111/sdapi/v1/samplers", "/v1/nowhere"]
FOR_OTHERS = ["/health", "/metrics", "/machines/v1/check-in", "/"]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def named(fleet: Fleet, settings: Settings) -> Client:
    """Return a client of a server that a studio's pages may use, with tokens."""
    known = replace(settings, cors_origins=(OURS,), api_tokens=("t",), machine_token="m")
    return client_of(make_application(fleet, known))


def allowed(answer: Any) -> str | None:
    found: str | None = answer.headers.get("Access-Control-Allow-Origin")
    return found


def preflight(client: Client, path: str, origin: str = OURS) -> Any:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x"}
    return client.options(path, headers=asked)


def test_nobody_is_let_in_by_default(client: Client) -> None:
    for path in FOR_BROWSERS + FOR_OTHERS:
        assert allowed(client.get(path, headers={"Origin": OURS})) is None
        assert allowed(preflight(client, path)) is None


def test_pages_that_are_named_may_use_what_is_for_clients(named: Client) -> None:
    for path in FOR_BROWSERS:
        answer, before = named.get(path, headers={"Origin": OURS}), preflight(named, path)
        assert (allowed(answer), allowed(before)) == (OURS, OURS), path
        assert "Origin" in answer.headers["Vary"]
        assert before.status_code in {200, 404}


def test_a_preflight_needs_no_token_and_says_what_may_be_sent(named: Client) -> None:
    answer = preflight(named, "/v1/jobs")

    assert answer.status_code == 200
    assert {"POST", "PATCH", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    sent = set(answer.headers["Access-Control-Allow-Headers"].split(", "))
    assert {"Authorization", "Content-Type", "Idempotency-Key", "Prefer", "Last-Event-ID"} <= sent
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_page_may_read_the_refusal_too_and_our_own_headers(named: Client) -> None:
    answer = named.get("/v1/jobs", headers={"Origin": OURS})

    assert (answer.status_code, allowed(answer)) == (401, OURS)
    assert {"Location", "Retry-After", "ETag"} <= set(answer.headers["Access-Control-Expose-Headers"].split(", "))


@pytest.mark.parametrize(
    "origin", [THEIRS, "null", "https://studio.example.org.evil.example", "http://studio.example.org"]
)
def test_other_pages_stay_outside_and_caches_know_it(named: Client, origin: str) -> None:
    answer = named.get("/v1/jobs", headers={"Origin": origin})

    assert allowed(answer) is None
    assert "Origin" in answer.headers["Vary"]


def test_what_is_not_for_clients_is_for_no_page(named: Client) -> None:
    for path in FOR_OTHERS:
        assert allowed(named.get(path, headers={"Origin": OURS})) is None
        assert allowed(preflight(named, path)) is None


def test_an_asterisk_lets_every_page_in(fleet: Fleet, settings: Settings) -> None:
    client = client_of(make_application(fleet, replace(settings, cors_origins=("*",))))

    assert allowed(client.get("/v1/jobs", headers={"Origin": THEIRS})) == "*"
    assert allowed(client.get("/v1/jobs")) is None


@pytest.mark.parametrize("value", ["studio.example.org", f"{OURS}/", "https://*.example.org", "null"])
def test_what_no_browser_would_send_is_no_origin(value: str, settings: Settings) -> None:
    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        Settings.load({"CORS_ORIGINS": value}, settings.data_dir)
