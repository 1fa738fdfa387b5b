"""Claims look at the proof themselves: what happens between two looks of the watch is no danger."""

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning import guard, receipts
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings
from tasks.machine.errors import ModelNotProven
from tasks.machine.watch import files_of
from tests.provisioning.conftest import Fleet, some_bytes
from tests.provisioning.origin import Origin
from tests.support.processes import WAIT_SECONDS

BODY = some_bytes(300_000)
BAD = BODY[::-1]


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture
def models_dir(origin: Origin, tmp_path: Path) -> Iterator[Path]:
    """Keep a model provisioned, repaired as often as it is damaged."""
    fleet = Fleet(origin)
    fleet.add("a", origin.serve("/a", BODY), BODY)
    settings = Settings(fleet_url=fleet.url, models_dir=tmp_path, allow_private_addresses=True, retry_seconds=0.05)
    provisioner = Provisioner(settings, lambda event: None)
    thread = threading.Thread(target=provisioner.run, args=(["a"],), kwargs={"watch": True})
    thread.start()
    yield tmp_path
    provisioner.stop.set()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


def proven(models_dir: Path) -> Path | None:
    """Return what a claim would draw with at this moment; None where it would hand the job back."""
    try:
        return files_of(models_dir, "a", None).path
    except ModelNotProven:
        return None


def until_proven(models_dir: Path) -> Path:
    end = time.monotonic() + WAIT_SECONDS
    while (path := proven(models_dir)) is None:
        assert time.monotonic() < end, "it was not repaired"
        time.sleep(0.005)
    return path


def test_a_claim_refuses_a_damaged_file_before_anybody_has_looked(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        path = until_proven(models_dir)
        monkeypatch.setattr(guard, "CHECK_SECONDS", math.inf)  # or it might be repaired before the claim
        with path.open("r+b") as file:
            file.write(BAD)

        at_once = proven(models_dir)

        assert at_once is None
        monkeypatch.setattr(guard, "CHECK_SECONDS", 0.0)
        assert until_proven(models_dir).read_bytes() == BODY


def test_a_file_damaged_and_repaired_faster_than_anybody_looks_is_drawn_with_only_while_it_is_right(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "CHECK_SECONDS", 0.05)
    path, over, damaged, drawn, wrong = until_proven(models_dir), threading.Event(), list[int](), 0, 0

    def damage() -> None:
        while not over.is_set():
            path.write_bytes(BAD)
            path.write_bytes(BODY)
            damaged.append(drawn)
            # However long a busy computer takes to prove it again: it is damaged while it is drawn with.
            while drawn == damaged[-1] and not over.is_set():
                time.sleep(0.005)

    thread = threading.Thread(target=damage)
    thread.start()
    end = time.monotonic() + WAIT_SECONDS
    while (len(damaged) < 15 or drawn < 15) and time.monotonic() < end:
        before = receipts.load(models_dir, "a")
        if (found := proven(models_dir)) is not None:
            read = found.read_bytes()
            # Nothing has changed under the reader only if the same proof holds before and after.
            if proven(models_dir) is not None and receipts.load(models_dir, "a") == before:
                drawn, wrong = drawn + 1, wrong + (read != BODY)
    over.set()
    thread.join()

    assert drawn >= 15
    assert wrong == 0
    assert until_proven(models_dir).read_bytes() == BODY
