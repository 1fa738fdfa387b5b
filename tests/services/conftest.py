"""Running fleets that several files of tests share: see `tests/support/sharing.py`."""

from collections.abc import Iterator

import pytest
import yaml

from tests.support import onnx_files
from tests.support.browser import browser, page, profile  # noqa: F401  # fixtures
from tests.support.processes import wait_until
from tests.support.servers import DEMO, Up
from tests.support.system import System, running_system

WRONG = {
    "id": "wrong-hash",
    "name": "wrong-hash.dduf",
    "download_url": "/artifacts/demo-shapes.dduf",
    "hash": "sha256:" + "0" * 64,
    "save_path": "checkpoints/wrong-hash.dduf",
}

TOKEN, SECOND_TOKEN = "open-sesame", "second-client"


@pytest.fixture(scope="package")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Start everything on this computer; clients need a token, and the machine really draws.

    It was told to hold one right model, one whose hash is wrong, and one nobody knows; the catalogue has a cut-out too.
    """
    root = tmp_path_factory.mktemp("up")
    folder, origin = root / "data", root / "origin"
    for each in (folder, origin):
        each.mkdir()
    cutter = onnx_files.entry_of(onnx_files.cutter(origin / "cutter.onnx"))
    (folder / "config.yaml").write_text(yaml.safe_dump({"models": [WRONG, cutter]}))
    environ = {
        "MACHINE_ID": "gpu-1",
        "MACHINE_MODELS_NEEDED": f"{DEMO},wrong-hash,nonexistent",
        "MACHINE_TOKEN": "wrench",
        "API_TOKENS": f"{TOKEN},{SECOND_TOKEN}",
        "DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",  # the model is so small that several threads only wait for each other
        "PREVIEW_SECONDS": "0.05",
        "PROVISION_RETRY_SECONDS": "3600",
    }
    running = Up(folder, environ=environ)
    running.token = TOKEN
    try:
        running.wait_until_serving()
        wait_until(lambda: running.holding(DEMO)["state"] == "ready", "the model is ready")
        yield running
    finally:
        running.process.cut_off()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Start a fleet without machines: each file borrows it, and brings its own."""
    with running_system(tmp_path_factory.mktemp("server")) as running:
        yield running
