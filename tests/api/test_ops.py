"""Alive and ready: what those who watch the server are told."""

from dataclasses import replace

import pytest
from sqlalchemy import create_engine

from app.api.application import make_application
from app.core.fleet import Fleet, prepare_engine
from app.settings import Settings
from tests.builders import MODEL, a_machine, a_model
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.processes import free_port
from tests.support.web import Client, client_of


@pytest.fixture
def without_database(fleet: Fleet, settings: Settings) -> Client:
    """Return a client of a server whose database does not answer."""
    engine = prepare_engine(create_engine(f"postgresql+psycopg://fleet@127.0.0.1:{free_port()}/fleet"))
    return client_of(make_application(replace(fleet, engine=engine), settings))


def test_a_server_with_a_ready_machine_is_ready(client: Client, fleet: Fleet) -> None:
    a_model(fleet)
    a_machine(fleet, "gpu-1", ready_for=[MODEL])
    a_machine(fleet, "gpu-2", ready_for=[MODEL])

    answer = client.get("/ready")

    assert answer.status_code == 200
    assert answer.json["status"] == "ready"
    assert answer.json["models"] == {MODEL: 2}


def test_a_server_without_a_machine_is_degraded_and_takes_jobs(client: Client) -> None:
    answer = client.get("/ready")

    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert "machine" in answer.json["parts"]["machines"]


def test_a_silent_machine_is_none(client: Client, fleet: Fleet, clock: Clock) -> None:
    a_machine(fleet, ready_for=[MODEL])
    clock.advance(60)

    assert client.get("/ready").json["models"] == {}


def test_a_server_without_its_broker_is_degraded(client: Client, fleet: Fleet, dispatcher: RecordingDispatcher) -> None:
    a_machine(fleet, ready_for=[MODEL])
    dispatcher.is_away = True

    answer = client.get("/ready")

    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert answer.json["parts"]["broker"] == "does not answer"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_server_without_its_database_is_alive_and_down(without_database: Client) -> None:
    alive, ready = without_database.get("/health"), without_database.get("/ready")

    assert (alive.status_code, alive.json) == (200, {"status": "ok"})
    assert (ready.status_code, ready.json["status"]) == (503, "down")
    assert "does not answer" in ready.json["parts"]["database"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_our_own_files_are_handed_out_by_ranges(client: Client) -> None:
    path = "/artifacts/demo-shapes.dduf"

    with client.get(path) as whole, client.get(path, headers={"Range": "bytes=100-199"}) as part:
        assert whole.headers["Accept-Ranges"] == "bytes"
        assert (part.status_code, part.data) == (206, whole.data[100:200])
    assert client.get("/artifacts/../settings.py").status_code == 404
    assert client.get("/artifacts/%2e%2e/settings.py").status_code == 404
