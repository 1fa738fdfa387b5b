"""The catalogue in an existing table of somebody else's PostgreSQL database, which holds nothing of ours."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

from app import catalogue
from app.api.application import make_application
from app.bootstrap import make_foreign
from app.core.fleet import Fleet
from app.core.foreign import ForeignTable, Source, WrongTable
from app.core.models import listing
from app.parse import SettingsError
from app.settings import Settings
from tests.api.test_catalog import BATCH, FLUX, HOSTILE_IDS, SDXL, SEED_FIELDS
from tests.support.postgres import PostgresServer
from tests.support.web import Client, client_of

PLAIN = """
CREATE TABLE models (
  id varchar PRIMARY KEY, name text, download_url text, file_size_gb double precision, hash text,
  auth_required boolean, auth_provider text, save_path text, dependencies jsonb, description text
)
"""
OTHERWISE = """
CREATE SCHEMA "Shop";
CREATE TABLE "Shop"."Model Files" (
  "modelId" text PRIMARY KEY, "fileName" text, "order" text, bytes bigint, sha text, gated integer,
  provider text, "Path" text, needs text[], secret text
);
CREATE VIEW "Shop"."Public Models" AS SELECT * FROM "Shop"."Model Files" WHERE secret IS NULL;
"""
COLUMNS = {
    "id": "modelId",
    "name": "fileName",
    "download_url": "order",
    "file_size_gb": "bytes",
    "hash": "sha",
    "auth_required": "gated",
    "auth_provider": "provider",
    "save_path": "Path",
    "dependencies": "needs",
    "description": "",
}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Our own tables are elsewhere."""
    return sqlite_url


@pytest.fixture(scope="module")
def theirs(postgres: PostgresServer) -> Iterator[URL]:
    """Make a database that holds only such tables."""
    url = postgres.create("emprops")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(PLAIN)
        connection.exec_driver_sql(OTHERWISE)
        values = ", ".join(f":{name}" for name in SEED_FIELDS)
        for row in (FLUX, SDXL):
            connection.execute(text(f"INSERT INTO models VALUES ({values})"), {**row, "dependencies": "[]"})
        connection.exec_driver_sql(
            """INSERT INTO "Shop"."Model Files" VALUES
            ('style', 'style.safetensors', 'https://example.org/style', 1500000000, NULL, 1, 'civitai', 'loras/style',
             '{flux-dev,sdxl-base}', NULL),
            ('hidden', 'h', 'https://example.org/h', 1, NULL, 0, NULL, 'vae/h', '{}', 'x')"""
        )
    yield url
    engine.dispose()


Open = Callable[..., tuple[Fleet, Client]]
"""Makes a fleet, and a client of it, that reads their table; with settings in place of the usual ones."""


@pytest.fixture
def opened(fleet: Fleet, settings: Settings, theirs: URL) -> Iterator[Open]:
    """Return how to open their table."""
    url = theirs.render_as_string(hide_password=False)
    with ExitStack() as stack:

        def open_table(**more: Any) -> tuple[Fleet, Client]:
            known = replace(settings, **{"catalog_table": "models", "catalog_database_url": url, **more})
            foreign = make_foreign(known)
            assert foreign is not None
            stack.callback(foreign.close)
            whole = replace(fleet, foreign=foreign)
            return whole, client_of(make_application(whole, known))

        yield open_table


@pytest.fixture
def reading(opened: Open) -> Client:
    """Return a client of a server that reads the table as seed 003 has it."""
    return opened()[1]


@contextmanager
def a_row(theirs: URL, **changed: Any) -> Iterator[None]:
    """Have one more model in their table."""
    engine = create_engine(theirs)
    row = {**SDXL, "id": "new", "dependencies": "[]", **changed}
    try:
        with engine.begin() as connection:
            connection.execute(text(f"INSERT INTO models VALUES ({', '.join(f':{n}' for n in SEED_FIELDS)})"), row)
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM models WHERE id = :id"), {"id": row["id"]})
        engine.dispose()


def seeds_fields(model: dict[str, Any]) -> dict[str, Any]:
    return {name: model[name] for name in SEED_FIELDS}


def test_their_rows_are_answered_as_in_the_seed(reading: Client) -> None:
    one = reading.get("/api/models/flux-dev")
    batch = reading.post(BATCH, json={"model_ids": ["sdxl-base", "nonexistent", "flux-dev"]}).json

    assert seeds_fields(one.json) == FLUX
    assert [seeds_fields(model) for model in batch["models"]] == [SDXL, FLUX]
    assert batch["not_found"] == ["nonexistent"]
    assert reading.get("/api/models/x").json == {"error": "Model not found", "model_id": "x"}
    assert reading.get("/api/models/flux-dev", headers={"If-None-Match": one.headers["ETag"]}).status_code == 304


def test_a_hundred_ids_take_one_select_of_theirs(opened: Open) -> None:
    whole, client = opened()
    assert isinstance(whole.foreign, ForeignTable)
    whole.foreign.check()

    with counted(whole.foreign) as asked:
        body = client.post(BATCH, json={"model_ids": ["flux-dev", *(f"unknown-{k}" for k in range(99))]}).json

    assert len(body["not_found"]) == 99
    assert len([each for each in asked if "SELECT" in each and "pg_catalog" not in each]) == 1


