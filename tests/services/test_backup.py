"""Backups: of a server that is written to all the while, proven when they come back, never over anything unasked."""

import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, func, select, text

from app import database
from app.archive import BackupError
from app.backup import back_up, bring_back
from app.bootstrap import make_fleet
from app.cli import cli
from app.core import images, inputs
from app.core.fleet import Fleet, prepare_engine
from app.core.inputs import Given
from app.core.tables import Image, Job
from app.settings import Settings
from tests.builders import MODEL, a_completed_job, a_job, the_job
from tests.support.postgres import PostgresServer, find_binaries


@pytest.fixture
def settings(tmp_path: Path, sqlite_template: Path) -> Settings:
    """Return the settings of a server on SQLite and on a folder of its own."""
    settings = Settings(data_dir=tmp_path / "data").completed()
    (tmp_path / "data" / "db").mkdir(parents=True)
    shutil.copy(sqlite_template, tmp_path / "data" / "db" / "imagefleet.db")
    return settings


@pytest.fixture
def live(settings: Settings) -> Iterator[Fleet]:
    """Return the fleet of that server, which runs."""
    fleet = make_fleet(settings)
    yield fleet
    fleet.close()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Settings:
    """Return the settings of a computer on which nothing is yet."""
    return Settings(data_dir=tmp_path / "elsewhere").completed()


def brought_back(settings: Settings, path: Path) -> Fleet:
    bring_back(settings, path)
    return make_fleet(settings)


def rewritten(path: Path, changed: str, data: bytes) -> Path:
    """Copy a backup with one file in it changed, and the manifest as it was."""
    copy = path.with_name("changed.tar")
    with tarfile.open(path) as old, tarfile.open(copy, "w") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            told = data if member.name.startswith(changed) else content.read()
            member.size = len(told)
            file = path.with_name("member")
            file.write_bytes(told)
            with file.open("rb") as source:
                new.addfile(member, source)
    return copy


