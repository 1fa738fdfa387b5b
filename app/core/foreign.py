"""A catalogue that lies in somebody else's table or view: read, and never written.

Seed 003 reads an existing `models` table. Its columns may be called otherwise, and sizes may be in another unit:
`Source` says how, and that is held against the table itself before anything is asked of it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from sqlalchemy import Column, ColumnElement, Engine, MetaData, Row, Select, String, Table, Text, cast, inspect, select
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.sql import quoted_name

from app.core.models import BYTES_PER_GB, KINDS, CatalogueEntry, can_be_stored

NEEDED = ("id", "name", "download_url", "save_path")
EXPECTED = (*NEEDED, *("file_size_gb", "hash", "auth_required", "auth_provider", "dependencies", "description"))
"""Seed 003's columns. Those that are not needed may be mapped to nothing."""

OWN = ("size_bytes", "kind", "base", "variant", "tags", "options")
"""Columns that a table may have beside them; they are taken where they are mapped."""

BYTES_IN: Mapping[str, int] = {"bytes": 1, "MB": 10**6, "GB": 10**9}

FOLDERS: Mapping[str, str] = {
    "checkpoints": "checkpoint",
    "unet": "checkpoint",
    "diffusion_models": "checkpoint",
    "loras": "lora",
    "vae": "vae",
    "embeddings": "embedding",
    "controlnet": "controlnet",
    "upscale_models": "upscaler",
}
"""ComfyUI's folders, which `save_path` begins with, and what lies in each."""

ORIGIN = "table"
"""Who wrote the copies of such entries that our own tables have, for jobs to name."""


class WrongTable(Exception):
    """The table is not there, or not as the settings say; the message names everything that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the table is, and how it is to be read."""

    table: str
    """Perhaps with its schema before it: `public.models`."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Theirs by ours, where they differ; empty: there is no such column."""
    size_unit: str = "GB"
    """Of their `file_size_gb`: one of BYTES_IN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignModel:
    """A row as it is, with the names and units of seed 003."""

    id: str
    name: str
    download_url: str
    save_path: str
    file_size_gb: float | None = None
    hash: str | None = None
    auth_required: bool = False
    auth_provider: str | None = None
    dependencies: Sequence[str] = ()
    description: str | None = None
    size_bytes: int | None = None
    kind: str = "other"
    base: str | None = None
    variant: str | None = None
    tags: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_entry(self) -> CatalogueEntry:
        """Return the entry that our own tables can have; raises InvalidModel."""
        return CatalogueEntry(**{name: getattr(self, name) for name in ForeignModel.__dataclass_fields__})


class ForeignTable:
    """Somebody else's table of models."""

    def __init__(self, engine: Engine, source: Source) -> None:
        """Nothing is asked yet: the database may be away while we start."""
        self._engine = engine.execution_options(postgresql_readonly=True)
        self._source = source

    @property
    def name(self) -> str:
        """Return what the table is called."""
        return self._source.table

    def check(self) -> None:
        """Hold the settings against the table; raises WrongTable, and SQLAlchemyError when nobody answers."""
        _ = self._columns

    def find(self, ids: Iterable[str]) -> dict[str, ForeignModel]:
        """Look many models up in one query, by id."""
        wanted = [each for each in dict.fromkeys(ids) if can_be_stored(each)]
        if not wanted:
            return {}
        found = self._read(self._query().where(self._id.in_(wanted)))
        return {model.id: model for model in found}

    def everything(self) -> list[ForeignModel]:
        """Return all models."""
        return self._read(self._query())

    def close(self) -> None:
        """Let go of its connections."""
        self._engine.dispose()

    def _query(self) -> Select[Any]:
        return select(*(column.label(ours) for ours, column in self._columns.items()))

    @property
    def _id(self) -> ColumnElement[str]:
        """Return the id as text: another type would refuse to be compared with what is none of its kind."""
        column = self._columns["id"]
        return column if isinstance(column.type, String) else cast(column, Text)

    def _read(self, query: Select[Any]) -> list[ForeignModel]:
        with self._engine.connect() as connection:
            return [_to_model(row, self._source.size_unit) for row in connection.execute(query)]

    @cached_property
    def _columns(self) -> Mapping[str, Column[Any]]:
        schema, _, name = self._source.table.rpartition(".")
        try:
            there = {each["name"]: each["type"] for each in inspect(self._engine).get_columns(name, schema or None)}
        except NoSuchTableError:
            raise WrongTable(f"there is no table or view {self._source.table!r} in the catalogue's database") from None
        chosen = _chosen(self._source, there)
        # Quoted always: a name may be a word of SQL, or have capital letters.
        columns = {ours: Column(quoted_name(theirs, quote=True), there[theirs]) for ours, theirs in chosen.items()}
        once = {column.name: column for column in columns.values()}
        table = Table(
            quoted_name(name, quote=True), MetaData(), *once.values(), schema=quoted_name(schema, quote=True) or None
        )
        return {ours: table.c[theirs] for ours, theirs in chosen.items()}


