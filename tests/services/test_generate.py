"""`imagefleet generate` as a person and as a program uses it, with a real server and the demo model."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.shape_checker import check
from tests.support.processes import WAIT_SECONDS, wait_until
from tests.support.servers import Up, environ_of

PROMPT = "a red circle on a blue background"
LONG = ("-n", "16", "--steps", "150", "--size", "256")

pytestmark = pytest.mark.timeout(900)


def started(up: Up, *words: str, stderr: Any = subprocess.PIPE, **environ: str) -> subprocess.Popen[str]:
    """Run the command beside the server: it finds it by the data folder, and shows its token."""
    known = environ_of(up.folder, CLIENT_TOKEN=up.token) | environ
    command = [sys.executable, "-m", "app.cli", "generate", *words]
    return subprocess.Popen(command, env=known, cwd=up.folder, stdout=subprocess.PIPE, stderr=stderr, text=True)


def generate(up: Up, *words: str, **environ: str) -> tuple[int, str, str]:
    """Run it to its end; returns status, output and what was said beside it."""
    process = started(up, *words, **environ)
    output, said = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, output, said


def opened(path: Path) -> Image.Image:
    """Open a picture, and leave no file open."""
    return Image.open(io.BytesIO(path.read_bytes()))


def test_pictures_are_drawn_and_only_their_paths_are_printed(up: Up, tmp_path: Path) -> None:
    status, output, said = generate(up, PROMPT, "--model", "demo-shapes", "-n", "2", "-o", str(tmp_path / "out"))

    paths = [Path(line) for line in output.splitlines()]
    assert status == 0, said
    assert [path.parent for path in paths] == [tmp_path / "out"] * 2
    assert [path.name[8:] for path in paths] == ["-0.png", "-1.png"]
    assert any(not check(opened(path), PROMPT).wrong for path in paths)
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())


def test_programs_can_read_all_about_it_as_json(up: Up, tmp_path: Path) -> None:
    words = ("--steps", "2", "--seed", "7", "--size", "64x96", "--format", "webp", "--json", "-q")
    status, output, said = generate(up, PROMPT, "-o", str(tmp_path), *words)

    told = json.loads(output)
    (image,) = told["images"]
    assert (status, said, told["status"], told["error"]) == (0, "", "completed", None)
    assert (image["seed"], image["width"], image["height"]) == (7, 64, 96)
    assert opened(Path(image["path"])).format == "WEBP"


def test_a_picture_to_begin_with_is_sent_along(up: Up, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (128, 128), (0, 200, 0)).save(photo)

    status, output, said = generate(up, PROMPT, "--image", str(photo), "--strength", "0", "-o", str(tmp_path))

    assert status == 0, said
    red, green, blue = opened(Path(output.strip())).convert("RGB").getpixel((64, 64))  # type: ignore[misc]  # three bytes
    assert green > max(red, blue)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--model", "demo-shape"], "did you mean demo-shapes?"),
        (["--steps", "1000"], "this server's limit is 150"),
        (["--sampler", "Crayon"], "'Crayon' is unknown"),
        (["--lora", "unheard-of"], "unheard-of"),
    ],
)
def test_an_order_that_cannot_be_is_refused_before_anything_is_drawn(up: Up, words: list[str], reason: str) -> None:
    status, output, said = generate(up, PROMPT, *words)

    assert (status, output) == (2, "")
    assert reason in said


def test_a_job_that_fails_is_told_with_its_reason(up: Up) -> None:
    status, output, said = generate(up, "a red circle AND a blue square")

    assert (status, output) == (1, "")
    assert "is error: " in said
    assert "AND" in said


def test_ctrl_c_cancels_the_job(up: Up, tmp_path: Path) -> None:
    process = started(up, PROMPT, *LONG, "-o", str(tmp_path))
    assert process.stderr is not None
    said = ""
    while "drawing picture" not in said:
        line = process.stderr.readline()
        assert line, said  # it has ended
        said += line
    process.send_signal(signal.SIGINT)
    output, rest = process.communicate(timeout=WAIT_SECONDS)

    newest = up.get("v1/jobs?limit=1")["jobs"][0]
    assert (process.returncode, output) == (130, "")
    assert f"job {newest['job_id']} is cancelled" in rest
    assert newest["status"] == "cancelled"
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_there_are_bars(up: Up, tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    process = started(up, PROMPT, *LONG, "-o", str(tmp_path), stderr=terminal, TERM="xterm")
    os.close(terminal)
    shown = b""

    def read_on() -> bool:
        nonlocal shown
        try:
            shown += os.read(screen, 4096)
        except OSError:  # the other end is closed
            return True
        return False

    wait_until(lambda: read_on() or all(each in shown for each in (b"picture 1", b"/150", "━".encode())), "bars")
    running = process.poll() is None
    process.send_signal(signal.SIGINT)
    wait_until(read_on, "it ends")
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    os.close(screen)

    assert running, shown
    assert (process.returncode, output) == (130, "")


def test_without_a_server_it_says_how_to_start_one(up: Up, tmp_path: Path) -> None:
    status, output, said = generate(up, PROMPT, "--url", "http://127.0.0.1:9", "-o", str(tmp_path))

    assert (status, output) == (1, "")
    assert "start one with `make run` or `imagefleet up`" in said


def test_a_wrong_token_is_told_and_not_shown(up: Up) -> None:
    status, _, said = generate(up, PROMPT, CLIENT_TOKEN="guess-what")

    assert status == 1
    assert "guess-what" not in said
    assert "token" in said.lower()