@contextmanager
def counted(foreign: ForeignTable) -> Iterator[list[str]]:
    engine: Engine = foreign._engine  # nobody else needs it
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_other_names_units_and_types_are_mapped(opened: Open) -> None:
    _, client = opened(
        catalog_table="Shop.Public Models",
        catalog_columns=tuple(COLUMNS.items()),
        catalog_size_unit="bytes",
    )

    model = client.get("/api/models/style").json

    assert model == {
        "id": "style",
        "name": "style.safetensors",
        "download_url": "https://example.org/style",
        "file_size_gb": 1.5,
        "hash": None,
        "auth_required": True,
        "auth_provider": "civitai",
        "save_path": "loras/style",
        "dependencies": ["flux-dev", "sdxl-base"],
        "description": None,
        "size_bytes": 1_500_000_000,
        "kind": "lora",
        "base": None,
    }
    assert client.get("/api/models/hidden").status_code == 404


@pytest.mark.parametrize(("unit", "size", "gb"), [("GB", 6.94, 6.94), ("MB", 6940, 6.94), ("bytes", 6.94e9, 6.94)])
def test_sizes_are_told_in_gigabytes(opened: Open, theirs: URL, unit: str, size: float, gb: float) -> None:
    _, client = opened(catalog_size_unit=unit)

    with a_row(theirs, file_size_gb=size):
        assert client.get("/api/models/new").json["file_size_gb"] == pytest.approx(gb)


def test_hostile_ids_are_only_not_found(reading: Client) -> None:
    body = reading.post(BATCH, json={"model_ids": [*HOSTILE_IDS, "flux-dev"]}).json

    assert (body["not_found"], [model["id"] for model in body["models"]]) == (HOSTILE_IDS, ["flux-dev"])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (Source(table="modles"), "there is no table or view 'modles'"),
        (Source(table='models"; DROP TABLE models; --'), "there is no table or view"),
        (Source(table="models", columns={"name": "filename"}), "no column 'filename' for name; is it name=name?"),
        (Source(table="models", columns={"hash": "sha"}), "no column 'sha' for hash"),
        (Source(table="models", columns={"nmae": "name"}), "'nmae' is no column of a catalogue"),
        (Source(table="models", columns={"id": ""}), "no column 'id' for id"),
        (Source(table="Shop.Model Files"), "has the columns"),
    ],
)
def test_what_does_not_fit_is_told_at_the_start(theirs: URL, source: Source, told: str) -> None:
    engine = create_engine(theirs)

    with pytest.raises(WrongTable, match=told.replace("(", r"\(")):
        ForeignTable(engine, source).check()

    engine.dispose()


def test_every_column_that_is_missing_is_told_at_once(theirs: URL) -> None:
    engine = create_engine(theirs)

    with pytest.raises(WrongTable) as refused:
        ForeignTable(engine, Source(table="Shop.Model Files", columns={"id": "modelId"})).check()

    assert all(f"for {name}" in str(refused.value) for name in ("name", "download_url", "save_path", "description"))
    engine.dispose()


def test_a_wrong_table_keeps_the_server_from_starting(opened: Open, tmp_path: Path) -> None:
    whole, _ = opened(catalog_table="modles")

    with pytest.raises(SettingsError, match="CATALOG_TABLE: there is no table or view 'modles'"):
        catalogue.load(whole, {}, tmp_path)


def test_jobs_may_name_their_models_and_follow_what_becomes_of_them(opened: Open, theirs: URL, tmp_path: Path) -> None:
    whole, client = opened()

    with a_row(theirs):
        catalogue.load(whole, {}, tmp_path)
        order = client.post("/v1/jobs", json={"model_id": "flux-dev", "prompt": "a red circle"})
    before_the_copy_is_new = client.get("/api/models/new").status_code
    catalogue.mirror(whole)

    assert order.status_code == 202
    assert before_the_copy_is_new == 404
    with whole.reading() as session:
        assert {model.id: model.origin for model in listing(session)} == {
            "demo-shapes": "built-in",
            "flux-dev": "table",
            "sdxl-base": "table",
        }
    assert client.get("/api/models/demo-shapes").status_code == 200


def test_their_catalogue_is_read_only(reading: Client, theirs: URL) -> None:
    entry = {"name": "a.bin", "download_url": "https://example.org/a"}
    answers = [
        reading.post("/v1/models", json=entry),
        reading.patch("/v1/models/flux-dev", json={"description": "x"}),
        reading.delete("/v1/models/flux-dev"),
    ]

    assert [(each.status_code, each.json["error"]["code"]) for each in answers] == [(409, "catalogue_read_only")] * 3
    engine = create_engine(theirs)
    foreign = ForeignTable(engine, Source(table="models"))
    with pytest.raises(DBAPIError, match="read-only"), foreign._engine.begin() as connection:  # as above
        connection.exec_driver_sql("DELETE FROM models")
    engine.dispose()


def test_their_database_that_is_away_is_a_database_error(opened: Open) -> None:
    _, client = opened(catalog_database_url="postgresql+psycopg://x@127.0.0.1:1/x")

    answer = client.get("/api/models/flux-dev")

    assert (answer.status_code, answer.json) == (500, {"error": "Internal server error"})