def _chosen(source: Source, there: Mapping[str, Any]) -> dict[str, str]:
    """Return their name of each column by ours; raises WrongTable with everything that does not fit."""
    problems = [
        f"{ours!r} is no column of a catalogue; there are {', '.join((*EXPECTED, *OWN))}"
        for ours in source.columns
        if ours not in {*EXPECTED, *OWN}
    ]
    wanted = {**{name: name for name in EXPECTED}, **{name: name for name in OWN if name in there}, **source.columns}
    chosen = {}
    for ours, theirs in wanted.items():
        if theirs in there:
            chosen[ours] = theirs
        elif theirs or ours in NEEDED:
            alike = get_close_matches(theirs or ours, list(there), n=1)
            hint = f"; is it {ours}={alike[0]}?" if alike else ""
            optional = "" if ours in NEEDED else f", or {ours}= where there is none"
            problems.append(f"it has no column {theirs or ours!r} for {ours}{hint or optional}")
    if problems:
        told = f"has the columns {', '.join(sorted(there))}"
        raise WrongTable(f"the table {source.table!r} {told}: " + "; ".join(problems))
    return chosen


def _to_model(row: Row[Any], unit: str) -> ForeignModel:
    """Read a row of whatever types its columns have."""
    given = {name: value for name, value in row._mapping.items() if value is not None}  # noqa: SLF001  # SQLAlchemy's public name for it
    found: dict[str, Any] = {name: str(given.get(name, "")) for name in NEEDED}
    for name in ("hash", "auth_provider", "description", "base", "variant"):
        found[name] = str(given[name]) if name in given else None
    if "file_size_gb" in given:
        size = float(given["file_size_gb"]) * BYTES_IN[unit]
        found["file_size_gb"] = size / BYTES_PER_GB
        if unit == "bytes":
            found["size_bytes"] = int(given["file_size_gb"])
    if "size_bytes" in given:
        found["size_bytes"] = int(given["size_bytes"])
    found["auth_required"] = str(given.get("auth_required", "")).lower() in {"true", "t", "yes", "y", "1", "on"}
    found["dependencies"] = _ids(given.get("dependencies"))
    found["tags"] = _ids(given.get("tags"))
    options = given.get("options")
    found["options"] = dict(options) if isinstance(options, Mapping) else {}
    kind = str(given.get("kind", FOLDERS.get(found["save_path"].partition("/")[0], "other"))).lower()
    return ForeignModel(kind=kind if kind in KINDS else "other", **found)


def _ids(value: Any) -> list[str]:
    """Read a list that is a JSON array, an array of the database, a JSON text, or a text with commas."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [item.strip() for item in value.split(",")]
    return [str(item) for item in value if item] if isinstance(value, (list, tuple)) else []
