"""`make chaos`, a short run: what it proves, it proves; and what is broken afterwards, it finds."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.sabotage import SABOTAGE
from tests.support.processes import ROOT

pytestmark = pytest.mark.timeout(1500)


def chaos(*options: str) -> tuple[int, str]:
    """Run it; returns its status, and what it has printed."""
    command = [sys.executable, "-m", "tests.chaos", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1400, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_short_run_proves_that_nothing_was_lost_and_can_see_when_something_was() -> None:
    status, said = chaos("--seconds", "15", "--seed", "4", "--doubt")

    assert status == 0, said
    assert "proved: no job was lost" in said
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", said, re.MULTILINE))
    ended = sum(int(rows[state]) for state in ("completed", "error", "cancelled"))
    assert int(rows["accepted"]) == ended > 0
    assert int(rows["faults"].partition(":")[0]) > 0
    assert [name for name in SABOTAGE if f"sabotage {name!r}: found" not in said] == []


@pytest.fixture(scope="module")
def rolled() -> tuple[int, str]:
    """Replace every process under load, break a picture behind the proof, and hold everything against each other."""
    return chaos("--rolling", "--seed", "4", "--sabotage", "picture")


def test_a_rolling_restart_of_everything_under_load_loses_nothing(rolled: tuple[int, str]) -> None:
    _, said = rolled

    # What was broken afterwards is found; anything else would have been lost by the restart, or met by a client.
    breaches = re.findall(r"^BREACH (.*)$", said, re.MULTILINE)
    assert [breach for breach in breaches if not breach.startswith("pictures_are_as_asked: ")] == [], said
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", said, re.MULTILINE))
    assert rows["run"].startswith("every process replaced")
    assert rows["error"] == "0"
    assert int(rows["completed"]) > 0
    assert int(rows["streams taken up again"]) > 0


def test_a_breach_is_named_and_keeps_the_evidence(rolled: tuple[int, str]) -> None:
    status, said = rolled

    assert status == 1, said
    assert "BREACH pictures_are_as_asked: job" in said
    (folder,) = re.findall(r"everything known about them is in (\S+)", said)
    kept = {path.name for path in Path(folder).iterdir()}
    shutil.rmtree(folder)
    assert {"jobs.json", "faults.json", "orders.json", "webhooks.json", "web.log", "machine-0.log"} <= kept
