"""Backing up a server that stands on SQLite, while it runs, and bringing it back.

The database is copied by SQLite's own backup, which sees one moment of it however much is written meanwhile. Then the
pictures of that moment are copied. One that was deleted meanwhile leaves the copy of the database too.
Source: https://www.sqlite.org/backup.html.
"""

import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import create_engine, make_url

from app import database, runfile
from app.archive import DATABASE, KEY, PICTURES, BackupError, Manifest, Writer, unpack
from app.core.fleet import prepare_engine
from app.settings import Settings

BESIDE = ("", "-wal", "-shm")
"""How SQLite's files end; a log that was left beside another database would be played into it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Rows that have files: how their files are listed, and how the row of one is asked for and deleted."""

    table: str
    every: str
    one: str
    gone: str


KINDS = (
    Kind(
        "images",
        "SELECT key, id FROM images ORDER BY key",
        "SELECT 1 FROM images WHERE id = ?",
        "DELETE FROM images WHERE id = ?",
    ),
    Kind(
        "inputs",
        "SELECT key, sha256 FROM inputs ORDER BY key",
        "SELECT 1 FROM inputs WHERE sha256 = ?",
        "DELETE FROM inputs WHERE sha256 = ?",
    ),
)


def back_up(settings: Settings, path: Path, *, pictures: bool = True, overwrite: bool = False) -> Manifest:
    """Write a backup into one file; raises BackupError."""
    source = database_file(settings)
    if not source.exists():
        raise BackupError(f"there is no database at {source}: nothing to back up")
    if path.exists() and not overwrite:
        raise BackupError(f"{path} is there already; name another file, or say --force")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Writer(path)
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=path.parent) as folder:
            copy = Path(folder) / "copy.db"
            _copy(source, copy)
            lost = _add_pictures(writer, settings.data_dir / "images", source, copy) if pictures else ()
            writer.add(DATABASE, copy)
            with suppress(FileNotFoundError):  # none was needed yet, or SECRET_KEY is set
                writer.add(KEY, settings.data_dir / "db" / "secret.key")
            made = Manifest(
                version=version("imagefleet"),
                revision=_revision(copy),
                made_at=datetime.now(UTC).isoformat(timespec="seconds"),
                with_pictures=pictures,
                files=writer.files,
                lost=tuple(lost),
            )
            writer.finish(made)
    except BaseException:  # also when somebody presses Ctrl-C
        writer.discard()
        raise
    return made


def database_file(settings: Settings) -> Path:
    """Return where the database lies; raises BackupError where it is none of SQLite's."""
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise BackupError(
            f"the database is {url.get_backend_name()}, which has a backup of its own: docs/operations.md, "
            '"Backing up PostgreSQL", says how'
        )
    return Path(url.database)


def _copy(source: Path, copy: Path) -> None:
    with closing(sqlite3.connect(source, timeout=60)) as live, closing(sqlite3.connect(copy)) as made:
        live.backup(made)
        made.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        problem = made.execute("PRAGMA quick_check").fetchone()[0]
    if problem != "ok":
        raise BackupError(f"the database is damaged: {problem}; `sqlite3 {source} .recover` may save what can be saved")


def _revision(copy: Path) -> str:
    with closing(sqlite3.connect(copy)) as made:
        return str(made.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def _add_pictures(writer: Writer, folder: Path, source: Path, copy: Path) -> list[str]:
    """Take in the pictures that the copy's rows name; returns those that the store has lost."""
    lost: list[str] = []
    with closing(sqlite3.connect(copy)) as made, closing(sqlite3.connect(source, timeout=60)) as live:
        known = {name for (name,) in made.execute("SELECT name FROM sqlite_master")}
        for kind in (each for each in KINDS if each.table in known):  # an older database has fewer of them
            for name, row in made.execute(kind.every).fetchall():
                try:
                    writer.add(f"{PICTURES}/{name}", folder / name)
                except FileNotFoundError:
                    if live.execute(kind.one, (row,)).fetchone():
                        lost.append(name)
                    else:  # somebody deleted it while we were copying
                        made.execute(kind.gone, (row,))
        made.commit()
    return lost


def bring_back(settings: Settings, path: Path, *, overwrite: bool = False) -> tuple[Manifest, Path | None]:
    """Bring a backup back, proven and with the newest schema; raises BackupError, and then nothing has changed.

    Returns what it held, and where what was there before lies now; None: nothing was there.
    """
    target, images = database_file(settings), settings.data_dir / "images"
    if not path.exists():
        raise BackupError(f"there is no file {path}")
    _require_stopped(settings, target)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=settings.data_dir) as name:
        folder = Path(name)
        manifest = unpack(path, folder)
        if DATABASE not in manifest.files:
            raise BackupError(f"{path} holds no database; take another one")
        _migrate(manifest, folder / DATABASE)
        in_the_way = [
            *(Path(f"{target}{end}") for end in BESIDE),
            *([settings.data_dir / KEY] if KEY in manifest.files else []),
            *([images] if manifest.with_pictures and _holds_anything(images) else []),
        ]
        in_the_way = [each for each in in_the_way if each.exists()]
        if in_the_way and not overwrite:
            raise BackupError(
                f"{in_the_way[0]} is there already; say --force to put it aside and bring the backup back in its place"
            )
        aside = _put_aside(settings.data_dir, in_the_way)
        target.parent.mkdir(parents=True, exist_ok=True)
        _move_in(folder, settings.data_dir, manifest, target)
    return manifest, aside


def _require_stopped(settings: Settings, target: Path) -> None:
    """Refuse to change a database under a running server's feet."""
    if running := runfile.find(settings):
        raise BackupError(f"a server runs on {settings.data_dir}, at {running.fleet_url}: stop it first")
    if not target.exists():
        return
    with closing(sqlite3.connect(target, timeout=0.5, isolation_level=None)) as held:
        try:
            held.execute("PRAGMA locking_mode=EXCLUSIVE")
            held.execute("BEGIN EXCLUSIVE")
            held.execute("ROLLBACK")
        except sqlite3.OperationalError:
            raise BackupError(f"somebody has {target} open: stop the server and the control worker first") from None
        except sqlite3.DatabaseError:  # it is damaged, which is why somebody brings a backup back
            return


def _migrate(manifest: Manifest, file: Path) -> None:
    if manifest.revision not in database.revisions():
        raise BackupError(
            f"it was made by imagefleet {manifest.version} with the schema {manifest.revision}, which this version "
            f"({version('imagefleet')}) does not know: update this one first"
        )
    engine = prepare_engine(create_engine(f"sqlite:///{file}"))
    try:
        database.upgrade(engine)
    finally:
        engine.dispose()


def _holds_anything(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _put_aside(data_dir: Path, in_the_way: list[Path]) -> Path | None:
    if not in_the_way:
        return None
    aside = data_dir / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    aside.mkdir()
    for path in in_the_way:
        shutil.move(path, aside / path.name)
    return aside


def _move_in(folder: Path, data_dir: Path, manifest: Manifest, target: Path) -> None:
    """Put what was unpacked in its place; the database comes last: where it is, all is."""
    if manifest.with_pictures and (folder / PICTURES).exists():
        with suppress(FileNotFoundError):
            (data_dir / "images").rmdir()
        shutil.move(folder / PICTURES, data_dir / "images")
    if KEY in manifest.files:
        (data_dir / KEY).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / KEY, data_dir / KEY)
        (data_dir / KEY).chmod(0o600)
    shutil.move(folder / DATABASE, target)
