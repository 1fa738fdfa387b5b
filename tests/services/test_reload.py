"""A server that runs learns of models in files: by itself, by SIGHUP, and by the command."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Process, wait_until
from tests.support.servers import Web, environ_of

MODEL = "  {name}: {{download_url: 'https://example.org/{name}.bin'}}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a config.yaml with one model."""
    path = tmp_path / "config.yaml"
    write(path, "one")
    return path


@pytest.fixture
def web(tmp_path: Path, config: Path, broker_url: str) -> Iterator[Web]:
    """Run a server that was started with it."""
    web = Web(tmp_path / "server", broker_url, CONFIG_FILE=str(config))
    web.migrate()
    web.start()
    yield web
    web.stop()


def write(path: Path, *names: str) -> None:
    """Put a file in the place of another one, as editors do."""
    part = path.with_suffix(".part")
    part.write_text("models:\n" + "".join(MODEL.format(name=name) for name in names), encoding="utf-8")
    part.replace(path)


def ids(web: Web) -> set[str]:
    return {model["id"] for model in web.get("v1/models")["models"]} - {"demo-shapes"}


def test_a_running_server_follows_its_files(web: Web, config: Path, tmp_path: Path) -> None:
    assert ids(web) == {"one"}

    write(config, "one", "two")
    wait_until(lambda: ids(web) == {"one", "two"}, "the new model comes by itself")

    write(config, "two", "three")
    command = [sys.executable, "-m", "app.cli", "reload"]
    reload = Process(command, tmp_path / "reload.log", environ=environ_of(tmp_path / "server", CONFIG_FILE=str(config)))
    assert reload.wait() == 0, reload.said()
    assert ids(web) == {"two", "three"}

    config.write_text("models:\n  two: {hash: 7}\n", encoding="utf-8")
    wrong = Process(command, tmp_path / "wrong.log", environ=environ_of(tmp_path / "server", CONFIG_FILE=str(config)))
    assert wrong.wait() == 2
    assert "config.yaml:2:3: models.two.download_url: is missing" in wrong.said()
    assert ids(web) == {"two", "three"}

    write(config, "four")
    assert web._process is not None  # nobody else sends it signals
    os.kill(web._process.pid, signal.SIGHUP)  # as above
    wait_until(lambda: ids(web) == {"four"}, "the server has been told")
