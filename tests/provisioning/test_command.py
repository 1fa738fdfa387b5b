"""``python -m provisioning``, as a process of its own."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from provisioning.settings import Settings
from tests.provisioning.conftest import MIB, Fleet, environment, recorded, run_process, some_bytes, start_process
from tests.provisioning.origin import Origin
from tests.support.processes import WAIT_SECONDS

HELLO = ("--", sys.executable, "-c", "print('hello from the command')")


@pytest.fixture
def env(settings: Settings) -> dict[str, str]:
    return environment(settings)


def a_model(origin: Origin, fleet: Fleet, name: str, size: int = 1000) -> bytes:
    body = some_bytes(size)
    fleet.add(name, origin.serve(f"/{name}", body), body)
    return body


def test_exit_codes_tell_all_partly_none_and_usage_apart(origin: Origin, fleet: Fleet, env: dict[str, str]) -> None:
    a_model(origin, fleet, "a")

    codes = {
        "all": run_process("a", env=env).code,
        "from the environment": run_process(env={**env, "MACHINE_MODELS_NEEDED": " a ,,a"}).code,
        "partly": run_process("a", "nowhere", env=env).code,
        "none": run_process("nowhere", env=env).code,
        "nothing asked for": run_process(env=env).code,
        "usage": run_process("--no-such-word", env=env).code,
        "settings": run_process("a", env={**env, "FLEET_URL": "ftp://x", "PROVISION_CONNECTIONS": "many"}).code,
    }

    assert codes == {
        "all": 0,
        "from the environment": 0,
        "partly": 3,
        "none": 1,
        "nothing asked for": 0,
        "usage": 2,
        "settings": 2,
    }


def test_every_wrong_setting_is_named_at_once_with_what_was_found_and_an_example(env: dict[str, str]) -> None:
    wrong = {"FLEET_URL": "ftp://x", "PROVISION_CONNECTIONS": "many", "ALLOW_PRIVATE_ADDRESSES": "perhaps"}

    ended = run_process("a", env={**env, **wrong})

    assert all(name in ended.err and found in ended.err for name, found in wrong.items())
    assert ended.err.count("for example") == 3


def test_a_command_runs_when_one_model_is_ready_and_what_failed_is_said_loudly(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
) -> None:
    a_model(origin, fleet, "a")

    ended = run_process("a", "nowhere", *HELLO, env=env)

    assert ended.code == 0
    assert "hello from the command" in ended.out
    assert "nowhere" in ended.err


def test_a_command_runs_when_nothing_was_needed(env: dict[str, str]) -> None:
    assert "hello" in run_process(*HELLO, env=env).out


def test_a_command_does_not_run_when_no_model_is_ready(env: dict[str, str]) -> None:
    ended = run_process("nowhere", *HELLO, env=env)

    assert ended.code == 1
    assert "hello" not in ended.out


def test_json_lines_tell_states_progress_and_the_end(origin: Origin, fleet: Fleet, env: dict[str, str]) -> None:
    a_model(origin, fleet, "a")

    ended = run_process("a", "nowhere", "--json", env=env)

    states = [each["state"] for each in ended.events if each["event"] == "state" and each["model"] == "a"]
    summary = ended.events[-1]
    assert states == ["wanted", "downloading", "verifying", "ready"]
    assert summary["event"] == "summary"
    assert summary["ready"] == ["a"]
    assert summary["failed"]["nowhere"]["code"] == "not_found"


def test_a_dotenv_file_completes_the_environment_which_comes_first(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    tmp_path: Path,
) -> None:
    a_model(origin, fleet, "a")
    (tmp_path / ".env").write_text(f"FLEET_URL={fleet.url}\nMACHINE_MODELS_NEEDED=a\nMODELS_DIR=/nowhere\n")
    del env["FLEET_URL"]

    ended = run_process("--json", env={**env, "PYTHONPATH": str(Path(__file__).parents[2])}, cwd=tmp_path)

    assert ended.events[-1]["ready"] == ["a"]


def test_a_warm_start_needs_no_api_and_asks_no_origin(origin: Origin, fleet: Fleet, env: dict[str, str]) -> None:
    a_model(origin, fleet, "a")
    run_process("a", env=env)
    asked = len(origin.asked)

    ended = run_process("a", env={**env, "FLEET_URL": "http://127.0.0.1:9"})

    assert ended.code == 0
    assert len(origin.asked) == asked


def test_an_api_that_is_down_is_a_clear_error(env: dict[str, str]) -> None:
    ended = run_process("a", env={**env, "FLEET_URL": "http://127.0.0.1:9"})

    assert ended.code == 1
    assert "FLEET_URL" in ended.err


def test_sigterm_stops_in_the_middle_of_a_file_and_keeps_what_arrived(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    settings: Settings,
) -> None:
    a_model(origin, fleet, "a", 8 * MIB)
    origin.files["/a"].stop_after = MIB // 2  # of each range
    origin.files["/a"].bytes_per_second = 300_000
    part = settings.models_dir / "checkpoints" / "a.bin.part"
    with start_process("a", "--watch", "--json", env=env) as process:
        while origin.sent < 1_000_000:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=WAIT_SECONDS)

    assert process.returncode == 0
    assert part.exists()
    assert json.loads(out.splitlines()[-1])["event"] == "summary"


def test_what_a_stopped_run_fetched_is_not_fetched_again(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    settings: Settings,
) -> None:
    size = 8 * MIB
    a_model(origin, fleet, "a", size)
    origin.files["/a"].bytes_per_second = 500_000
    origin.files["/a"].slow_after = MIB // 2  # of each range
    target = settings.models_dir / "checkpoints" / "a.bin"
    with start_process("a", env=env) as process:
        while recorded(target) < size * 0.4:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_SECONDS)

    origin.files["/a"].bytes_per_second = None
    ended = run_process("a", env=env)

    assert ended.code == 0
    assert process.returncode == 130
    assert origin.sent < size * 1.3
