"""A browser's session: a cookie that stands for a token, for pages of this server and for nobody else."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from app.api.application import make_application
from app.core.fleet import Fleet
from app.settings import Settings
from tests.builders import a_model
from tests.support.web import Client, client_of

TOKEN = "open;sesame=1"
ORDER = {"model_id": "demo", "prompt": "a red circle"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def known(settings: Settings) -> Settings:
    return replace(settings, api_tokens=(TOKEN,), auth_failures_per_minute=3, public_url="https://art.example.org")


@pytest.fixture
def locked(fleet: Fleet, known: Settings) -> Client:
    a_model(fleet, "demo")
    return client_of(make_application(fleet, known))


def log_in(client: Client, token: str = TOKEN) -> Any:
    return client.post("/v1/session", headers={"Authorization": f"Bearer {token}"})


def test_a_right_token_becomes_a_cookie_that_no_script_reads(locked: Client) -> None:
    answer = log_in(locked)

    assert answer.status_code == 204
    cookie = answer.headers["Set-Cookie"]
    for attribute in ("HttpOnly", "SameSite=Strict", "Secure", "Path=/", "Max-Age="):
        assert attribute in cookie
    assert TOKEN not in cookie
    assert locked.get("/v1/jobs", base_url="https://localhost").status_code == 200


def test_a_wrong_token_becomes_none(locked: Client) -> None:
    answer = log_in(locked, "guessed")

    assert answer.status_code == 401
    assert locked.get("/v1/jobs", base_url="https://localhost").status_code == 401


def test_a_session_ends(locked: Client) -> None:
    log_in(locked)

    ended = locked.delete("/v1/session", base_url="https://localhost", headers={"Origin": "https://localhost"})

    assert ended.status_code == 204
    assert locked.get("/v1/jobs", base_url="https://localhost").status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://localhost"}, 202),
        ({"Origin": "https://localhost"}, 202),
        ({"Origin": "https://art.example.org"}, 202),
        ({}, 401),
        ({"Origin": "null"}, 401),
        ({"Origin": "https://evil.example"}, 401),
        ({"Origin": "https://localhost.evil.example"}, 401),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://localhost"}, 401),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://localhost"}, 401),
        ({"Sec-Fetch-Site": "none"}, 401),
    ],
)
def test_a_cookie_orders_from_pages_of_this_server_only(locked: Client, headers: dict[str, str], status: int) -> None:
    log_in(locked)

    answer = locked.post("/v1/jobs", json=ORDER, base_url="https://localhost", headers=headers)

    assert answer.status_code == status


def test_a_token_in_the_header_comes_before_the_cookie(locked: Client) -> None:
    log_in(locked)

    wrong = {"Authorization": "Bearer guessed"}

    assert locked.get("/v1/jobs", base_url="https://localhost", headers=wrong).status_code == 401


def test_a_cookie_of_last_year_is_taken_away_at_once(locked: Client) -> None:
    old = base64.urlsafe_b64encode(b"of-last-year").decode()
    locked.set_cookie("imagefleet", old, domain="localhost")

    first = locked.get("/v1/jobs")

    assert first.status_code == 401
    assert "imagefleet=;" in first.headers["Set-Cookie"]
    assert locked.get("/v1/jobs").json["error"]["code"] == "missing_token"


@pytest.mark.parametrize("text", ["", "%%%", "////", base64.b64encode(b"\xff\xfe").decode()])
def test_a_cookie_that_says_nothing_is_none(locked: Client, text: str) -> None:
    locked.set_cookie("imagefleet", text, domain="localhost")

    assert locked.get("/v1/jobs").json["error"]["code"] == "missing_token"


def test_machines_and_metrics_take_no_cookie(fleet: Fleet, known: Settings) -> None:
    client = client_of(make_application(fleet, replace(known, machine_token="wrench", metrics_token="gauge")))
    for token in ("wrench", "gauge"):
        client.set_cookie("imagefleet", base64.urlsafe_b64encode(token.encode()).decode(), domain="localhost")
        assert client.get("/metrics").status_code == 401
        assert client.post("/machines/v1/check-in", json={}, headers={"Origin": "http://localhost"}).status_code == 401


def test_an_open_server_needs_no_session(client: Client) -> None:
    answer = client.post("/v1/session")

    assert answer.status_code == 204
    assert "Set-Cookie" not in answer.headers
