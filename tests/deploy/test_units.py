"""The units of systemd start parts that exist, and let them end."""

import re

import pytest

from app.processes import GAVE_UP
from app.settings import Settings
from tasks.machine.host import GOODBYE_SECONDS
from tests.deploy.start import PARTS
from tests.support.processes import ROOT

UNITS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "deploy" / "systemd").iterdir()}

MACHINE = "imagefleet-machine.service"


@pytest.mark.parametrize("name", sorted(UNITS))
def test_a_unit_starts_parts_that_exist_and_reads_no_secret_from_itself(name: str) -> None:
    (started,) = re.findall(r"^ExecStart=/opt/imagefleet/bin/start (\S+)$", UNITS[name], re.MULTILINE)
    named = set(re.findall(r"imagefleet@([a-z0-9]+)", UNITS[name])) if started == "%i" else {started}

    assert named
    assert named <= PARTS.keys()
    assert not re.search(r"^Environment=.*(TOKEN|PASSWORD|KEY)", UNITS[name], re.MULTILINE)


def test_a_machine_may_drain_before_it_is_killed() -> None:
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNITS[MACHINE], re.MULTILINE)

    assert int(seconds) > Settings.drain_seconds + GOODBYE_SECONDS


def test_a_machine_that_gave_up_is_left_alone_and_everything_else_is_started_again_for_ever() -> None:
    machine = UNITS[MACHINE]

    assert re.findall(r"^RestartPreventExitStatus=(.*)$", machine, re.MULTILINE) == [str(GAVE_UP)]
    for text in UNITS.values():
        head = text.partition("[Service]")[0]
        assert "\nRestart=always\n" in text
        assert "\nStartLimitIntervalSec=0\n" in head  # systemd gives up after five starts in ten seconds otherwise


def test_what_a_machine_writes_below_its_home_can_be_written() -> None:
    told = dict(re.findall(r"(\w+)=(\S+)", "".join(re.findall(r"^Environment=(.*)$", UNITS[MACHINE], re.MULTILINE))))
    (state,) = re.findall(r"^StateDirectory=(.*)$", UNITS[MACHINE], re.MULTILINE)

    assert "ProtectSystem=strict" in UNITS[MACHINE]
    assert told["HOME"] == f"/var/lib/{state}"
