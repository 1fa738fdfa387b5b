"""What one client may ask for: so many requests in a minute, so many jobs that wait."""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage

from app.api.application import make_application
from app.api.rates import RequestGate, store_at
from app.core import jobs
from app.core.errors import TooManyJobs
from app.core.fleet import Fleet, Limits, Transaction
from app.core.spec import GenerationSpec
from app.core.tables import Job
from app.settings import Settings
from tests.builders import MODEL, a_machine, a_model, claim
from tests.support.broker import BrokerServer
from tests.support.fakes import Clock
from tests.support.meanwhile import both
from tests.support.web import Client, client_of

FIRST, SECOND = ({"Authorization": f"Bearer {token}"} for token in ("first-client", "second-client"))
MACHINE = {"Authorization": "Bearer a-machine"}
ORDER = {"model_id": MODEL, "prompt": "a red circle"}
TXT2IMG = "/a1111/sdapi/v1/txt2img"


@pytest.fixture
def tokens(settings: Settings) -> Settings:
    """Return the settings of a server that asks for tokens."""
    return replace(settings, api_tokens=("first-client", "second-client"), machine_token="a-machine")


@pytest.fixture(params=["memory", "redis"])
def counted(request: pytest.FixtureRequest, fleet: Fleet, tokens: Settings) -> Client:
    """Return a client of a server that takes three requests of each token in a minute."""
    live_url = request.getfixturevalue("broker_url") if request.param == "redis" else ""
    return client_of(make_application(fleet, replace(tokens, requests_per_minute=3, live_url=live_url)))


def test_a_request_too_many_is_refused_and_told_when_to_come_again(counted: Client) -> None:
    answers = [counted.get("/v1/jobs", headers=FIRST) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json["error"]["code"] == "too_many_requests"
    assert "REQUESTS_PER_MINUTE" in answers[3].json["error"]["message"]
    assert 50 <= int(answers[3].headers["Retry-After"]) <= 60


def test_every_token_has_its_own_requests(counted: Client) -> None:
    for _ in range(4):
        counted.get("/v1/jobs", headers=FIRST)

    assert counted.get("/v1/jobs", headers=SECOND).status_code == 200


def test_requests_of_all_dialects_count_together_and_each_refuses_in_its_own_words(counted: Client) -> None:
    for _ in range(3):
        counted.get("/v1/jobs", headers=FIRST)

    answer = counted.get("/a1111/sdapi/v1/samplers", headers=FIRST)

    assert (answer.status_code, set(answer.json)) == (429, {"error", "detail", "body", "errors"})
    assert "Retry-After" in answer.headers


def test_health_machines_and_pages_are_never_refused(counted: Client) -> None:
    for _ in range(4):
        counted.get("/v1/jobs", headers=FIRST)

    for path in ("/health", "/ready", "/"):
        assert counted.get(path, headers=FIRST).status_code != 429
    check_in = {"machine_id": "gpu-1", "boot_id": "b"}
    told = [counted.post("/machines/v1/check-in", json=check_in, headers=MACHINE).status_code for _ in range(5)]
    assert 429 not in told


def test_a_wrong_token_uses_up_nobodys_requests(counted: Client) -> None:
    wrong = [counted.get("/v1/jobs", headers={"Authorization": "Bearer x"}).status_code for _ in range(5)]

    assert wrong == [401] * 5
    assert counted.get("/v1/jobs", headers=FIRST).status_code == 200


def test_without_the_setting_nothing_is_counted(client: Client) -> None:
    assert {client.get("/v1/jobs").status_code for _ in range(50)} == {200}


@pytest.mark.parametrize("where", ["memory", "redis"])
def test_whoever_waits_as_long_as_told_is_let_in(where: str, request: pytest.FixtureRequest) -> None:
    store = store_at(request.getfixturevalue("broker_url")) if where == "redis" else MemoryStorage()
    gate = RequestGate(RateLimitItemPerSecond(2, 2), store)
    assert gate.seconds_until_open("me") == 0

    # Two requests may take a busy computer longer than the two seconds that they count for.
    seconds = next(filter(None, (gate.seconds_until_open("me") for _ in range(1000))))
    time.sleep(seconds)

    assert seconds in {1, 2}
    assert gate.seconds_until_open("me") == 0


def test_all_processes_of_the_server_count_together(broker_url: str) -> None:
    gates = [RequestGate(RateLimitItemPerSecond(3, 60), store_at(broker_url)) for _ in range(2)]

    taken = [gate.seconds_until_open("me") == 0 for gate in gates * 2]

    assert taken == [True, True, True, False]


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerServer]:
    """Run a broker that this test may take away."""
    server = BrokerServer(tmp_path / "broker")
    server.start()
    yield server
    server.stop()


