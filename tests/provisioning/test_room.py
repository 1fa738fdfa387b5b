"""Disk budget: who makes way, and who never does."""

import fcntl
from pathlib import Path

import pytest

from provisioning import budget, disk, layout, receipts, twins, uses
from provisioning.custody import RECEIPTS_LOCK
from provisioning.receipts import ProvenFile
from provisioning.settings import Settings
from tests.provisioning.conftest import Fleet, Provision, some_bytes
from tests.provisioning.origin import Origin

SIZE = 100_000


def some_models(origin: Origin, fleet: Fleet, *names: str, **needs: list[str]) -> None:
    for number, name in enumerate(names):
        body = some_bytes(SIZE, seed=number)
        fleet.add(name, origin.serve(f"/{name}", body), body, size_bytes=SIZE, dependencies=needs.get(name, []))


def test_without_a_budget_nothing_is_evicted(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    some_models(origin, fleet, "a", "b")

    provision("a")
    run = provision("b")

    assert receipts.ready_models(run.models_dir) == {"a", "b"}


def test_the_least_recently_used_unneeded_models_make_way(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    settings: Settings,
) -> None:
    some_models(origin, fleet, "a", "b", "c", "d")
    for name in "abc":
        provision(name)
    uses.mark(settings.models_dir, "a")

    run = provision("d", disk_budget=3 * SIZE + 10)

    assert receipts.ready_models(run.models_dir) == {"a", "c", "d"}
    assert not run.file("b.bin").exists()


def test_models_in_use_needed_ones_and_what_they_depend_on_never_go(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    settings: Settings,
) -> None:
    some_models(origin, fleet, "vae", "a", "used", "old", "new", a=["vae"])
    for name in ("old", "used", "a"):
        provision(name)

    with uses.leased(settings.models_dir, "used"):
        run = provision("a", "new", disk_budget=SIZE)

    assert receipts.ready_models(run.models_dir) == {"a", "vae", "used", "new"}


def test_an_unneeded_model_can_go_once_its_lease_has_ended(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    settings: Settings,
) -> None:
    some_models(origin, fleet, "a", "b")
    provision("a")
    with uses.leased(settings.models_dir, "a"):
        kept = budget.Evictor(settings.models_dir, SIZE).make_room(SIZE, keep=())

    gone = budget.Evictor(settings.models_dir, SIZE).make_room(SIZE, keep=())

    assert (kept, gone) == ([], ["a"])


def test_a_file_that_another_model_shares_stays(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(SIZE)
    for name in "ab":
        fleet.add(name, origin.serve(f"/{name}", body), body)
    run = provision("a", "b")

    budget.Evictor(run.models_dir, 0).make_room(0, keep=("b",))

    assert receipts.ready_models(run.models_dir) == {"b"}
    assert run.file("b.bin").read_bytes() == body


def test_nobody_else_writes_receipts_while_a_model_makes_way(
    origin: Origin, fleet: Fleet, provision: Provision, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_models(origin, fleet, "a")
    models_dir, refresh = provision("a").models_dir, twins.refresh
    refused: list[bool] = []

    def refresh_alone(folder: Path, before: ProvenFile) -> None:
        with layout.lock_path(folder, RECEIPTS_LOCK).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(True)
        refresh(folder, before)

    monkeypatch.setattr(twins, "refresh", refresh_alone)

    gone = budget.Evictor(models_dir, 0).make_room(0, keep=())

    assert (gone, refused) == (["a"], [True])


def test_models_that_fit_one_by_one_and_not_together_are_told_before_the_first_byte(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    settings: Settings,
) -> None:
    large = int(disk.free_bytes(settings.models_dir) * 0.6)
    for name in "ab":
        fleet.add(name, origin.serve(f"/{name}", b"x"), b"x", size_bytes=large)

    run = provision("a", "b")

    assert run.code("a") == "wrong_size"
    assert run.code("b") == "disk_full"
    assert "after the models before it" in run.message("b")
    assert not origin.requests("/b")


def test_bytes_are_written_for_people() -> None:
    written = [disk.gigabytes(count) for count in (5, 5_000, 5_500_000, 23_800_000_000)]

    assert written == ["5 bytes", "5.0 kB", "5.5 MB", "23.8 GB"]


def test_free_bytes_of_a_folder_that_is_not_there_yet_are_its_parents(tmp_path: Path) -> None:
    assert disk.free_bytes(tmp_path / "a" / "b") == disk.free_bytes(tmp_path)
