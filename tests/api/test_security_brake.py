"""The brake on guessing tokens, and whose address is counted."""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from limits.storage import MemoryStorage

from app.api import brake as braking
from app.api.application import make_application
from app.api.brake import Brake, network_of
from app.api.rates import store_at
from app.core.fleet import Fleet
from app.settings import Settings
from tests.support.broker import BrokerServer
from tests.support.web import Client, client_of

MOST = 3
KEY = b"a secret of the servers"
HOME, ELSEWHERE, PROXY, OTHER_PROXY = "203.0.113.7", "198.51.100.9", "10.0.0.1", "10.0.0.2"
FIRST, SECOND, MACHINE = "first-client", "second-client", "a-machine"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def known(settings: Settings) -> Settings:
    """Return the settings of a server that looks at three wrong tokens of an address in a minute."""
    return replace(settings, api_tokens=(FIRST, SECOND), machine_token=MACHINE, auth_failures_per_minute=MOST)


@pytest.fixture(params=["memory", "redis"])
def braked(request: pytest.FixtureRequest, fleet: Fleet, known: Settings) -> Client:
    """Return a client of that server."""
    live_url = request.getfixturevalue("broker_url") if request.param == "redis" else ""
    return client_of(make_application(fleet, replace(known, live_url=live_url)))


def ask(client: Client, token: str, address: str = HOME, path: str = "/v1/jobs", **headers: str) -> Any:
    given = {"Authorization": f"Bearer {token}"} | {name.replace("_", "-"): text for name, text in headers.items()}
    return client.get(path, headers=given, environ_base={"REMOTE_ADDR": address})


def guess(client: Client, times: int, address: str = HOME, **headers: str) -> list[int]:
    return [ask(client, f"guess-{number}", address, **headers).status_code for number in range(times)]


def test_after_so_many_wrong_tokens_none_is_looked_at_for_a_while(braked: Client) -> None:
    assert guess(braked, MOST + 2) == [401] * MOST + [429] * 2

    answer = ask(braked, FIRST)

    assert (answer.status_code, answer.json["error"]["code"]) == (429, "too_many_wrong_tokens")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert ask(braked, FIRST, ELSEWHERE).status_code == 200


def test_whoever_was_let_in_from_there_before_is_let_in_all_the_same(braked: Client) -> None:
    assert ask(braked, FIRST).status_code == 200
    guess(braked, MOST + 2)

    assert ask(braked, FIRST).status_code == 200
    assert ask(braked, SECOND).status_code == 429


def test_a_token_that_was_proven_elsewhere_or_taken_back_opens_nothing(fleet: Fleet, known: Settings) -> None:
    path = known.data_dir / "tokens"
    path.write_text("carol:client:of-carol", encoding="utf-8")
    client = client_of(make_application(fleet, replace(known, tokens_file=path)))
    assert ask(client, "of-carol").status_code == 200
    path.write_text("", encoding="utf-8")
    guess(client, MOST)

    assert ask(client, "of-carol").status_code == 401
    assert ask(client, "of-carol", ELSEWHERE).status_code == 401


def test_requests_without_a_token_are_no_guesses(braked: Client) -> None:
    for _ in range(MOST * 3):
        assert braked.get("/v1/jobs", environ_base={"REMOTE_ADDR": HOME}).status_code == 401

    assert ask(braked, FIRST).status_code == 200


def test_guesses_at_all_doors_count_together_and_each_refuses_in_its_own_words(braked: Client) -> None:
    ask(braked, "guess", path="/v1/jobs")
    ask(braked, "guess", path="/a1111/sdapi/v1/samplers")
    braked.post("/machines/v1/check-in", headers={"Authorization": "Bearer x"}, environ_base={"REMOTE_ADDR": HOME})

    assert ask(braked, "guess", path="/v1/jobs").json["error"]["code"] == "too_many_wrong_tokens"
    assert "detail" in ask(braked, "guess", path="/a1111/sdapi/v1/samplers").json
    assert ask(braked, "guess", path="/health").status_code == 200


@pytest.mark.parametrize("where", ["memory", "redis"])
def test_what_is_refused_unread_is_not_counted_so_the_minute_ends(where: str, request: pytest.FixtureRequest) -> None:
    store = store_at(request.getfixturevalue("broker_url")) if where == "redis" else MemoryStorage()
    brake = Brake(2, store, KEY)
    for _ in range(2):
        brake.count_wrong(HOME)
    told = [brake.seconds_until_heard(HOME, "a token") for _ in range(20)]
    (limiter,) = [key for key in keys_of(store) if key.startswith("LIMITER")]

    assert set(told) <= {59, 60}
    assert store.get(limiter) == 2
    store.clear(limiter)  # as the end of the minute does
    assert brake.seconds_until_heard(HOME, "a token") == 0


def keys_of(store: Any) -> list[str]:
    if isinstance(store, MemoryStorage):
        return list(store.storage)
    prefix = "imagefleet:requests:"
    return [key.decode().removeprefix(prefix) for key in store.storage.keys(f"{prefix}*")]


def test_all_processes_of_the_server_count_together_and_know_each_others_friends(broker_url: str) -> None:
    one, other = (Brake(2, store_at(broker_url), KEY) for _ in range(2))
    one.remember_right(HOME, "right")
    one.count_wrong(HOME)
    other.count_wrong(HOME)

    assert one.seconds_until_heard(HOME, "new") > 0
    assert other.seconds_until_heard(HOME, "new") > 0
    assert other.seconds_until_heard(HOME, "right") == 0