def test_what_was_there_is_there_again(live: Fleet, settings: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    job = a_completed_job(live)
    given = inputs.keep(live, Given(sha256="7" * 64, media_type="image/png", width=8, height=8, data=b"given"))
    sealed = live.vault.seal("a secret")

    made = back_up(settings, tmp_path / "backup.tar")
    fleet = brought_back(elsewhere, tmp_path / "backup.tar")

    assert images.read(fleet, the_job(fleet, job.id).images[0]) == images.read(live, job.images[0])
    assert inputs.read(fleet, given) == b"given"
    assert fleet.vault.unseal(sealed) == "a secret"
    assert len(made.files) == 4
    assert (tmp_path / "backup.tar").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar", "data", "elsewhere"]
    fleet.close()


def test_it_shows_one_moment_of_a_server_that_is_written_to_all_the_while(
    live: Fleet, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    over = threading.Event()
    written: list[Job] = []

    def write() -> None:
        while not over.is_set():
            written.append(a_completed_job(live))
            if len(written) % 3 == 0:
                with live.transaction() as tx:
                    images.remove(tx, written[-2].images[0].id, live)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(written) < 5:
            over.wait(0.01)
        begun = len(written)
        made = back_up(settings, tmp_path / "backup.tar")
    finally:
        over.set()
        writer.join()
    fleet = brought_back(elsewhere, tmp_path / "backup.tar")

    assert made.lost == ()
    with fleet.reading() as session:
        assert begun <= (session.scalar(select(func.count()).select_from(Job)) or 0) <= len(written)
        for image in session.scalars(select(Image)):  # no row without its file
            assert images.read(fleet, image)
    stored = {path.name for path in (elsewhere.data_dir / "images").rglob("*.png")}
    with fleet.reading() as session:  # and no file without its row
        assert stored == {key.rpartition("/")[2] for key in session.scalars(select(Image.key))}
    fleet.close()


def test_without_pictures_it_is_small_and_leaves_those_that_are_there(
    live: Fleet, settings: Settings, tmp_path: Path
) -> None:
    job = a_completed_job(live)
    made = back_up(settings, tmp_path / "backup.tar", pictures=False)
    live.close()

    bring_back(settings, tmp_path / "backup.tar", overwrite=True)

    assert list(made.files) == ["db/imagefleet.db"]
    assert images.read(live, job.images[0])


def test_a_picture_that_was_lost_before_is_told_of(live: Fleet, settings: Settings, tmp_path: Path) -> None:
    job = a_completed_job(live)
    live.images.delete(job.images[0].key)

    assert back_up(settings, tmp_path / "backup.tar").lost == (job.images[0].key,)


def test_nothing_is_overwritten_unless_it_is_told_to(live: Fleet, settings: Settings, tmp_path: Path) -> None:
    a_completed_job(live)
    back_up(settings, tmp_path / "backup.tar")
    later = a_job(live)
    live.close()

    with pytest.raises(BackupError, match="is there already; name another file, or say --force"):
        back_up(settings, tmp_path / "backup.tar")
    with pytest.raises(BackupError, match="say --force to put it aside"):
        bring_back(settings, tmp_path / "backup.tar")
    assert the_job(live, later.id)
    live.close()

    _, aside = bring_back(settings, tmp_path / "backup.tar", overwrite=True)

    assert aside is not None
    assert {"imagefleet.db", "images"} <= {path.name for path in aside.iterdir()}
    with make_fleet(settings).reading() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_nothing_is_brought_back_under_a_running_servers_feet(live: Fleet, settings: Settings, tmp_path: Path) -> None:
    back_up(settings, tmp_path / "backup.tar")
    with live.reading() as session:
        session.scalar(select(Job.id))

        with pytest.raises(BackupError, match="stop the server"):
            bring_back(settings, tmp_path / "backup.tar", overwrite=True)


@pytest.mark.parametrize("changed", ["db/imagefleet.db", "images/"])
def test_a_damaged_backup_changes_nothing(
    live: Fleet, settings: Settings, elsewhere: Settings, tmp_path: Path, changed: str
) -> None:
    a_completed_job(live)
    back_up(settings, tmp_path / "backup.tar")

    with pytest.raises(BackupError, match=f"is damaged: {changed}"):
        bring_back(elsewhere, rewritten(tmp_path / "backup.tar", changed, b"something else"))

    assert list(elsewhere.data_dir.iterdir()) == []


def test_half_a_backup_is_none(live: Fleet, settings: Settings, elsewhere: Settings, tmp_path: Path) -> None:
    a_completed_job(live)
    back_up(settings, tmp_path / "backup.tar")
    whole = (tmp_path / "backup.tar").read_bytes()
    half = tmp_path / "half.tar"

    for cut in (0, 100, 1024, len(whole) // 2, len(whole) - 11_000):
        half.write_bytes(whole[:cut])
        with pytest.raises(BackupError, match="take another one"):
            bring_back(elsewhere, half)


def test_a_file_that_would_lie_elsewhere_is_refused(elsewhere: Settings, tmp_path: Path) -> None:
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as tar:
        tar.add(__file__, "images/../../outside")

    with pytest.raises(BackupError, match="outside of its folder"):
        bring_back(elsewhere, evil)

    assert not (tmp_path / "outside").exists()


def test_a_backup_of_an_older_version_is_brought_to_this_ones_schema(tmp_path: Path, elsewhere: Settings) -> None:
    old = Settings(data_dir=tmp_path / "old").completed()
    (tmp_path / "old" / "db").mkdir(parents=True)
    engine = prepare_engine(create_engine(old.database_url))
    first, *_, newest = database.revisions()
    database.upgrade(engine, first)
    engine.dispose()

    made = back_up(old, tmp_path / "backup.tar")
    fleet = brought_back(elsewhere, tmp_path / "backup.tar")

    assert (made.revision, newest) == (first, database.revisions()[-1])
    assert database.is_current(fleet.engine)
    assert a_job(fleet).model_id == MODEL
    fleet.close()


def test_a_backup_of_a_newer_version_is_refused(
    live: Fleet, settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    with live.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    back_up(settings, tmp_path / "backup.tar")

    with pytest.raises(BackupError, match="update this one first"):
        bring_back(elsewhere, tmp_path / "backup.tar")


def test_the_commands_say_what_they_did(
    live: Fleet, settings: Settings, elsewhere: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_completed_job(live)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def run(known: Settings, *words: str) -> tuple[int, str]:
        found = runner.invoke(cli, words, env={"DATA_DIR": str(known.data_dir), "DATABASE_URL": known.database_url})
        return found.exit_code, found.output

    status, said = run(settings, "backup", "b.tar")
    assert (status, said.startswith("b.tar: 2 files, ")) == (0, True), said
    assert run(elsewhere, "restore", "b.tar")[0] == 0
    status, said = run(elsewhere, "restore", "b.tar")
    assert (status, "say --force" in said) == (1, True), said
    status, said = run(replace(settings, database_url="postgresql+psycopg://x@y/z"), "backup", "c.tar")
    assert (status, "docs/operations.md" in said) == (1, True), said


DOCS = Path(__file__).parents[2] / "docs" / "operations.md"


def commands(heading: str) -> str:
    """Return the commands of a section of the documentation."""
    section = DOCS.read_text(encoding="utf-8").partition(f"### {heading}\n")[2].partition("\n#")[0]
    return "\n".join(block.partition("```")[0] for block in section.split("```sh\n")[1:])


def test_postgresql_is_backed_up_as_the_documentation_says(postgres: PostgresServer, tmp_path: Path) -> None:
    name = tmp_path.name.strip("_")[-40:]
    before, after = (postgres.create(f"{kind}_{name}") for kind in ("live", "new"))
    settings = Settings(data_dir=tmp_path / "data", database_url=before.render_as_string()).completed()
    fleet = make_fleet(settings)
    database.upgrade(fleet.engine)
    job = a_completed_job(fleet)
    environ = {
        **os.environ,
        "PATH": f"{find_binaries()}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATA_DIR": str(settings.data_dir),
    }
    plain = {"LIVE": before, "NEW": after}
    environ |= {key: url.set(drivername="postgresql").render_as_string() for key, url in plain.items()}

    for heading in ("Backing up PostgreSQL", "Bringing PostgreSQL back"):
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands(heading)],
            cwd=tmp_path,
            env=environ | {"DATA_DIR": str(tmp_path / ("data" if heading.startswith("Backing") else "new"))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
    fleet.close()
    there = make_fleet(replace(settings, data_dir=tmp_path / "new", database_url=after.render_as_string()))

    assert database.is_current(there.engine)
    assert images.read(there, the_job(there, job.id).images[0])
    there.close()
