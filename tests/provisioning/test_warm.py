"""A start where everything is here already, and reading all of it again when the operator wants that."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning import digests, receipts
from provisioning.settings import Settings
from tests.provisioning.conftest import (
    MIB,
    Fleet,
    Provision,
    bytes_read,
    digest_of,
    environment,
    run_process,
    some_bytes,
)
from tests.provisioning.origin import Origin
from tests.support.processes import WAIT_SECONDS

MODELS, EACH = 50, 2 * 10**9

PROGRAM = 100 * 10**6
"""More bytes than Python and the program itself are; a thousandth of the models, or the twentieth part of one."""


def a_hundred_gigabytes(fleet: Fleet, models_dir: Path) -> list[str]:
    """Lay 50 sparse files there, with receipts that say they were proved."""
    names = [f"m{number}" for number in range(MODELS)]
    (models_dir / "checkpoints").mkdir(parents=True)
    for name in names:
        entry = fleet.add(name, f"http://127.0.0.1:9/{name}", name.encode())
        path = Path(entry["save_path"])
        (models_dir / path).touch()
        os.truncate(models_dir / path, EACH)
        file = receipts.ProvenFile.of(models_dir, path, digest_of(name.encode()))
        receipts.save(models_dir, receipts.Receipt(name, entry["download_url"], (file,), (), "now", file.hash))
    return names


def read_by_a_start(names: list[str], env: dict[str, str]) -> int:
    """Start the program, which must find all of them ready; return how many bytes the whole process read."""
    before = bytes_read()
    ended = run_process("--json", env=env)
    assert ended.events[-1]["ready"] == names
    return bytes_read() - before


def test_a_hundred_gigabytes_in_fifty_models_are_ready_without_being_read(fleet: Fleet, settings: Settings) -> None:
    names = a_hundred_gigabytes(fleet, settings.models_dir)

    read = read_by_a_start(names, environment(settings, MACHINE_MODELS_NEEDED=",".join(names)))

    assert read < PROGRAM
    assert len(fleet.asked) <= 1  # all at once; a warm start waits for no answer, and a busy computer may never ask


def test_without_an_api_they_are_ready_without_being_read(fleet: Fleet, settings: Settings) -> None:
    names = a_hundred_gigabytes(fleet, settings.models_dir)
    away = replace(settings, fleet_url="http://127.0.0.1:9")

    read = read_by_a_start(names, environment(away, MACHINE_MODELS_NEEDED=",".join(names)))

    assert read < PROGRAM


def test_verify_reads_several_files_at_the_same_time(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, name in enumerate("ab"):
        body = some_bytes(MIB, seed=number)
        fleet.add(name, origin.serve(f"/{name}", body), body)
    provision("a", "b")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    together = threading.Barrier(2)
    real = digests.of_file

    def of_file(path: Path, algorithms: set[str], stop: threading.Event | None = None) -> dict[str, digests.Digest]:
        together.wait(WAIT_SECONDS)  # breaks, and fails the test, if nobody else comes
        return real(path, algorithms, stop)

    monkeypatch.setattr(digests, "of_file", of_file)

    run = provision("a", "b", verify=True)

    assert run.outcome.ready == ("a", "b")
    assert run.states("a") == ["wanted", "verifying", "ready"]
