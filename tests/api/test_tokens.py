"""Tokens with names and scopes, how they are written, taken back, and held against what they may do."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from app import tokens
from app.api.application import DIALECTS, make_application
from app.api.door import OF_CLIENTS, owner_of
from app.core.fleet import Fleet
from app.core.lifecycle import JobState
from app.parse import SettingsError
from app.settings import Settings
from app.tokens import Scope
from tests.api.test_doors import path_of, routes_of
from tests.builders import MODEL, a_job, a_machine, a_model, the_job
from tests.support.web import Client, client_of

ORDER = {"model_id": MODEL, "prompt": "a red circle"}
WRITTEN = (
    "bare-one",
    "alice:client:of-alice",
    "bob:client:of-bob",
    "ops:operator:of-ops",
    "rented:machine@gpu-7:of-gpu-7",
    "vast-1:machine:of-vast-1",
)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def known(settings: Settings) -> Settings:
    """Return the settings of a server with tokens of every kind."""
    return replace(settings, api_tokens=WRITTEN, machine_token="of-all-machines", auth_failures_per_minute=0)


@pytest.fixture
def client(fleet: Fleet, known: Settings) -> Client:
    """Return a client of that server."""
    return client_of(make_application(fleet, known))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def digits(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


# How they are written


@pytest.mark.parametrize(
    ("text", "name", "scope", "secret"),
    [
        ("s3cret", "", Scope.OPERATOR, "s3cret"),
        ("user:password", "", Scope.OPERATOR, "user:password"),
        (f"sha256:{digits('s3cret')}", "", Scope.OPERATOR, "s3cret"),
        ("alice:client:s3cret", "alice", Scope.CLIENT, "s3cret"),
        ("alice:client:with:colons", "alice", Scope.CLIENT, "with:colons"),
        (f"ops:operator:sha256:{digits('s3cret')}", "ops", Scope.OPERATOR, "s3cret"),
        ("vast-1:machine:s3cret", "vast-1", Scope.MACHINE, "s3cret"),
    ],
)
def test_a_token_is_written_in_one_of_these_forms(text: str, name: str, scope: Scope, secret: str) -> None:
    token = tokens.read(text)

    assert (token.name, token.scope) == (name, scope)
    assert tokens.find([token], secret) is token
    assert tokens.find([token], f"{secret}x") is None
    assert tokens.find([token], text) is (token if text == secret else None)


@pytest.mark.parametrize(
    "text",
    [
        "alice:clint:hidden",
        "alice:client:",
        ":client:hidden",
        "a b:client:hidden",
        "x" * 32 + ":client:hidden",
        "sha256:hidden",
        "alice:client:sha256:hidden",
        "alice:client@gpu-7:hidden",
        "vast-1:machine@:hidden",
        "vast-1:machine@/:hidden",
        "alice:client:hidden,alice:operator:hidden",
    ],
)
def test_what_is_no_token_stops_the_server_and_is_not_shown(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as problem:
        Settings.load({"API_TOKENS": text, "MACHINE_TOKEN": "m"}, tmp_path)

    assert "API_TOKENS" in str(problem.value)
    assert "hidden" not in str(problem.value)


def test_a_token_shows_nothing_of_its_secret() -> None:
    token = tokens.read("alice:client:s3cret")

    assert "s3cret" not in repr(token)
    assert digits("s3cret") not in repr(token)
    assert str(token.digest) not in repr(token)


def test_tokens_can_be_a_list_in_config_yaml(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("server:\n  machine_token: m\n  api_tokens: [bare, alice:client:a]\n")

    assert Settings.load({}, tmp_path).api_tokens == ("bare", "alice:client:a")


def test_tokens_of_machines_alone_do_not_let_a_server_be_reached_by_others(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="API_TOKENS is not set"):
        Settings.load({"HOST": "0.0.0.0", "API_TOKENS": "vast-1:machine:x", "MACHINE_TOKEN": "m"}, tmp_path)


def test_a_machines_own_token_can_stand_in_for_the_shared_one(tmp_path: Path) -> None:
    environ = {"HOST": "0.0.0.0", "API_TOKENS": "alice:client:x,vast-1:machine:y"}

    assert Settings.load(environ, tmp_path).machine_token == ""
    with pytest.raises(SettingsError, match="MACHINE_TOKEN"):
        Settings.load(environ | {"API_TOKENS": "alice:client:x"}, tmp_path)


def test_our_own_commands_show_a_token_that_is_known_in_the_clear(tmp_path: Path) -> None:
    def shown(written: str, **more: str) -> str:
        return Settings.load({"API_TOKENS": written, "MACHINE_TOKEN": "m"} | more, tmp_path).token_to_show()

    assert shown("first,second") == "first"
    assert shown("alice:client:a,ops:operator:o") == "o"
    assert shown(f"sha256:{digits('x')},alice:client:a") == "a"
    assert shown(f"sha256:{digits('x')}") == ""
    assert shown("first", CLIENT_TOKEN="mine") == "mine"


# A file of them


def test_a_token_of_the_file_is_taken_back_without_a_restart(fleet: Fleet, known: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    write(path, "# of people\ncarol:client:of-carol\n\n")
    client = client_of(make_application(fleet, replace(known, tokens_file=path)))
    assert client.get("/v1/jobs", headers=bearer("of-carol")).status_code == 200
    assert client.get("/v1/jobs", headers=bearer("of-alice")).status_code == 200

    write(path, "dave:client:of-dave\n")

    assert client.get("/v1/jobs", headers=bearer("of-carol")).status_code == 401
    assert client.get("/v1/jobs", headers=bearer("of-dave")).status_code == 200


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"a:b:c of-carol \xff")])
def test_a_file_that_becomes_unreadable_changes_nothing_and_the_log_shows_none_of_it(
    fleet: Fleet, known: Settings, tmp_path: Path, spoil: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens"
    write(path, "carol:client:of-carol\n")
    client = client_of(make_application(fleet, replace(known, tokens_file=path)))

    spoil(path)

    assert client.get("/v1/jobs", headers=bearer("of-carol")).status_code == 200
    assert client.get("/v1/jobs", headers=bearer("wrong")).status_code == 401
    assert "TOKENS_FILE cannot be read" in caplog.text
    assert "of-carol" not in caplog.text


def test_a_file_that_becomes_empty_opens_nothing(fleet: Fleet, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    write(path, "carol:client:of-carol\nm:machine:of-m")
    client = client_of(make_application(fleet, replace(settings, tokens_file=path)))

    write(path, "")

    assert client.get("/v1/jobs").status_code == 401
    assert client.get("/v1/jobs", headers=bearer("of-carol")).status_code == 401
    assert client.post("/machines/v1/check-in", json={}).status_code == 401


def test_a_file_that_cannot_be_read_at_the_start_stops_the_server(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"TOKENS_FILE .* cannot be read"):
        Settings.load({"TOKENS_FILE": str(tmp_path / "missing")}, tmp_path)


def write(path: Path, text: str) -> None:
    """Write a file as a secret is mounted: another one in its place."""
    part = path.with_name("part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


# What they may do


FOR_OPERATORS = {
    "POST /v1/models",
    "PATCH /v1/models/<model_id>",
    "DELETE /v1/models/<model_id>",
    "POST /v1/engines",
    "DELETE /v1/engines/<uuid:engine_id>",
    *(f"{verb} /v1/engines/<uuid:engine_id>/{what}" for verb in ("PATCH", "POST") for what in ("start", "stop")),
    "POST /v1/machines/plan",  # it asks others' servers in our name
    "DELETE /v1/machines/<machine_id>",
    "POST /v1/machines/<machine_id>/drain",
    "POST /v1/machines/<machine_id>/undrain",
}


def test_a_clients_token_changes_no_fleet_and_does_everything_else(fleet: Fleet, known: Settings) -> None:
    application = make_application(fleet, known)
    asker = client_of(application)
    refused = set()

    for method, rule in routes_of(application):
        path = path_of(rule)
        if owner_of(path, DIALECTS).auth in OF_CLIENTS:
            answer = asker.open(path, method=method, headers=bearer("of-alice"))
            assert answer.status_code != 401
            refused |= {f"{method} {rule}"} if answer.status_code == 403 else set()
            assert asker.open(path, method=method, headers=bearer("of-ops")).status_code not in {401, 403}
            assert asker.open(path, method=method, headers=bearer("bare-one")).status_code not in {401, 403}

    assert refused == FOR_OPERATORS


def test_the_refusal_names_the_token_and_says_which_one_to_use(client: Client) -> None:
    answer = client.post("/v1/models", json={}, headers=bearer("of-alice"))

    assert (answer.status_code, answer.json["error"]["code"]) == (403, "operator_needed")
    assert "'alice'" in answer.json["error"]["message"]
    assert "of-alice" not in answer.text


def test_the_log_says_who_changed_the_fleet(client: Client, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    a_machine(fleet, "gpu-7")

    client.post("/v1/machines/gpu-7/drain", headers=bearer("of-ops"))
    client.get("/v1/machines/gpu-7", headers=bearer("of-ops"))

    lines = [record.message for record in caplog.records if record.name == "app.api.auth"]
    assert lines == ["ops: POST /v1/machines/gpu-7/drain, answered 200"]


def test_orders_are_their_owners_by_name_and_a_new_secret_changes_no_owner(
    client: Client, fleet: Fleet, known: Settings
) -> None:
    a_model(fleet)
    renewed = client_of(make_application(fleet, replace(known, api_tokens=("alice:operator:renewed",))))

    orders = [
        client.post("/v1/jobs", json=ORDER, headers=bearer("of-alice")),
        renewed.post("/v1/jobs", json=ORDER, headers=bearer("renewed")),
        client.post("/v1/jobs", json=ORDER, headers=bearer("bare-one")),
    ]

    owners = [the_job(fleet, UUID(answer.json["job_id"])).owner for answer in orders]
    assert owners == ["alice", "alice", tokens.owner_of_bare("bare-one")]


@pytest.mark.parametrize(("who", "status"), [("of-alice", 200), ("of-bob", 403), ("of-ops", 200), ("bare-one", 200)])
def test_a_client_cancels_its_own_jobs_only(client: Client, fleet: Fleet, who: str, status: int) -> None:
    a_model(fleet)
    first, second = (client.post("/v1/jobs", json=ORDER, headers=bearer("of-alice")).json["job_id"] for _ in "ab")

    one = client.post(f"/v1/jobs/{first}/cancel", headers=bearer(who))
    several = client.post("/v1/jobs/cancel", json={"job_ids": [second]}, headers=bearer(who))

    assert (one.status_code, several.status_code) == (status, status)
    expected = JobState.CANCELLED if status == 200 else JobState.QUEUED
    assert [the_job(fleet, UUID(job_id)).state for job_id in (first, second)] == [expected, expected]


def test_a_client_has_its_own_webhooks_told_again_only(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    job_id = client.post("/v1/jobs", json=ORDER, headers=bearer("of-alice")).json["job_id"]
    path = f"/v1/jobs/{job_id}/deliveries/{uuid4()}/redeliver"

    assert client.post(path, headers=bearer("of-bob")).json["error"]["code"] == "not_your_job"
    assert client.post(path, headers=bearer("of-alice")).json["error"]["code"] == "delivery_not_found"
    assert client.post(path, headers=bearer("of-ops")).json["error"]["code"] == "delivery_not_found"


def test_jobs_from_before_there_were_tokens_are_operators_business(client: Client, fleet: Fleet) -> None:
    job = a_job(fleet)

    assert client.post(f"/v1/jobs/{job.id}/cancel", headers=bearer("of-alice")).status_code == 403
    assert client.post(f"/v1/jobs/{job.id}/cancel", headers=bearer("of-ops")).status_code == 200


# Machines


def check_in(client: Client, token: str, machine_id: str) -> Any:
    body = {"machine_id": machine_id, "boot_id": "b"}
    return client.post("/machines/v1/check-in", json=body, headers=bearer(token))


@pytest.mark.parametrize(
    ("token", "machine_id", "status"),
    [
        ("of-all-machines", "gpu-1", 200),
        ("of-vast-1", "gpu-1", 200),
        ("of-gpu-7", "gpu-7", 200),
        ("of-gpu-7", "gpu-7-0", 200),
        ("of-gpu-7", "gpu-7-12", 200),
        ("of-gpu-7", "gpu-1", 403),
        ("of-gpu-7", "gpu-70", 403),
        ("of-gpu-7", "gpu-7-x", 403),
        ("of-gpu-7", "gpu-7-0-1", 403),
        ("of-alice", "gpu-7", 401),
        ("of-ops", "gpu-7", 401),
        ("bare-one", "gpu-7", 401),
    ],
)
def test_a_machines_token_speaks_for_its_machine(client: Client, token: str, machine_id: str, status: int) -> None:
    assert check_in(client, token, machine_id).status_code == status


@pytest.mark.parametrize("token", ["of-gpu-7", "of-vast-1", "of-all-machines"])
def test_a_machines_token_is_no_clients(client: Client, token: str) -> None:
    assert client.get("/v1/jobs", headers=bearer(token)).status_code == 401


def test_nobody_takes_or_ends_a_job_in_another_machines_name(client: Client, fleet: Fleet) -> None:
    job = a_job(fleet)
    a_machine(fleet, "gpu-1", ready_for=[MODEL])
    own = bearer("of-gpu-7")
    path = f"/machines/v1/jobs/{job.id}"
    picture: Mapping[str, Any] = {"machine_id": "gpu-1", "seed": 1, "width": 8, "height": 8, "sha256": "0" * 64}

    claimed = client.post(f"{path}/claim", json={"machine_id": "gpu-1"}, headers=own)
    ended = client.post(f"{path}/attempts/1/finish", json={"machine_id": "gpu-1", "state": "lost"}, headers=own)
    put = client.put(f"{path}/attempts/1/images/0", query_string=picture, data=b"x", headers=own)

    assert [answer.status_code for answer in (claimed, ended, put)] == [403, 403, 403]
    assert {answer.json["code"] for answer in (claimed, ended, put)} == {"wrong_machine"}
    assert the_job(fleet, job.id).state == JobState.QUEUED


def test_a_rented_machine_is_nobodys_neighbour(client: Client) -> None:
    body = {"url": "http://10.0.0.7:9000", "files": []}

    rented = client.post("/machines/v1/peers", json=body, headers=bearer("of-vast-1"))
    ours = client.post("/machines/v1/peers", json=body, headers=bearer("of-all-machines"))

    assert (rented.status_code, rented.json["code"], ours.status_code) == (403, "no_neighbours", 200)


def test_a_token_for_metrics_may_be_known_by_its_hash(fleet: Fleet, known: Settings) -> None:
    hashed = replace(known, metrics_token=f"sha256:{digits('of-prometheus')}")
    asker = client_of(make_application(fleet, hashed))

    assert asker.get("/metrics", headers=bearer("of-prometheus")).status_code == 200
    assert asker.get("/metrics", headers=bearer(hashed.metrics_token)).status_code == 401
    assert asker.get("/metrics", headers=bearer("of-ops")).status_code == 401
