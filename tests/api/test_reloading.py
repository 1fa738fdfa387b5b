"""Files that change while a server runs: models at once, settings at the next start; nothing where they are wrong."""

import logging
import os
from pathlib import Path

import pytest

from app import catalogue, reloading
from app.core import models
from app.core.fleet import Fleet
from app.parse import SettingsError
from app.reloading import Reloader
from app.settings import Settings
from tests.builders import a_job, the_model

ONE = "models:\n  one: {download_url: 'https://example.org/one.bin'}\n"
TWO = "models:\n  two: {download_url: 'https://example.org/two.bin'}\n"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def write(folder: Path, text: str) -> None:
    path = folder / "config.yaml"
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(before + 10**9, before + 10**9))  # two writes within one tick of the file system's clock


def ids(fleet: Fleet) -> set[str]:
    with fleet.reading() as session:
        return {model.id for model in models.listing(session)} - {"demo-shapes"}


def started(fleet: Fleet, folder: Path, text: str) -> Reloader:
    write(folder, text)
    catalogue.load(fleet, {}, folder)
    return Reloader(fleet, Settings.load({}, folder), {}, folder)


def test_models_come_and_go_with_the_file(fleet: Fleet, tmp_path: Path) -> None:
    reloader = started(fleet, tmp_path, ONE)

    write(tmp_path, TWO)
    reloader.look()

    assert ids(fleet) == {"two"}


def test_a_model_that_changes_in_the_file_changes(fleet: Fleet, tmp_path: Path) -> None:
    reloader = started(fleet, tmp_path, ONE)

    write(tmp_path, ONE.replace("one.bin'", "one.bin', description: changed"))
    reloader.look()

    assert the_model(fleet, "one").description == "changed"


def test_a_model_with_jobs_stays_and_that_is_said(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reloader = started(fleet, tmp_path, ONE)
    a_job(fleet, model_id="one")

    write(tmp_path, TWO)
    reloader.look()

    assert ids(fleet) == {"one", "two"}
    assert "no longer declared, and kept for the jobs or engines that need it: one" in caplog.text


def test_a_wrong_file_changes_nothing_and_is_told_with_its_place(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reloader = started(fleet, tmp_path, ONE)

    write(tmp_path, TWO + "  three: {}\n")
    reloader.look()
    wrong = ids(fleet)
    write(tmp_path, TWO)
    reloader.look()

    assert wrong == {"one"}
    assert "config.yaml:3:3: models.three.download_url: is missing" in caplog.text
    assert ids(fleet) == {"two"}


def test_a_setting_that_changes_is_said_to_need_a_restart(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reloader = started(fleet, tmp_path, ONE)

    with caplog.at_level(logging.WARNING):
        write(tmp_path, ONE + "server: {port: 8123}\nresources: {max_steps: 7}\n")
        reloader.look()

    assert "in effect after a restart: MAX_STEPS, PORT" in caplog.text


def test_a_file_that_does_not_change_is_not_read_again(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reloader = started(fleet, tmp_path, ONE)
    before = the_model(fleet, "one").updated_at

    reloader.look()
    (tmp_path / ".env").write_text("LOG_LEVEL=INFO\n", encoding="utf-8")
    reloader.look()

    assert the_model(fleet, "one").updated_at == before
    assert caplog.text == ""


def test_the_command_knows_what_was_declared_from_the_catalogue(fleet: Fleet, tmp_path: Path) -> None:
    started(fleet, tmp_path, ONE)

    write(tmp_path, TWO)
    changes = reloading.once(fleet, {}, tmp_path)

    assert (changes.added, changes.removed) == (("two",), ("one",))
    write(tmp_path, "models: [{}]")
    with pytest.raises(SettingsError, match=r"config.yaml:1:10: models\[0\]"):
        reloading.once(fleet, {}, tmp_path)
    assert ids(fleet) == {"two"}
