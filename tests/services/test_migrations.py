"""The schema: what the revisions make is what the tables say, on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect

from app import database
from app.core.fleet import Fleet, prepare_engine
from app.core.tables import Base
from tests.builders import a_completed_job
from tests.support.fakes import MemoryImages, MemoryLive, RecordingDispatcher
from tests.support.postgres import PostgresServer


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Return an engine on a database without any table."""
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path}/empty.db")
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        engine = create_engine(server.create(f"empty_{tmp_path.name.strip('_')[-50:]}"))
    yield prepare_engine(engine)
    engine.dispose()


def test_an_empty_database_is_brought_to_the_newest_schema(empty: Engine) -> None:
    before = database.is_current(empty)

    revision = database.upgrade(empty)

    assert (before, database.is_current(empty)) == (False, True)
    assert revision
    assert set(inspect(empty).get_table_names()) == set(Base.metadata.tables) | {"alembic_version"}


def test_upgrading_again_changes_nothing_and_keeps_everything(empty: Engine) -> None:
    database.upgrade(empty)
    fleet = Fleet(empty, RecordingDispatcher(), MemoryImages(), MemoryLive())
    job = a_completed_job(fleet)

    database.upgrade(empty)

    with fleet.reading() as session:
        assert session.get_one(type(job), job.id).state == "completed"


def test_the_revisions_make_exactly_what_the_tables_say(empty: Engine) -> None:
    database.upgrade(empty)

    with empty.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
