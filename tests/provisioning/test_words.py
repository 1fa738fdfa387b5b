"""The words that other rooms read: receipts, status, settings, hashes, paths."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from provisioning import digests, layout, receipts, status
from provisioning.board import Board
from provisioning.errors import BadHash, ProvisioningError, SettingsError, UnsafePath
from provisioning.settings import Settings, with_dotenv
from provisioning.status import IllegalMove, ModelStatus, State
from tests.provisioning.conftest import ROOT, bytes_read, digest_of

FILE = {"path": "x", "size": 1, "hash": "", "mtime_ns": 1, "ctime_ns": 1, "inode": 1}
WHOLE = {"version": 1, "model_id": "a", "url": "", "files": [FILE], "dependencies": [], "verified_at": ""}


def a_receipt(models_dir: Path, model_id: str, *dependencies: str, body: bytes = b"x") -> receipts.Receipt:
    name = layout.file_name(model_id)
    (models_dir / name).write_bytes(body)
    file = receipts.ProvenFile.of(models_dir, Path(name), digest_of(body))
    receipt = receipts.Receipt(model_id, "http://x/y", (file,), dependencies, "2026-01-01T00:00:00+00:00")
    receipts.save(models_dir, receipt)
    return receipt


def test_a_receipt_is_read_as_it_was_written(tmp_path: Path) -> None:
    receipt = a_receipt(tmp_path, "black-forest/FLUX 1", "vae")

    assert receipts.load(tmp_path, "black-forest/FLUX 1") == receipt
    assert receipts.load_all(tmp_path) == {"black-forest/FLUX 1": receipt}
    assert json.loads((tmp_path / ".receipts" / "black-forest%2FFLUX%201.json").read_text())["version"] == 1


def test_an_edit_in_place_with_the_mtime_set_back_is_seen(tmp_path: Path) -> None:
    receipt = a_receipt(tmp_path, "a", body=b"before")
    found = (tmp_path / "a").stat()

    with (tmp_path / "a").open("r+b") as file:
        file.write(b"after!")
    os.utime(tmp_path / "a", ns=(found.st_atime_ns, found.st_mtime_ns))

    assert (tmp_path / "a").stat().st_mtime_ns == found.st_mtime_ns
    assert not receipts.is_intact(tmp_path, receipt)


def test_a_link_in_the_place_of_a_file_is_not_intact(tmp_path: Path) -> None:
    receipt = a_receipt(tmp_path, "a")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "a").symlink_to(tmp_path / "b")

    assert not receipts.is_intact(tmp_path, receipt)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '"x"',
        "null",
        '{"version": 2}',
        '{"version": 1, "model_id": "a"}',
        json.dumps({**WHOLE, "files": [{**FILE, "path": "../x"}]}),
        json.dumps({**WHOLE, "files": [{"path": "x"}]}),
    ],
)
def test_what_is_no_receipt_is_none(tmp_path: Path, content: str) -> None:
    layout.receipt_path(tmp_path, "a").parent.mkdir()
    layout.receipt_path(tmp_path, "a").write_text(content)

    assert receipts.load(tmp_path, "a") is None
    assert receipts.ready_models(tmp_path) == frozenset()


def test_a_model_is_ready_with_all_it_depends_on_and_a_cycle_stays_or_goes_whole(tmp_path: Path) -> None:
    a_receipt(tmp_path, "alone")
    a_receipt(tmp_path, "one", "two")
    a_receipt(tmp_path, "two", "one", "leaf")
    a_receipt(tmp_path, "leaf")
    a_receipt(tmp_path, "needy", "missing")
    before = receipts.ready_models(tmp_path)

    (tmp_path / "leaf").write_bytes(b"damaged")

    assert before == {"alone", "one", "two", "leaf"}
    assert receipts.ready_models(tmp_path) == {"alone"}


def test_fifty_models_of_a_hundred_gigabytes_are_ready_without_being_read(tmp_path: Path) -> None:
    for number in range(50):
        receipt = a_receipt(tmp_path, f"m{number}")
        os.truncate(tmp_path / f"m{number}", 2 * 10**9)
        file = receipts.ProvenFile.of(tmp_path, Path(f"m{number}"), receipt.files[0].hash)
        receipts.save(tmp_path, replace(receipt, files=(file,)))
    before = bytes_read()

    ready = receipts.ready_models(tmp_path)

    assert len(ready) == 50
    assert bytes_read() - before < 10**6


def test_ids_that_are_long_or_strange_have_receipts_of_their_own(tmp_path: Path) -> None:
    ids = ["x" * 300, "x" * 301, "..", ".", "a/b", "a%2Fb", "ümläut", "a b"]
    for model_id in ids:
        assert layout.receipt_path(tmp_path, model_id).parent == tmp_path / ".receipts"

    assert len({layout.receipt_path(tmp_path, model_id) for model_id in ids}) == len(ids)


@pytest.mark.parametrize("module", ["provisioning.receipts", "provisioning.status", "provisioning.uses"])
def test_what_machines_import_needs_the_standard_library_only(module: str) -> None:
    code = f"import sys; import {module}; print({{n.partition('.')[0] for n in sys.modules}} - sys.stdlib_module_names)"

    out = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert out.strip() in {"{'provisioning', '__main__'}", "{'__main__', 'provisioning'}", "{'provisioning'}"}


def test_the_program_runs_with_its_few_libraries_only() -> None:
    heavy = ("torch", "sqlalchemy", "celery", "flask")
    code = f"import sys, provisioning.cli; print([name for name in {heavy} if name in sys.modules])"

    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert out.strip() == "[]"


@pytest.mark.parametrize(("start", "to"), list(product(State, State)))
def test_every_state_is_tried_with_every_move(start: State, to: State) -> None:
    legal = {
        ("wanted", "downloading"), ("wanted", "verifying"), ("wanted", "ready"), ("wanted", "error"),
        ("downloading", "verifying"), ("downloading", "wanted"), ("downloading", "error"),
        ("verifying", "ready"), ("verifying", "downloading"), ("verifying", "wanted"), ("verifying", "error"),
        ("ready", "wanted"), ("error", "wanted"),
    }  # fmt: skip

    if (start, to) in legal:
        assert status.move(ModelStatus(state=start), to).state is to
    else:
        with pytest.raises(IllegalMove):
            status.move(ModelStatus(state=start), to)


def test_the_status_file_is_read_as_the_board_writes_it(tmp_path: Path) -> None:
    board = Board(tmp_path, lambda event: None)
    board.declare("a", needed=True, bytes_total=100)
    board.declare("b", needed=False)
    board.move("a", State.DOWNLOADING)
    board.progress("a", 50, 100)
    board.move("b", State.ERROR, ProvisioningError("broken"))

    found = status.read(tmp_path)

    assert found.pid == os.getpid()
    assert found.models["a"].needed
    assert not found.models["b"].needed
    assert found.models["a"].bytes_done == 50
    assert found.models["b"].error == status.Problem("failed", "broken")
    assert found.updated_at is not None


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"updated_at": 3, "models": []}'])
def test_a_status_file_that_is_not_there_or_broken_is_an_empty_status(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        layout.status_path(tmp_path).parent.mkdir()
        layout.status_path(tmp_path).write_text(content)

    assert status.read(tmp_path).models == {}


def test_what_a_dead_process_said_is_forgotten(tmp_path: Path) -> None:
    layout.write_whole(
        layout.status_path(tmp_path),
        {
            "updated_at": "2026-01-01T00:00:00+00:00",
            "pid": 2**22 + 1,
            "models": {"old": {"state": "downloading", "pid": 2**22 + 1}},
        },
        durable=False,
    )

    Board(tmp_path, lambda event: None).declare("a", needed=True)

    assert set(status.read(tmp_path).models) == {"a"}


@pytest.mark.parametrize(
    "written", ["", "x", "sha256:", "sha256:abc", "0" * 33, "g" * 64, "sha512:" + "0" * 64, "md5 0"]
)
def test_hashes_that_name_no_algorithm_are_refused(written: str) -> None:
    with pytest.raises(BadHash, match="expected"):
        digests.parse(written)


@given(some.text(max_size=60))
def test_whatever_a_save_path_is_it_stays_inside_or_is_refused(save_path: str) -> None:
    root = Path("/models")
    try:
        relative = layout.relative_path(save_path)
    except UnsafePath:
        return

    target = Path(os.path.normpath(root / relative))
    assert target.is_relative_to(root)
    assert target != root
    assert not relative.parts[0].startswith(".")


def test_settings_have_defaults_and_read_every_variable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-file\n")
    environ = {
        "MACHINE_MODELS_NEEDED": "a, b,a,,c ",
        "FLEET_URL": "http://fleet:8000/",
        "MODELS_DIR": str(tmp_path),
        "HF_TOKEN_FILE": str(tmp_path / "secret"),
        "CIVITAI_TOKEN": "civ",
        "ALLOW_PRIVATE_ADDRESSES": "Yes",
        "MODELS_DISK_BUDGET": "1.5TB",
    }

    settings = Settings.from_environ(environ)

    assert Settings.from_environ({"HF_HUB_CACHE": "/c"}) == Settings(hf_cache=Path("/c"))
    assert settings.models_needed == ("a", "b", "c")
    assert settings.fleet_url == "http://fleet:8000"
    assert settings.hf_token == "from-file"
    assert settings.allow_private_addresses
    assert settings.disk_budget == 1_500_000_000_000
    assert "civ'" not in repr(settings)
    assert "from-file" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLEET_URL", "fleet:8000"),
        ("FLEET_URL", "http://"),
        ("HF_ENDPOINT", "x"),
        ("HF_TOKEN", "a b"),
        ("HF_TOKEN_FILE", "/nowhere/secret"),
        ("MODELS_DIR", "/etc/hostname"),
        ("PROVISION_STALL_SECONDS", "0"),
        ("PROVISION_CONNECTIONS", "nan"),
        ("MODELS_DISK_BUDGET", "much"),
        ("ALLOW_UNVERIFIED", "2"),
    ],
)
def test_a_wrong_setting_is_named_with_an_example(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name}.*for example"):
        Settings.from_environ({name: value})


def test_a_setting_that_is_wrong_never_shows_a_secret() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({"HF_TOKEN": "very secret", "FLEET_URL": "ftp://me:hidden@x"})

    assert "very" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_the_environment_comes_before_the_dotenv_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=file\nB=file\n")

    assert with_dotenv({"A": "environment"}, tmp_path) == {"A": "environment", "B": "file"}
