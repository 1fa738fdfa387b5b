"""What code of earlier revisions has written into the database, as plain rows: a row of each table, two of jobs."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, MetaData, Table, insert, select

THEN = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
MODEL, MACHINE = "a-model", "gpu-1"
DONE, WAITING, ENGINE, IMAGE, DELIVERY = (UUID(int=number) for number in range(1, 6))
INPUT = "a" * 64

Row = Mapping[str, Any]

JOB: Row = {
    "model_id": MODEL,
    "spec": {"model_id": MODEL, "prompt": "a red circle"},
    "priority": 3,
    "rank": 6,
    "dialect": "v1",
    "owner": "",
    "queue": f"model.{MODEL}",
    "is_replay": False,
    "created_at": THEN,
    "queued_at": THEN,
    "rung_at": THEN,
    "attempt": 0,
    "max_attempts": 3,
}

DELIVERED: Row = {
    "id": DELIVERY,
    "job_id": DONE,
    "position": 0,
    "host": "hooks.example.org:443",
    "event": "job.completed",
    "body": {"job_id": str(DONE)},
    "state": "delivered",
    "tried": 1,
    "failures": 0,
    "created_at": THEN,
    "next_try_at": THEN,
    "ended_at": THEN,
}

ROWS: tuple[tuple[str, Row], ...] = (
    (
        "models",
        {
            "id": MODEL,
            "name": "a-model.safetensors",
            "download_url": "https://models.example.org/a-model.safetensors",
            "auth_required": False,
            "save_path": "checkpoints/a-model.safetensors",
            "dependencies": [],
            "kind": "checkpoint",
            "tags": ["old"],
            "options": {},
            "origin": "api",
            "created_at": THEN,
            "updated_at": THEN,
        },
    ),
    (
        "machines",
        {
            "id": MACHINE,
            "boot_id": "boot-1",
            "version": "0.1.0",
            "device": {"type": "cpu"},
            "needed": [MODEL],
            "drained": False,
            "first_seen_at": THEN,
            "last_seen_at": THEN,
        },
    ),
    (
        "holdings",
        {"machine_id": MACHINE, "model_id": MODEL, "state": "ready", "bytes_done": 7, "updated_at": THEN},
    ),
    ("jobs", {**JOB, "id": DONE, "state": "completed", "attempt": 1, "machine_id": MACHINE, "ended_at": THEN}),
    ("jobs", {**JOB, "id": WAITING, "state": "queued"}),
    (
        "attempts",
        {
            "job_id": DONE,
            "number": 1,
            "machine_id": MACHINE,
            "boot_id": "boot-1",
            "device": "",
            "together": 1,
            "state": "completed",
            "started_at": THEN,
            "ended_at": THEN,
            "timings": {"denoising": 1.5},
        },
    ),
    (
        "images",
        {
            "id": IMAGE,
            "job_id": DONE,
            "attempt": 1,
            "position": 0,
            "seed": 7,
            "width": 8,
            "height": 8,
            "media_type": "image/png",
            "size_bytes": 75,
            "sha256": "b" * 64,
            "key": "2026/one.png",
            "is_favourite": False,
            "created_at": THEN,
        },
    ),
    ("callers", {"id": "a-client", "options": {"sd_model_checkpoint": MODEL}, "updated_at": THEN}),
    ("peer_files", {"url": "http://10.0.0.7:8766", "key": "sha256:abc", "complete": True, "seen_at": THEN}),
    ("counters", {"name": "stale_results_refused", "value": 3}),
    ("heartbeats", {"name": "api", "up_since": THEN, "beat_at": THEN}),
    (
        "idempotency_keys",
        {"owner": "", "key": "k", "fingerprint": "c" * 64, "job_ids": [str(DONE)], "created_at": THEN},
    ),
    ("paces", {"model_id": MODEL, "device": "CPU", "job_seconds": 2.5, "samples": 4, "updated_at": THEN}),
    ("turns", {"model_id": MODEL, "owner": ""}),
    (
        "hooks",
        {
            "job_id": DONE,
            "url": "https://hooks.example.org/a",
            "host": "hooks.example.org:443",
            "sealed": "…",
            "events": [],
            "base_url": "",
        },
    ),
    ("deliveries", DELIVERED),
    ("delivery_tries", {"delivery_id": DELIVERY, "number": 1, "at": THEN, "seconds": 0.25, "status": 200}),
    (
        "inputs",
        {
            "sha256": INPUT,
            "key": "inputs/a.png",
            "media_type": "image/png",
            "width": 8,
            "height": 8,
            "size_bytes": 75,
            "created_at": THEN,
            "used_at": THEN,
        },
    ),
    (
        "engines",
        {
            "id": ENGINE,
            "checkpoint_id": MODEL,
            "loras": [],
            "embeddings": [],
            "controlnets": [],
            "defaults": {"steps": 12},
            "state": "Closed",
            "is_wanted": False,
            "created_at": THEN,
            "updated_at": THEN,
        },
    ),
    ("enrichments", {"hash": "d" * 64, "found": {"name": "old"}, "failures": 0, "created_at": THEN}),
    ("doomed_files", {"key": "2026/gone.png", "due_at": THEN}),
    ("measured", {"name": "webhooks", "labels": "[]", "part": "", "value": 2.0}),
)


def tables_of(connection: Connection) -> dict[str, Table]:
    """Read which tables and columns there are."""
    metadata = MetaData()
    metadata.reflect(connection)
    return {name: table for name, table in metadata.tables.items() if name != "alembic_version"}


def rows_at(tables: Mapping[str, Table]) -> Iterator[tuple[Table, dict[str, Any]]]:
    """Return what code that knew just these tables and columns wrote, in an order that foreign keys allow."""
    assert set(tables) <= {name for name, _ in ROWS}, "write a row of the new table into tests/support/revisions.py"
    for name, row in ROWS:
        if name in tables:
            yield tables[name], {column.name: row[column.name] for column in tables[name].columns if column.name in row}


def write(connection: Connection, tables: Mapping[str, Table]) -> None:
    """Write it."""
    for table, row in rows_at(tables):
        connection.execute(insert(table).values(_stored(connection, row)))


def missing(connection: Connection, tables: Mapping[str, Table]) -> list[str]:
    """Name what is not there any more as it was written, in the tables as they are now."""
    now, lost = tables_of(connection), []
    for table, row in rows_at(tables):
        keys = [column.name for column in table.primary_key]
        stored = _stored(connection, row)
        found = now[table.name]
        query = select(*(found.c[name] for name in row)).where(*(found.c[key] == stored[key] for key in keys))
        kept = connection.execute(query).mappings().one_or_none()
        lost += [
            f"{table.name}.{name}: {None if kept is None else kept[name]!r} instead of {value!r}"
            for name, value in stored.items()
            if kept is None or _aware(kept[name]) != value
        ]
    return lost


def _stored(connection: Connection, row: Row) -> dict[str, Any]:
    """Return a row as this database takes it where nobody translates: SQLite has no ids, only their 32 digits."""
    native = connection.dialect.supports_native_uuid
    return {name: value.hex if isinstance(value, UUID) and not native else value for name, value in row.items()}


def _aware(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
