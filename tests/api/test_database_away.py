"""While the database is away every door says so in its own shape, and asks to come again: it is no failure of ours."""

import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, make_url

from app.api.application import DIALECTS, make_application
from app.api.door import owner_of
from app.bootstrap import PATIENCE, make_engine, make_fleet
from app.core.fleet import Fleet
from app.settings import Settings
from tests.builders import a_model
from tests.support.postgres import PostgresServer
from tests.support.processes import free_port
from tests.support.web import Client, client_of

READS = {
    "/v1/models": "v1",
    "/a1111/sdapi/v1/sd-models": "a1111",
    "/sdapi/v1/models": "sdapi",
    "/openai/v1/models": "openai",
    "/models": "simple",
    "/api/queue": "gallery",
    "/metrics": "metrics",
}
"""Something that each dialect can only answer with its database."""

LOCKED_MS = 50


@pytest.fixture(autouse=True)
def database_url(sqlite_url: str) -> str:
    """Return the address of the database that is there; the one that is away has none."""
    return sqlite_url


@pytest.fixture
def nowhere() -> Iterator[Engine]:
    """Return the way to a PostgreSQL that is not there."""
    engine = make_engine(make_url(f"postgresql+psycopg://fleet:s3cret@127.0.0.1:{free_port()}/fleet"))
    yield engine
    engine.dispose()


def asking(fleet: Fleet, settings: Settings, engine: Engine) -> Client:
    return client_of(make_application(replace(fleet, engine=engine), settings))


@pytest.mark.parametrize(("path", "dialect"), READS.items(), ids=READS.values())
def test_every_door_asks_to_come_again(
    path: str, dialect: str, fleet: Fleet, settings: Settings, nowhere: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    assert owner_of(path, DIALECTS).name == dialect

    answer = asking(fleet, settings, nowhere).get(path)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5"), answer.text
    assert "ask again in some seconds" in answer.text
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.exc_info is None  # a thousand requests would be a thousand tracebacks
    assert f"GET {path}: the database is away: " in line.getMessage()
    assert "Connection refused" in line.getMessage()
    assert "s3cret" not in caplog.text + answer.text


def test_the_catalogue_says_what_its_clients_know(fleet: Fleet, settings: Settings, nowhere: Engine) -> None:
    answer = asking(fleet, settings, nowhere).get("/api/models/a-model")

    assert (answer.status_code, answer.json) == (500, {"error": "Internal server error"})
    assert answer.headers["Retry-After"] == "5"


def test_an_order_is_not_taken_and_may_be_sent_again(fleet: Fleet, settings: Settings, nowhere: Engine) -> None:
    a_model(fleet)
    order = {"model_id": "a-model", "prompt": "a circle"}

    refused = asking(fleet, settings, nowhere).post("/v1/jobs", json=order, headers={"Idempotency-Key": "one"})
    taken = asking(fleet, settings, fleet.engine).post("/v1/jobs", json=order, headers={"Idempotency-Key": "one"})

    assert (refused.status_code, refused.json["error"]["code"]) == (503, "database_away")
    assert taken.status_code == 202


def test_a_writer_that_waited_long_enough_for_another_one_asks_to_come_again(
    client: Client, fleet: Fleet, engine: Engine
) -> None:
    a_model(fleet)

    def hurry(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA busy_timeout={LOCKED_MS}")

    event.listen(engine, "checkout", hurry)
    with sqlite3.connect(str(engine.url.database), isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = client.post("/v1/jobs", json={"model_id": "a-model", "prompt": "a circle"})
    event.remove(engine, "checkout", hurry)

    assert (answer.status_code, answer.json["error"]["code"]) == (503, "database_away")


def test_with_no_connection_free_it_asks_to_come_again(fleet: Fleet, settings: Settings, engine: Engine) -> None:
    narrow = create_engine(engine.url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    client = asking(fleet, settings, narrow)

    with narrow.connect():
        answer = client.get("/v1/models")
    again = client.get("/v1/models")
    narrow.dispose()

    assert (answer.status_code, answer.json["error"]["code"]) == (503, "database_away")
    assert again.status_code == 200


def test_tables_that_are_missing_will_not_come_by_waiting(fleet: Fleet, settings: Settings) -> None:
    empty = create_engine("sqlite://")

    answer = asking(fleet, settings, empty).get("/v1/models")

    assert (answer.status_code, answer.json["error"]["code"]) == (500, "database_error")
    assert "Retry-After" not in answer.headers


def test_a_silent_postgresql_is_not_waited_for_longer_than_its_address_or_we_say(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.create("patience").update_query_dict({"connect_timeout": "7"})
    settings = Settings(data_dir=tmp_path, database_url=url.render_as_string(hide_password=False)).completed()
    engine = make_fleet(settings).engine

    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        known = driver.info.get_parameters()
    engine.dispose()

    assert {name: known[name] for name in PATIENCE} == {name: str(value) for name, value in PATIENCE.items()} | {
        "connect_timeout": "7"
    }
