"""Upgrading: what was written stays, the version before goes on working meanwhile, and two upgrades do not meet."""

import re
import sys
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text

from app import database
from app.api.application import make_application
from app.core.fleet import Fleet, prepare_engine
from app.settings import Settings
from tests.support import revisions
from tests.support.fakes import MemoryImages, MemoryLive, RecordingDispatcher
from tests.support.postgres import PostgresServer
from tests.support.processes import Process, wait_until
from tests.support.revisions import DONE, ENGINE, IMAGE, MACHINE, MODEL, WAITING
from tests.support.servers import environ_of
from tests.support.web import client_of

KNOWN = database.revisions()

SETTLED = "0004"
"""From here on each revision keeps what the code before it writes; before, nobody had a fleet that ran on."""

HARMLESS = re.compile(
    r"BEGIN|SELECT|PRAGMA|INSERT INTO|UPDATE|CREATE TABLE|CREATE( UNIQUE)? INDEX|DROP INDEX|ALTER TABLE \S+ ADD COLUMN"
)
"""What takes nothing away from code that knows nothing of it. An index is no part of what code reads and writes."""


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create(f"upgraded_{tmp_path.name.strip('_')[-50:]}").render_as_string(hide_password=False)


@pytest.fixture
def empty(address: str) -> Iterator[Engine]:
    """Connect to it."""
    engine = prepare_engine(create_engine(address))
    yield engine
    engine.dispose()


def everything_is_told(engine: Engine, folder: Path, written: Collection[str]) -> None:
    """Read what was written through the verbs, as the doors show it, and let a machine take what waited."""
    fleet = Fleet(engine, RecordingDispatcher(), MemoryImages(), MemoryLive())
    known = Settings(data_dir=folder, database_url=str(engine.url)).completed()
    client = client_of(make_application(fleet, known))

    def told(path: str) -> Any:
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        return answer.json

    job = told(f"/v1/jobs/{DONE}")
    assert (job["status"], job["model_id"], job["parameters"]["prompt"]) == ("completed", MODEL, "a red circle")
    assert [image["image_id"] for image in job["images"]] == [str(IMAGE)]
    assert job["attempts"][0]["timings"]["denoising"] == 1.5
    assert {each["job_id"] for each in told("/v1/jobs")["jobs"]} == {str(DONE), str(WAITING)}
    assert told(f"/v1/jobs/{WAITING}")["priority"] == 3
    assert told(f"/v1/models/{MODEL}")["tags"] == ["old"]
    assert told(f"/v1/machines/{MACHINE}")["models_needed"] == [MODEL]
    assert [image["image_id"] for image in told("/v1/images")["images"]] == [str(IMAGE)]
    if "deliveries" in written:
        assert [each["state"] for each in told(f"/v1/jobs/{DONE}/deliveries")["deliveries"]] == ["delivered"]
    if "engines" in written:
        assert told(f"/v1/engines/{ENGINE}")["default_steps"] == 12
    told("/v1/models")
    who = {"machine_id": MACHINE, "boot_id": "boot-2"}
    holdings = [{"model_id": MODEL, "state": "ready"}]
    assert client.post("/machines/v1/check-in", json={**who, "holdings": holdings}).status_code == 200
    claimed = client.post(f"/machines/v1/jobs/{WAITING}/claim", json=who)
    assert (claimed.status_code, claimed.json["job_id"]) == (200, str(WAITING)), claimed.text


@pytest.mark.parametrize("revision", KNOWN)
def test_what_was_written_at_a_revision_is_there_and_told_after_the_newest(
    empty: Engine, tmp_path: Path, revision: str
) -> None:
    assert database.upgrade(empty, revision) == revision
    with empty.begin() as connection:
        tables = revisions.tables_of(connection)
        revisions.write(connection, tables)

    database.upgrade(empty)

    with empty.connect() as connection:
        assert revisions.missing(connection, tables) == []
    everything_is_told(empty, tmp_path, tables)


@pytest.mark.parametrize("revision", KNOWN[KNOWN.index(SETTLED) :])
def test_what_the_version_before_writes_on_the_newest_schema_is_told_as_well(
    empty: Engine, tmp_path: Path, revision: str
) -> None:
    database.upgrade(empty, revision)
    with empty.connect() as connection:
        tables = revisions.tables_of(connection)

    database.upgrade(empty)
    with empty.begin() as connection:
        revisions.write(connection, tables)

    with empty.connect() as connection:
        assert revisions.missing(connection, tables) == []
    everything_is_told(empty, tmp_path, tables)


