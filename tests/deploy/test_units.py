"""The units of systemd start parts that exist, and let them end."""

import re

import pytest

from app.settings import Settings
from tasks.machine.host import GOODBYE_SECONDS
from tests.deploy.start import PARTS
from tests.support.processes import ROOT

UNITS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "deploy" / "systemd").iterdir()}


@pytest.mark.parametrize("name", sorted(UNITS))
def test_a_unit_starts_parts_that_exist_and_reads_no_secret_from_itself(name: str) -> None:
    (started,) = re.findall(r"^ExecStart=/opt/imagefleet/bin/start (\S+)$", UNITS[name], re.MULTILINE)
    named = set(re.findall(r"imagefleet@([a-z0-9]+)", UNITS[name])) if started == "%i" else {started}

    assert named
    assert named <= PARTS.keys()
    assert not re.search(r"^Environment=.*(TOKEN|PASSWORD|KEY)", UNITS[name], re.MULTILINE)


def test_a_machine_may_drain_before_it_is_killed() -> None:
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNITS["imagefleet-machine.service"], re.MULTILINE)

    assert int(seconds) > Settings.drain_seconds + GOODBYE_SECONDS
