"""A machine that the fleet no longer understands: it says so, keeps what it has finished, and ends for good."""

import sys
from pathlib import Path

import pytest

from app.core import protocol
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.tables import Machine
from app.processes import GAVE_UP
from tasks.machine.client import Claim
from tasks.machine.errors import TooOld
from tasks.machine.work import Worker
from tests.builders import BOOT, MACHINE, a_job, a_machine, the_job
from tests.support.drivers import ScriptedDriver
from tests.support.processes import Process, wait_until
from tests.support.servers import environ_of


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def upgrade_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server take only what machines of this code do not speak; they run in processes of their own."""
    monkeypatch.setattr(protocol, "OLDEST", protocol.SPOKEN + 1)
    monkeypatch.setattr(protocol, "SPOKEN", protocol.SPOKEN + 1)


def test_imagefleet_machine_ends_with_the_sentence_when_its_server_was_upgraded_beyond_it(
    url: str, fleet: Fleet, broker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = environ_of(tmp_path, MACHINE_ID=MACHINE, FLEET_URL=url, BROKER_URL=broker_url, DRIVER="fake")
    machine = Process([sys.executable, "-m", "app.cli", "machine"], tmp_path / "machine.log", environ=environ)
    try:
        machine.wait_for_line("checked in")
        upgrade_the_server(monkeypatch)

        status = machine.wait()
    finally:
        machine.cut_off()

    assert status == GAVE_UP
    assert machine.said().count("this machine is too old: it speaks version 1") == 1
    assert "stopping: worker gave up; its lines above say why" in machine.said()
    assert "starting it anew" not in machine.said()
    with fleet.reading() as session:
        assert "upgrade the machine" in str(session.get_one(Machine, MACHINE).sick)


def test_what_is_finished_is_kept_for_the_upgraded_machine(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(fleet)
    tell_an_old_version = {**drawing_worker.client._headers, protocol.HEADER: "0"}
    now = dict(drawing_worker.client._headers)
    scripted.meanwhile = lambda _: setattr(drawing_worker.client, "_headers", tell_an_old_version)

    drawing_worker.run(job.id)
    wait_until(drawing_worker.spool.keys, "the picture is kept")
    with pytest.raises(TooOld):
        drawing_worker.deliver_rest()
    monkeypatch.setattr(drawing_worker.client, "_headers", now)
    drawing_worker.deliver_rest()

    assert the_job(fleet, job.id).state == JobState.COMPLETED
    assert [attempt.state for attempt in the_job(fleet, job.id).attempts] == [AttemptState.COMPLETED]


def test_a_machine_of_this_version_lets_be_what_a_newer_server_says_more(url: str, fleet: Fleet) -> None:
    a_machine(fleet, boot_id=BOOT)
    told = {"job_id": str(a_job(fleet).id), "attempt": 1, "spec": {}, "base": None, "colour_of_the_day": "red"}

    assert Claim.of(told).attempt == 1
