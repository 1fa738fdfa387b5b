"""What a health check says of a part that is not well."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app import healthy
from tests.support.processes import ROOT, free_port


def test_a_beat_that_has_sent_nothing_yet_or_not_for_long_is_not_well(tmp_path: Path) -> None:
    file = tmp_path / "beat"
    environ = {"BEAT_FILE": str(file)}

    assert "nothing yet" in healthy.beat(environ)
    file.touch()
    assert healthy.beat(environ) == ""
    long_ago = time.time() - healthy.BEAT_SECONDS - 1
    os.utime(file, (long_ago, long_ago))
    assert "nothing for" in healthy.beat(environ)


@pytest.mark.parametrize("part", ["web", "a1111", "machine"])
def test_a_part_that_does_not_answer_is_not_well(part: str) -> None:
    port = str(free_port())

    trouble = healthy.PARTS[part]({"PORT": port, "A1111_PORT": port, "MACHINE_HEALTH_PORT": port})

    assert f"127.0.0.1:{port}" in trouble


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["beat"], "BEAT_FILE is not set: name a file, such as /tmp/beat, in the environment of beat"),
        (["bet"], "web, a1111"),
        ([], "web, a1111"),
    ],
)
def test_what_cannot_be_asked_ends_with_what_to_say(words: list[str], said: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "BEAT_FILE"}
    command = [sys.executable, "-m", "app.healthy", *words]

    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert said in done.stderr
