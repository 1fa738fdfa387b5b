"""What operators get wrong, and terminals do: one clear sentence, an exit code, and never a traceback."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from provisioning.settings import Settings
from tests.provisioning.conftest import ROOT, Fleet, environment, run_process, some_bytes, start_process
from tests.provisioning.origin import Origin
from tests.support.processes import WAIT_SECONDS

BODY = some_bytes(1000)


@pytest.fixture
def env(settings: Settings) -> dict[str, str]:
    return environment(settings)


@pytest.mark.parametrize(
    ("words", "wrong", "code", "told"),
    [
        ((), {"MACHINE_MODELS_NEEDED": "a;b"}, 2, "MACHINE_MODELS_NEEDED=flux-dev,sdxl-base"),
        ((), {"MACHINE_MODELS_NEEDED": '["a"]'}, 2, "is no model id"),
        ((), {"MACHINE_MODELS_NEEDED": "a b"}, 1, "separated by commas"),
        (("",), {}, 2, "is no model id"),
        (("a\nb",), {}, 2, "is no model id"),
        (("a", "--"), {}, 2, "expected a command"),
        (("a", "--", "no-such-command"), {}, 127, "there is no such command"),
        (("a", "--", "/etc/passwd"), {}, 126, "not executable"),
        (("a", "--plan", "--", "true"), {}, 2, "--plan does nothing"),
        (("a", "--watch", "--", "true"), {}, 2, "--watch goes on for ever"),
        (("a",), {"MODELS_DIR": "/proc/nowhere"}, 2, "MODELS_DIR='/proc/nowhere' cannot be written to"),
        (("a",), {"MODELS_DIR": "/etc/hostname/models"}, 2, "leads through the file /etc/hostname"),
        (("a",), {"MODELS_DIR": "~nobody-here/models"}, 2, "MODELS_DIR="),
        (("a",), {"FLEET_URL": "fleet:8000"}, 2, "for example FLEET_URL=http://"),
        (("a",), {"AWS_ACCESS_KEY_ID": "key"}, 2, "AWS_SECRET_ACCESS_KEY belong together"),
        (("a",), {"HF_TOKEN_FILE": "/etc"}, 2, "HF_TOKEN_FILE"),
    ],
)
def test_a_mistake_costs_one_sentence_and_no_traceback(
    fleet: Fleet,
    env: dict[str, str],
    words: tuple[str, ...],
    wrong: dict[str, str],
    code: int,
    told: str,
) -> None:
    ended = run_process(*words, env={**env, **wrong})

    assert ended.code == code
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert fleet.asked in ([], [["a b"]])


def test_a_dotenv_file_that_is_no_text_is_named(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00")

    ended = run_process("a", env={**env, "PYTHONPATH": str(ROOT)}, cwd=tmp_path)

    assert ended.code == 2
    assert f"{tmp_path}/.env cannot be read" in ended.err
    assert "Traceback" not in ended.err


def test_ids_may_stand_on_lines_of_their_own(origin: Origin, fleet: Fleet, env: dict[str, str]) -> None:
    for name in "ab":
        fleet.add(name, origin.serve(f"/{name}", BODY), BODY)

    ended = run_process("--json", env={**env, "MACHINE_MODELS_NEEDED": "a,\n  b\n"})

    assert ended.events[-1]["ready"] == ["a", "b"]


def test_an_api_that_is_down_keeps_nobody_waiting_when_some_models_are_here(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    run_process("a", env=env)

    ended = run_process("a", "unknown", "--json", env={**env, "FLEET_URL": "http://127.0.0.1:9"})

    assert ended.code == 3
    assert ended.events[-1]["ready"] == ["a"]
    assert ended.events[-1]["failed"]["unknown"]["code"] == "lookup_failed"


@pytest.mark.parametrize("words", [("--json",), ("--plan",), ()])
@pytest.mark.parametrize("sink", ["closed", "/dev/full", "a reader that goes away"])
def test_nobody_listening_keeps_nothing_from_being_done(
    origin: Origin,
    fleet: Fleet,
    env: dict[str, str],
    words: tuple[str, ...],
    sink: str,
) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    redirected = {"closed": ">&- 2>&-", "/dev/full": ">/dev/full", "a reader that goes away": "2>&1 | true"}[sink]
    command = f'{{ "$@"; echo $? >{env["MODELS_DIR"]}.code; }} {redirected}'

    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "provisioning", "a", *words],
        env=env,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )

    assert Path(f"{env['MODELS_DIR']}.code").read_text() == "0\n"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_ctrl_c_ends_a_plan_whose_questions_hang(origin: Origin, fleet: Fleet, env: dict[str, str]) -> None:
    fleet.add("a", origin.serve("/a", BODY), BODY)
    release = threading.Event()
    origin.always["/a"] = lambda handler, served: release.wait(2 * WAIT_SECONDS) and False
    with start_process("a", "--plan", env={**env, "PROVISION_STALL_SECONDS": f"{2 * WAIT_SECONDS:g}"}) as process:
        while not origin.asked:
            time.sleep(0.02)

        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_SECONDS)

    release.set()
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_terminal_sees_bars_and_ctrl_c_ends_them(origin: Origin, fleet: Fleet, env: dict[str, str]) -> None:
    body = some_bytes(4 << 20)
    fleet.add("a", origin.serve("/a", body), body)
    origin.files["/a"].bytes_per_second = 500_000
    origin.files["/a"].slow_after = 100_000  # of each range: there is time to press the keys
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "provisioning", "a"],
        env={**env, "TERM": "xterm", "COLUMNS": "120"},
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=lambda: os.login_tty(slave),  # noqa: PLW1509 - the terminal has to become the process's own
    )
    os.close(slave)
    seen = b""
    while b"MB/s" not in seen and b"kB/s" not in seen:
        seen += os.read(master, 4096)

    os.write(master, b"\x03")
    try:
        while piece := os.read(master, 4096):
            seen += piece
    except OSError:  # EIO: the last process of the terminal has ended
        os.close(master)

    assert process.wait(WAIT_SECONDS) == 130
    assert b"downloading" in seen
    assert b"stopped; what has arrived is kept" in seen
    assert b"Traceback" not in seen