def test_while_the_store_is_away_everybody_is_let_in_and_the_log_says_so(
    fleet: Fleet, tokens: Settings, own_broker: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    limited = replace(tokens, requests_per_minute=1, live_url=own_broker.url)
    client = client_of(make_application(fleet, limited))
    assert [client.get("/v1/jobs", headers=FIRST).status_code for _ in range(2)] == [200, 429]

    own_broker.stop()
    with caplog.at_level(logging.WARNING):
        answers = [client.get("/v1/jobs", headers=FIRST).status_code for _ in range(3)]

    assert answers == [200, 200, 200]
    assert [record.message for record in caplog.records if "requests are not counted" in record.message] != []


@pytest.fixture
def narrow(fleet: Fleet, tokens: Settings) -> Client:
    """Return a client of a server where two jobs of each token may wait."""
    a_model(fleet)
    return client_of(make_application(replace(fleet, limits=Limits(max_queued=2)), tokens))


def order(client: Client, headers: dict[str, str] = FIRST, **more: Any) -> Any:
    return client.post("/v1/jobs", json=ORDER | more, headers=headers)


def test_a_job_too_many_is_refused_until_one_leaves_the_queue(narrow: Client, fleet: Fleet) -> None:
    made = [order(narrow) for _ in range(3)]

    assert [answer.status_code for answer in made] == [202, 202, 429]
    assert made[2].json["error"]["code"] == "too_many_jobs"
    assert int(made[2].headers["Retry-After"]) > 0
    a_machine(fleet, ready_for=[MODEL])
    assert claim(fleet, UUID(made[0].json["job_id"])) is not None
    assert order(narrow).status_code == 202


@pytest.mark.usefixtures("narrow")
def test_two_orders_of_one_moment_do_not_share_the_last_place(fleet: Fleet) -> None:
    full = replace(fleet, limits=Limits(max_queued=1))

    def submit(tx: Transaction) -> object:
        return jobs.submit(tx, GenerationSpec(model_id=MODEL, prompt="a red circle"))

    assert isinstance(both(full, submit, submit), TooManyJobs)


def test_the_jobs_of_one_token_do_not_fill_the_queue_of_another(narrow: Client) -> None:
    for _ in range(3):
        order(narrow)

    assert order(narrow, SECOND).status_code == 202


def test_a_list_that_does_not_fit_is_refused_whole(narrow: Client) -> None:
    order(narrow)

    too_many = narrow.post("/v1/jobs", json={"model_id": MODEL, "prompts": ["a", "b"]}, headers=FIRST)
    never = narrow.post("/v1/jobs", json={"model_id": MODEL, "prompts": ["a", "b", "c"]}, headers=FIRST)

    assert (too_many.status_code, too_many.json["error"]["code"]) == (429, "too_many_jobs")
    assert (never.status_code, "Retry-After" in never.headers) == (422, False)
    assert len(narrow.get("/v1/jobs", headers=FIRST).json["jobs"]) == 1


def test_every_way_to_order_keeps_the_limit(narrow: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL])
    made = [order(narrow).json["job_id"] for _ in range(2)]
    narrow.post(f"/v1/jobs/{made[0]}/cancel", headers=FIRST)
    order(narrow)

    retry = narrow.post(f"/v1/jobs/{made[0]}/retry", headers=FIRST)
    txt2img = {"prompt": "a", "override_settings": {"sd_model_checkpoint": MODEL}}
    a1111 = narrow.post(TXT2IMG, json=txt2img, headers=FIRST)

    assert (retry.status_code, a1111.status_code) == (429, 429)
    assert "Retry-After" in a1111.headers
    assert set(a1111.json) == {"error", "detail", "body", "errors"}


def test_an_order_that_comes_again_is_no_job_too_many(narrow: Client) -> None:
    headers = FIRST | {"Idempotency-Key": "the-same"}
    first = order(narrow, headers)
    order(narrow)

    again = order(narrow, headers)

    assert (again.status_code, again.json["job_id"]) == (202, first.json["job_id"])


def test_the_time_to_come_again_follows_from_what_was_promised(narrow: Client, fleet: Fleet, clock: Clock) -> None:
    for seconds in (400, 100):
        made = order(narrow).json["job_id"]
        with fleet.transaction() as tx:
            tx.session.get_one(Job, UUID(made)).promised_at = clock.now + timedelta(seconds=seconds)

    one = order(narrow)
    two = narrow.post("/v1/jobs", json={"model_id": MODEL, "prompts": ["a", "b"]}, headers=FIRST)

    assert [answer.headers["Retry-After"] for answer in (one, two)] == ["100", "400"]
