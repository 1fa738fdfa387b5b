"""Looks at the database, at the store of pictures, and at who beats in the database."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import create_engine, insert, make_url, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import database
from app.core import heartbeats
from app.core.fleet import prepare_engine
from app.core.tables import Heartbeat, Image
from app.doctor.computer import room, writable
from app.doctor.findings import Finding, Patient, broken, fine, skipped, warning
from app.storage import FolderStore

UPGRADE = "run `imagefleet db upgrade`"
MOST_CHECKED = 10**9
"""Bytes of a file of SQLite up to which all of its pages are looked at: it takes some seconds for each gigabyte."""


@contextmanager
def connected(patient: Patient) -> Iterator[Engine]:
    """Open the database as the server does; a file that is not there is not made."""
    url = make_url(patient.settings.database_url)
    if url.get_backend_name() == "postgresql":
        engine = create_engine(url, hide_parameters=True, connect_args={"connect_timeout": 5})
    else:
        engine = create_engine(url, hide_parameters=True)
    try:
        yield prepare_engine(engine)
    finally:
        engine.dispose()


def file_of(patient: Patient) -> Path | None:
    """Return the database's file; None where it is a server."""
    url = make_url(patient.settings.database_url)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def db(patient: Patient) -> Iterator[Finding]:
    """Look whether the database is there, has this version's schema, can be written to, and is whole."""
    file = file_of(patient)
    if file is not None and not file.exists():
        yield warning(f"there is no database at {file} yet", f"`imagefleet up` makes it, or {UPGRADE}")
        return
    try:
        with connected(patient) as engine:
            looked = list(_revision(engine))
            yield from looked
            if all(each.remedy is None for each in looked):
                yield from _writes(engine)
            if file is not None and file.stat().st_size <= MOST_CHECKED:
                yield from _is_whole(engine, file)
    except SQLAlchemyError as exc:
        reason = getattr(exc, "orig", None) or exc
        yield broken(
            f"the database does not do what it should: {str(reason).strip()}",
            "start it, correct DATABASE_URL, or bring a backup back (docs/operations.md)",
        )


def _revision(engine: Engine) -> Iterator[Finding]:
    with engine.connect() as connection:
        kind = f"{engine.dialect.name} {'.'.join(map(str, engine.dialect.server_version_info or ()))}"
        found = database.revision_of(connection)
    known = database.revisions()
    if found is None:
        yield broken(f"{kind} answers, and has none of our tables", UPGRADE)
    elif found not in known:
        yield warning(f"{kind} has schema {found}, which this version does not know", "update imagefleet here")
    elif found != known[-1]:
        yield broken(f"{kind} has schema {found}, and this version needs {known[-1]}", UPGRADE)
    else:
        yield fine(f"{kind} has schema {found}")


def _writes(engine: Engine) -> Iterator[Finding]:
    with engine.connect().execution_options(writes=True) as connection, connection.begin() as change:
        now = datetime.now(UTC)
        connection.execute(insert(Heartbeat).values(name=f"doctor {uuid.uuid4()}", up_since=now, beat_at=now))
        change.rollback()
    yield fine("it can be written to")


def _is_whole(engine: Engine, file: Path) -> Iterator[Finding]:
    with engine.connect() as connection:
        told = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
    if told == "ok":
        yield fine("its pages are whole")
    else:
        yield broken(f"{file} is damaged: {told}", "stop the server and bring a backup back: `imagefleet restore FILE`")


def storage(patient: Patient) -> Iterator[Finding]:
    """Keep a file in the store of pictures as the server does, read it, delete it; look for the newest picture's."""
    folder = patient.settings.data_dir / "images"
    looked = list(writable(folder, "the store of pictures,"))
    if any(each.remedy for each in looked):
        yield from looked
        return
    store, key = FolderStore(folder), f"doctor/{uuid.uuid4()}"
    store.put(key, b"imagefleet")
    came_back = store.get(key) == b"imagefleet"
    store.delete(key)
    (folder / "doctor").rmdir()
    if came_back:
        yield fine(f"the store of pictures, {folder}, takes, gives back and deletes")
    else:
        yield broken(f"the store of pictures, {folder}, gives back something else", "look at the disk: dmesg, smartctl")
    yield from room(folder, "the store of pictures,")
    yield from _newest(patient, store)


def _newest(patient: Patient, store: FolderStore) -> Iterator[Finding]:
    """Look whether rows and files are of one server: a moved folder shows here."""
    try:
        with connected(patient) as engine, Session(engine) as session:
            newest = session.scalars(select(Image).order_by(Image.created_at.desc()).limit(1)).first()
    except SQLAlchemyError:
        return  # the look at the database tells
    if newest is None:
        return
    try:
        store.get(newest.key)
    except KeyError:
        yield broken(
            f"the newest picture's file, {newest.key}, is not in the store",
            "point DATA_DIR at the folder in which the pictures are, or bring them back from a backup",
        )


def beats(patient: Patient) -> Iterator[Finding]:
    """Look who has beaten in the database lately: the web processes, and the control worker with beat."""
    file = file_of(patient)
    if file is not None and not file.exists():
        yield skipped("there is no database yet, so nothing runs on it")
        return
    try:
        with connected(patient) as engine, Session(engine) as session:
            found = {each.name: each.beat_at for each in session.scalars(select(Heartbeat))}
    except SQLAlchemyError:
        yield skipped("the database cannot be asked")
        return
    yield from _beat(found, heartbeats.API, "the web server", "start it: `imagefleet up`, or gunicorn app.wsgi")
    yield from _beat(
        found,
        heartbeats.CONTROL,
        "the sweeper (control worker and beat)",
        "start both: celery --app=tasks.control.app worker --queues=control,webhooks, and beside it: celery "
        "--app=tasks.control.app beat; where a control worker listens, beat is missing",
    )


def _beat(found: dict[str, datetime], name: str, told: str, remedy: str) -> Iterator[Finding]:
    if name not in found:
        yield broken(f"{told} has never run on this database", remedy)
        return
    silent = (datetime.now(UTC) - found[name]).total_seconds()
    if silent > heartbeats.STALE_SECONDS:
        yield broken(f"{told} has given no sign of life for {silent:.0f} s", remedy)
    else:
        yield fine(f"{told} beats, {max(0.0, silent):.1f} s ago")
