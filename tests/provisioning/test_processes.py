"""Processes that are killed, and processes that meet: what is on disk is believed as far as it is proved."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from provisioning import receipts
from provisioning.settings import Settings
from tests.provisioning.conftest import MIB, Fleet, environment, recorded, run_process, some_bytes, start_process
from tests.provisioning.origin import Origin
from tests.provisioning.test_watching import until
from tests.support.processes import WAIT_SECONDS

SIZE = 8 * MIB
BODY = some_bytes(SIZE)


@pytest.fixture
def env(settings: Settings) -> dict[str, str]:
    return environment(settings)


def a_slow_model(origin: Origin, fleet: Fleet, **how: object) -> None:
    fleet.add("a", origin.serve("/a", BODY, **how), BODY)
    origin.files["/a"].bytes_per_second = 1_000_000


def kill_when_recorded(origin: Origin, env: dict[str, str], count: int) -> None:
    """Kill a process that has brought so much, and can bring no more than three quarters."""
    origin.files["/a"].slow_after = MIB * 3 // 4  # of each range
    target = Path(env["MODELS_DIR"]) / "checkpoints" / "a.bin"
    with start_process("a", env=env) as process:
        while recorded(target) < count:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_after_kill_9_a_download_goes_on_from_what_is_proved_to_be_on_disk(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    settings: Settings,
) -> None:
    a_slow_model(origin, fleet)
    kill_when_recorded(origin, env, SIZE // 2)
    target = settings.models_dir / "checkpoints" / "a.bin"
    assert not target.exists()
    origin.files["/a"].bytes_per_second = None
    before = origin.sent

    ended = run_process("a", env=env)

    assert ended.code == 0
    assert target.read_bytes() == BODY
    assert origin.sent - before < SIZE * 3 // 4


def test_a_part_that_was_damaged_while_nobody_looked_is_fetched_again_where_it_is_bad(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    settings: Settings,
) -> None:
    a_slow_model(origin, fleet)
    kill_when_recorded(origin, env, SIZE // 2)
    part = settings.models_dir / "checkpoints" / "a.bin.part"
    with part.open("r+b") as file:
        file.write(b"damage")
    origin.files["/a"].bytes_per_second = None

    ended = run_process("a", env=env)

    assert ended.code == 0
    assert (settings.models_dir / "checkpoints" / "a.bin").read_bytes() == BODY


def test_a_part_of_other_content_is_thrown_away(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    settings: Settings,
) -> None:
    a_slow_model(origin, fleet)
    kill_when_recorded(origin, env, SIZE // 2)
    other = some_bytes(SIZE, seed=3)
    fleet.add("a", origin.serve("/a", other), other)

    ended = run_process("a", env=env)

    assert ended.code == 0
    assert (settings.models_dir / "checkpoints" / "a.bin").read_bytes() == other


def test_killed_at_any_moment_there_is_the_whole_right_file_or_none(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    settings: Settings,
) -> None:
    a_slow_model(origin, fleet)
    origin.files["/a"].bytes_per_second = 6_000_000
    target = settings.models_dir / "checkpoints" / "a.bin"
    chance = random.Random(5)
    for _ in range(6):
        with start_process("a", env=env) as process:
            time.sleep(chance.uniform(0.1, 0.6))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert not target.exists() or target.read_bytes() == BODY
        assert receipts.ready_models(settings.models_dir) <= ({"a"} if target.exists() else set())

    ended = run_process("a", env=env)

    assert ended.code == 0
    assert target.read_bytes() == BODY


def test_two_processes_on_one_folder_download_once(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    settings: Settings,
) -> None:
    a_slow_model(origin, fleet)

    with start_process("a", env=env) as one, start_process("a", env=env) as other:
        one.communicate(timeout=WAIT_SECONDS)
        other.communicate(timeout=WAIT_SECONDS)

    assert (one.returncode, other.returncode) == (0, 0)
    assert [asked.range for asked in origin.asked].count((0, 0)) == 1, "who brings a file asks for its first byte"
    assert receipts.ready_models(settings.models_dir) == {"a"}


def test_while_one_process_waits_the_status_tells_the_progress_of_the_other(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    settings: Settings,
) -> None:
    a_slow_model(origin, fleet)
    origin.files["/a"].bytes_per_second = 500_000
    origin.files["/a"].stop_after = 50_000  # of each range: the other has time to begin
    states: set[str] = set()

    with start_process("a", env=env) as one:
        while origin.sent < 100_000:
            time.sleep(0.01)
        with start_process("a", env=env) as other:
            until(lambda: len(fleet.asked) >= 2)
            for _ in range(30):
                told = json.loads((settings.models_dir / ".provisioning" / "status.json").read_bytes())
                states.add(told["models"]["a"]["state"])
                time.sleep(0.01)
            other.terminate()
            other.communicate()
        one.terminate()
        one.communicate()

    assert states == {"downloading"}


def test_a_process_that_dies_leaves_no_lock(origin: Origin, fleet: Fleet, env: dict[str, str]) -> None:
    a_slow_model(origin, fleet)
    kill_when_recorded(origin, env, MIB)
    origin.files["/a"].bytes_per_second = None

    assert run_process("a", env=env).code == 0


def test_a_full_disk_is_a_clear_error_and_nothing_half_written_is_taken_for_whole(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    tmp_path: Path,
    settings: Settings,
) -> None:
    body = some_bytes(3 * MIB)
    fleet.add("a", origin.serve("/a", body), body)
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({MIB}, {MIB}))"
    (tmp_path / "sitecustomize.py").write_text(
        limited + "\nimport signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    )

    ended = run_process("a", "--json", env={**env, "PYTHONPATH": str(tmp_path)})

    assert ended.code == 1
    assert ended.events[-1]["failed"]["a"]["code"] == "disk_full"
    assert not (settings.models_dir / "checkpoints" / "a.bin").exists()


def test_a_file_that_cannot_fit_is_refused_before_its_first_byte(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    settings: Settings,
) -> None:
    free = os.statvfs(settings.models_dir.parent)
    huge = free.f_blocks * free.f_frsize * 2
    fleet.add("huge", origin.serve("/huge", b""), b"", size_bytes=huge)
    fleet.add("a", origin.serve("/a", BODY), BODY)

    ended = run_process("huge", "a", "--json", env=env)

    assert ended.code == 3
    assert ended.events[-1]["failed"]["huge"]["code"] == "disk_full"
    assert not origin.requests("/huge")