def test_no_address_and_no_token_stands_in_the_store(broker_url: str) -> None:
    store: Any = store_at(broker_url)
    brake = Brake(2, store, KEY)
    brake.count_wrong(HOME)
    brake.remember_right(HOME, "a-right-token")

    kept = b" ".join(store.storage.keys("*"))

    assert kept.count(b"imagefleet:") == 2
    assert HOME.encode() not in kept
    assert b"a-right-token" not in kept


def test_a_crowd_of_addresses_takes_a_bounded_place() -> None:
    store = MemoryStorage()
    brake = Brake(2, store, KEY)
    places = {brake._place(f"10.{a}.{b}.1") for a in range(256) for b in range(256)}  # what the bound is
    for number in range(2000):
        brake.count_wrong(f"2001:db8:0:1::{number:x}")

    assert all(0 <= int(place) < braking.BUCKETS for place in places)
    assert len(places) > braking.BUCKETS // 2
    assert len(store.storage) == 1
    for number in range(braking.MOST_PROVEN + 10):
        brake.remember_right(HOME, str(number))
    assert len(brake._proven) == braking.MOST_PROVEN  # as above


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_what_belongs_to_one_party_is_one_place(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerServer]:
    """Run a broker that this test may take away."""
    server = BrokerServer(tmp_path / "broker")
    server.start()
    yield server
    server.stop()


def test_while_the_store_is_away_the_server_serves_and_each_process_brakes_alone(
    fleet: Fleet, known: Settings, own_broker: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(make_application(fleet, replace(known, live_url=own_broker.url)))
    assert ask(client, FIRST).status_code == 200
    own_broker.stop()

    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert ask(client, FIRST).status_code == 200
        assert ask(client, SECOND).status_code == 200
        told = guess(client, MOST + 2, ELSEWHERE)

    # Where the computer is slow the store may be asked once more in between; what counted before is not lost then.
    assert told == [401] * MOST + [429] * 2 or time.monotonic() - began > braking.AWAY_SECONDS
    assert "the store is away" in caplog.text


def test_a_setting_takes_the_brake_off(fleet: Fleet, known: Settings) -> None:
    client = client_of(make_application(fleet, replace(known, auth_failures_per_minute=0)))

    assert guess(client, 50) == [401] * 50


# Behind proxies


@pytest.fixture
def behind(fleet: Fleet, known: Settings) -> Client:
    """Return a client of a server that believes two proxies."""
    trusting = replace(known, trusted_proxies=("10.0.0.0/30", "fd00::/8"))
    return client_of(make_application(fleet, trusting))


def test_without_trusted_proxies_nobody_gets_another_address_by_a_header(braked: Client) -> None:
    guess(braked, MOST)

    evading = [ask(braked, "guess", X_Forwarded_For=f"192.0.2.{number}").status_code for number in range(5)]

    assert evading == [429] * 5
    guess(braked, MOST + 1, ELSEWHERE, X_Forwarded_For="192.0.2.77")
    assert ask(braked, FIRST, "192.0.2.77").status_code == 200


@pytest.mark.parametrize(
    "forwarded",
    [
        HOME,
        f"1.2.3.4, {HOME}",
        f"{ELSEWHERE},{HOME},{OTHER_PROXY}",
        f"{HOME}:51234",
        f"unknown, {HOME}",
        f"::ffff:{HOME}, fd00::1",
    ],
)
def test_behind_proxies_the_last_hop_that_is_none_of_them_counts(behind: Client, forwarded: str) -> None:
    guess(behind, MOST, PROXY, X_Forwarded_For=forwarded)

    assert ask(behind, FIRST, PROXY, X_Forwarded_For=HOME).status_code == 429
    assert ask(behind, FIRST, PROXY, X_Forwarded_For=ELSEWHERE).status_code == 200


@pytest.mark.parametrize("forged", ["", "garbage", "1.2.3.4, not-an-address", ",", "[::1", "1.2.3.4.5"])
def test_a_hop_that_is_no_address_is_counted_as_the_proxys(behind: Client, forged: str) -> None:
    guess(behind, MOST, PROXY, X_Forwarded_For=forged)

    assert ask(behind, FIRST, PROXY).status_code == 429
    assert ask(behind, FIRST, PROXY, X_Forwarded_For="1.2.3.4").status_code == 200


def test_whoever_is_no_proxy_is_not_believed_where_there_are_some(behind: Client) -> None:
    guess(behind, MOST, HOME, X_Forwarded_For=ELSEWHERE)

    assert ask(behind, FIRST, PROXY, X_Forwarded_For=ELSEWHERE).status_code == 200
    assert ask(behind, FIRST, HOME).status_code == 429


def test_proxies_are_addresses_or_networks(tmp_path: Path) -> None:
    found = Settings.load({"TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8, fd00::/8"}, tmp_path)

    assert found.trusted_proxies == ("127.0.0.1/32", "10.0.0.0/8", "fd00::/8")
    for wrong in ("example.org", "10.0.0.1/8", "*"):
        with pytest.raises(Exception, match="TRUSTED_PROXIES"):
            Settings.load({"TRUSTED_PROXIES": wrong}, tmp_path)


def test_limits_by_address_go_by_the_same_address(fleet: Fleet, settings: Settings) -> None:
    application: Flask = make_application(
        fleet, replace(settings, requests_per_minute=2, trusted_proxies=("10.0.0.1/32",))
    )
    client = client_of(application)

    def look(forwarded: str) -> int:
        told = client.get("/v1/jobs", headers={"X-Forwarded-For": forwarded}, environ_base={"REMOTE_ADDR": PROXY})
        return int(told.status_code)

    assert [look(HOME) for _ in range(3)] == [200, 200, 429]
    assert look(ELSEWHERE) == 200