def harm_of(statement: str, new: Collection[str] = ()) -> str | None:
    """Say what a statement takes from processes that know nothing of it, nor of these new tables; None when nothing."""
    words = " ".join(statement.split())
    if words.startswith("CREATE UNIQUE INDEX") and words.partition(" ON ")[2].partition(" ")[0] not in new:
        return f"rows that were fine would be refused: {words}"
    if not HARMLESS.match(words):
        return f"it is not among what only adds: {words}"
    if words.startswith("ALTER TABLE"):
        if " NOT NULL" in words and " DEFAULT " not in words:
            return f"rows that do not name the new column would be refused: {words}"
        if any(word in words for word in (" UNIQUE", " REFERENCES ", " CHECK ")):
            return f"rows that were fine would be refused: {words}"
    return None


@pytest.mark.parametrize("revision", KNOWN)
def test_every_revision_only_adds(empty: Engine, revision: str) -> None:
    if revision != KNOWN[0]:
        database.upgrade(empty, KNOWN[KNOWN.index(revision) - 1])
    statements: list[str] = []
    event.listen(empty, "before_cursor_execute", lambda *told: statements.append(told[2]))

    database.upgrade(empty, revision)

    new = {words.split()[2] for words in statements if words.split()[:2] == ["CREATE", "TABLE"]}
    assert f"version_num='{revision}'" in str(statements) or revision == KNOWN[0]
    assert [harm for harm in (harm_of(statement, new) for statement in statements) if harm] == []


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE callers",
        "ALTER TABLE jobs DROP COLUMN caller",
        "ALTER TABLE jobs RENAME COLUMN caller TO client",
        "ALTER TABLE jobs RENAME TO orders",
        "ALTER TABLE jobs ALTER COLUMN caller SET NOT NULL",
        "ALTER TABLE jobs ADD COLUMN colour VARCHAR NOT NULL",
        "ALTER TABLE jobs ADD COLUMN colour VARCHAR REFERENCES colours (name)",
        "ALTER TABLE jobs ADD CONSTRAINT one UNIQUE (caller)",
        "CREATE UNIQUE INDEX one ON jobs (caller)",
        "DELETE FROM jobs",
        "TRUNCATE jobs",
    ],
)
def test_what_takes_something_away_is_seen(statement: str) -> None:
    assert harm_of(statement) is not None


def test_server_processes_of_the_version_before_start_on_a_newer_schema(empty: Engine) -> None:
    database.upgrade(empty)
    with empty.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'of-tomorrow'"))

    assert database.is_current(empty)
    assert database.upgrade(empty) == "of-tomorrow"


def test_two_processes_that_upgrade_at_once_take_turns(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.create("upgraded_in_turn")
    environ = environ_of(tmp_path, DATABASE_URL=url.render_as_string(hide_password=False))
    command = [sys.executable, "-m", "app.cli", "db", "upgrade"]
    engine = create_engine(url)
    key = {"key": database.MIGRATION_LOCK}
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :key AND NOT granted")
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), key)
        upgrades = [Process(command, tmp_path / f"{number}.log", environ=environ) for number in (1, 2)]
        wait_until(lambda: connection.execute(waiting, key).scalar_one() == len(upgrades), "both wait")
        assert revisions.tables_of(connection) == {}

    assert [upgrade.wait() for upgrade in upgrades] == [0, 0], [upgrade.said() for upgrade in upgrades]
    assert all(f"revision {KNOWN[-1]}" in upgrade.said() for upgrade in upgrades)
    assert database.is_current(engine)
    engine.dispose()


def test_two_upgrades_of_sqlite_at_once_take_turns(tmp_path: Path) -> None:
    engines = [prepare_engine(create_engine(f"sqlite:///{tmp_path}/one.db")) for _ in range(2)]

    with ThreadPoolExecutor() as pool:
        reached = list(pool.map(database.upgrade, engines))

    assert reached == [KNOWN[-1]] * 2
    for engine in engines:
        engine.dispose()
