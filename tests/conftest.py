"""What all tests share: real services once for the whole run, and a fresh fleet for each test."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from hypothesis import settings as hypothesis_settings
from sqlalchemy import Engine, create_engine, text

from app import database
from app.api.application import make_application
from app.core.fleet import Fleet, prepare_engine
from app.core.tables import Base
from app.settings import Settings
from app.vault import FernetVault
from tests.support.broker import BrokerServer, running_broker
from tests.support.fakes import Clock, MemoryImages, MemoryLive, RecordingDispatcher
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.routes import compile_once
from tests.support.sharing import ByFile, begin_with_long_ones
from tests.support.web import Client, client_of

# No deadlines: how fast one example runs says more about the computer than about the code.
hypothesis_settings.register_profile("fleet", deadline=None, database=None)
hypothesis_settings.load_profile("fleet")
compile_once()

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so would every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

POOL = 20
"""Connections that a test may want at a time."""

FEW = 1000
"""Up to so many jobs a database is emptied row by row."""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Share files among processes, and keep those together that share a running fleet."""
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, where several processes share the tests."""
    if hasattr(config, "workerinput"):
        begin_with_long_ones(items)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """Run one PostgreSQL for all tests."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def broker_server() -> Iterator[BrokerServer]:
    """Run one broker for all tests that do not take it away."""
    with running_broker() as server:
        yield server


@pytest.fixture
def broker_url(broker_server: BrokerServer) -> str:
    """Return the address of an empty broker."""
    broker_server.clear()
    return broker_server.url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate one SQLite database; each test gets a copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = prepare_engine(create_engine(f"sqlite:///{path}"))
    database.upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Return the engine of the tests on SQLite: what it has compiled for one test is there for the next."""
    path = tmp_path_factory.mktemp("sqlite") / "fleet.db"
    engine = prepare_engine(create_engine(f"sqlite:///{path}", pool_size=POOL))
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_url(sqlite_template: Path, sqlite: Engine) -> str:
    """Return the address of a migrated, empty SQLite database."""
    sqlite.dispose()
    path = Path(str(sqlite.url.database))
    for left in path.parent.iterdir():
        left.unlink()  # who still has it open keeps it to himself
    shutil.copy(sqlite_template, path)
    return sqlite.url.render_as_string()


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> Iterator[Engine]:
    """Migrate one PostgreSQL database; each test finds it empty, and its connections open."""
    engine = create_engine(postgres.create("tests"), pool_size=POOL)
    database.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def postgresql_url(migrated_postgres: Engine) -> str:
    """Return the address of a migrated, empty PostgreSQL database."""
    tables = [table.name for table in Base.metadata.sorted_tables]
    with migrated_postgres.begin() as connection:
        some = connection.execute(text(f"SELECT FROM jobs LIMIT {FEW}")).all()
        if len(some) < FEW:  # many dead rows would be in the way
            # Twenty times faster than TRUNCATE, which makes new files. As a replica it asks for no order of the tables.
            deletes = "; ".join(f"DELETE FROM {table}" for table in tables)
            connection.exec_driver_sql(f"SET LOCAL session_replication_role = replica; {deletes}")
        else:
            connection.execute(text(f"TRUNCATE {', '.join(tables)}"))
    return migrated_postgres.url.render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Return the address of a migrated, empty database; every test that asks runs once on each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def engine(request: pytest.FixtureRequest, database_url: str) -> Engine:
    """Connect to the test's database, by an engine that forgets this test's listeners."""
    name = "sqlite" if database_url.startswith("sqlite") else "migrated_postgres"
    shared: Engine = request.getfixturevalue(name)
    return shared.execution_options()


@pytest.fixture
def clock() -> Clock:
    """Return a clock that only the test moves."""
    return Clock()


@pytest.fixture
def dispatcher() -> RecordingDispatcher:
    """Return a broker that remembers."""
    return RecordingDispatcher()


@pytest.fixture
def fleet(engine: Engine, dispatcher: RecordingDispatcher, clock: Clock) -> Fleet:
    """Return a fleet over a real database."""
    vault = FernetVault(["a secret key for tests"], Path("never-made"))
    return Fleet(engine, dispatcher, MemoryImages(), MemoryLive(), clock=clock, vault=vault)


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Return the settings of an open server on loopback."""
    return Settings(data_dir=tmp_path, database_url=database_url).completed()


@pytest.fixture
def application(fleet: Fleet, settings: Settings) -> Flask:
    """Return the web application of an open server."""
    return make_application(fleet, settings)


@pytest.fixture
def client(application: Flask) -> Client:
    """Return a client of the open server."""
    return client_of(application)


@pytest.fixture
def guarded(fleet: Fleet, settings: Settings) -> Client:
    """Return a client of a server that asks for tokens."""
    known = replace(settings, api_tokens=("first-client", "second-client"), machine_token="a-machine")
    return client_of(make_application(fleet, known))
