"""Models folders that others own: mounts that can only be read, filesystems without locks and links."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning import layout, receipts
from provisioning.settings import Settings
from tests.provisioning import seccomp
from tests.provisioning.conftest import (
    MIB,
    ROOT,
    Ended,
    Fleet,
    Provision,
    digest_of,
    environment,
    run_process,
    some_bytes,
)
from tests.provisioning.origin import Origin
from tests.support.processes import WAIT_SECONDS

BODY = some_bytes(2 * MIB)
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
"""Run in a mount namespace of its own, so that only the program started in it sees a read-only folder."""
SMALL = 'mount -t tmpfs -o size=4m tmpfs "$1" && shift && exec "$@"'
PROVISION = (sys.executable, "-m", "provisioning")


def run_read_only(models_dir: Path, *words: str, env: dict[str, str]) -> Ended:
    """Run a program that can only read the models folder."""
    return in_namespace(READ_ONLY, models_dir, *words, env=env)


def in_namespace(mount: str, models_dir: Path, *words: str, env: dict[str, str]) -> Ended:
    """Run a program that sees something else mounted at the models folder than everybody else."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(models_dir), *words]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)
    assert "unshare:" not in done.stderr, f"this test needs user namespaces: {done.stderr}"
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def env(settings: Settings, tmp_path: Path) -> dict[str, str]:
    return environment(settings, HOME=str(tmp_path / "home"))


@pytest.fixture
def on_share(settings: Settings, env: dict[str, str]) -> Callable[..., Ended]:
    """Run provisioning with a models folder that can only be read."""

    def run(*words: str) -> Ended:
        return run_read_only(settings.models_dir, *PROVISION, *words, env=env)

    return run


def put(settings: Settings, name: str, body: bytes) -> Path:
    path = settings.models_dir / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def test_what_lies_on_a_read_only_share_is_hashed_once_and_used_in_place(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    env: dict[str, str],
    on_share: Callable[..., Ended],
    tmp_path: Path,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    put(settings, "a.bin", BODY)

    first = on_share("a", "--json")
    again = on_share("a", "--json")
    look = (
        "import os, pathlib, provisioning.receipts as r; print(r.ready_models(pathlib.Path(os.environ['MODELS_DIR'])))"
    )
    worker = run_read_only(settings.models_dir, sys.executable, "-c", look, env=env)

    states = [[each["state"] for each in run.events if each["event"] == "state"] for run in (first, again)]
    assert states == [["wanted", "verifying", "ready"], ["wanted", "ready"]], first.err
    assert "'a'" in worker.out
    assert [each.name for each in settings.models_dir.iterdir()] == ["checkpoints"]
    assert list((tmp_path / "home").rglob("a.json"))
    assert origin.asked == []


def test_receipts_that_lie_on_the_share_are_believed(
    origin: Origin,
    fleet: Fleet,
    on_share: Callable[..., Ended],
    provision: Provision,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    provision("a")

    ended = on_share("a", "--json")

    assert [each["state"] for each in ended.events if each["event"] == "state"] == ["wanted", "ready"]


def test_what_a_read_only_share_lacks_is_told_apart_from_a_full_disk(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    on_share: Callable[..., Ended],
) -> None:
    for name in ("here", "lacking", "wrong"):
        fleet.add(name, origin.serve(f"/{name}", BODY), BODY)
    put(settings, "here.bin", BODY)
    put(settings, "wrong.bin", BODY[::-1])

    ended = on_share("here", "lacking", "wrong", "--json")
    planned = on_share("lacking", "--plan")

    failed = ended.events[-1]["failed"]
    assert ended.code == 3
    assert ended.events[-1]["ready"] == ["here"]
    assert failed["lacking"]["code"] == failed["wrong"]["code"] == "read_only"
    assert "does not lie there" in failed["lacking"]["message"]
    assert "is not what the catalogue describes" in failed["wrong"]["message"]
    assert planned.code == 1
    assert "read_only" in planned.out
    assert not origin.sent > 1  # the plan's question


def test_a_file_on_a_share_that_rotted_is_no_longer_served_though_its_receipt_cannot_be_removed(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    on_share: Callable[..., Ended],
    provision: Provision,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    provision("a")
    file = settings.models_dir / "checkpoints" / "a.bin"
    file.write_bytes(BODY[::-1])
    rotten = receipts.ProvenFile.of(settings.models_dir, Path("checkpoints/a.bin"), digest_of(BODY))
    told = receipts.load(settings.models_dir, "a")
    assert told is not None
    receipts.save(settings.models_dir, receipts.Receipt("a", told.url, (rotten,), (), told.verified_at))

    checked = on_share("a", "--verify", "--json")
    after = on_share("a", "--json")

    assert checked.events[-1]["failed"]["a"]["code"] == "read_only"
    assert after.events[-1]["failed"]["a"]["code"] == "read_only"


def test_without_locks_and_links_models_are_brought_and_the_same_content_is_copied(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    env: dict[str, str],
    tmp_path: Path,
) -> None:
    for name in "ab":
        fleet.add(name, origin.serve(f"/{name}", BODY), BODY)
    shutil.copy(seccomp.__file__, tmp_path / "sitecustomize.py")

    ended = run_process("a", "b", "--json", env={**env, "PYTHONPATH": str(tmp_path)})

    files = [settings.models_dir / "checkpoints" / f"{name}.bin" for name in "ab"]
    assert ended.code == 0, ended.err
    assert "no locks" in ended.err
    assert [file.read_bytes() for file in files] == [BODY, BODY]
    assert files[0].stat().st_ino != files[1].stat().st_ino
    assert receipts.ready_models(settings.models_dir) == {"a", "b"}


def test_a_disk_that_fills_up_while_a_file_of_unknown_size_arrives_is_named_and_nothing_is_taken_for_whole(
    origin: Origin,
    fleet: Fleet,
    settings: Settings,
    env: dict[str, str],
) -> None:
    fleet.add("a", origin.serve("/a", some_bytes(6 * MIB), ranges=False, chunked=True), BODY)
    settings.models_dir.mkdir()
    small = '"$@"; code=$?; find "$MODELS_DIR" -name \'a.bin\' >&2; exit $code'

    ended = in_namespace(SMALL, settings.models_dir, "sh", "-c", small, "sh", *PROVISION, "a", "--json", env=env)

    assert ended.code == 1
    assert ended.events[-1]["failed"]["a"]["code"] == "disk_full"
    assert "a.bin\n" not in ended.err


def test_a_folder_that_can_be_written_to_holds_what_we_write_about_it(tmp_path: Path) -> None:
    assert layout.state_folder(tmp_path) == tmp_path
    assert layout.state_folder(tmp_path / "not there yet") == tmp_path / "not there yet"
