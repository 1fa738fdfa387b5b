"""Finished work is kept until the API has it, whatever becomes of the process, the API and the disk."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask, Response, request

from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from tasks.machine.client import FleetClient
from tasks.machine.drivers.contract import Step
from tasks.machine.errors import FleetAway
from tasks.machine.spool import Spool
from tasks.machine.work import Worker
from tests.builders import BOOT, MACHINE, MODEL, a_job, a_machine, a_running_job, the_job
from tests.support.drivers import ScriptedDriver
from tests.support.fakes import Clock
from tests.support.processes import free_port

PNG: dict[str, Any] = {"seed": 1, "width": 8, "height": 8, "media_type": "image/png"}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@dataclass
class Line:
    """The line between a worker and the API, which can be cut."""

    worker: Worker
    at_home: FleetClient

    def cut(self, _: Step | None = None) -> None:
        """Let the worker find nobody."""
        self.worker.client = FleetClient(f"http://127.0.0.1:{free_port()}", "", MACHINE, BOOT)

    def mend(self) -> None:
        """Let it find the API again."""
        self.worker.client = self.at_home


@pytest.fixture
def line(drawing_worker: Worker) -> Line:
    """Return the line of the worker."""
    return Line(drawing_worker, drawing_worker.client)


def test_work_that_nobody_takes_is_kept_named_and_delivered_later(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver, line: Line
) -> None:
    job = a_job(fleet)
    scripted.meanwhile = line.cut

    drawing_worker.run(job.id)
    with pytest.raises(FleetAway):
        drawing_worker.deliver_rest()
    kept = drawing_worker.attempts()
    line.mend()
    drawing_worker.deliver_rest()

    done = the_job(fleet, job.id)
    assert kept == {(job.id, 1)}
    assert done.state == JobState.COMPLETED
    assert done.attempts[0].timings["kept"] >= 1  # the client tries for almost two seconds, twice
    assert drawing_worker.attempts() == set()


def test_work_of_a_process_that_died_is_delivered_by_the_next_one_under_another_boot(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver, line: Line, url: str, tmp_path: Path
) -> None:
    job = a_job(fleet)
    scripted.meanwhile = line.cut
    drawing_worker.run(job.id)

    reborn = replace(drawing_worker, client=FleetClient(url, "", MACHINE, "boot-2"), spool=Spool(tmp_path / "spool"))
    a_machine(fleet, boot_id="boot-2", attempts=frozenset(reborn.attempts()), ready_for=[MODEL])
    reborn.deliver_rest()

    done = the_job(fleet, job.id)
    assert (done.state, [a.state for a in done.attempts]) == (JobState.COMPLETED, [AttemptState.COMPLETED])


def test_work_that_comes_too_late_is_refused_counted_and_thrown_away(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver, line: Line, clock: Clock
) -> None:
    job = a_job(fleet)
    scripted.meanwhile = line.cut
    drawing_worker.run(job.id)
    clock.advance(60)
    a_machine(fleet)  # it does not name the attempt any more

    line.mend()
    drawing_worker.deliver_rest()

    assert [a.state for a in the_job(fleet, job.id).attempts] == [AttemptState.LOST]
    assert drawing_worker.spool.refused == 1
    assert drawing_worker.attempts() == set()


def test_one_parcel_that_is_not_taken_keeps_no_other_from_being_delivered(
    fleet: Fleet, application: Flask, url: str, tmp_path: Path
) -> None:
    first, second = (a_running_job(fleet) for _ in range(2))
    spool = Spool(tmp_path / "spool")
    for job in (first, second):
        spool.put((job.id, 1), {}, {"state": "error", "error_code": "cannot_draw", "error": "no", "permanent": True})
    unlucky = min(first.id, second.id, key=str)
    application.before_request(lambda: Response(status=503) if str(unlucky) in request.path else None)
    client = FleetClient(url, "", MACHINE, BOOT)
    worker = Worker(client, fleet.live, spool, ScriptedDriver, lambda *_: None)  # type: ignore[arg-type]  # it draws nothing

    with pytest.raises(FleetAway):
        worker.deliver_rest()

    assert spool.keys() == {(unlucky, 1)}


def test_a_picture_that_can_never_be_taken_ends_the_attempt_with_the_reason(
    fleet: Fleet, url: str, tmp_path: Path
) -> None:
    job = a_running_job(fleet)
    spool = Spool(tmp_path / "spool")
    parcel = spool.put((job.id, 1), {0: ({**PNG, "sha256": "0" * 64}, b"no picture")}, {"state": "completed"})

    spool.deliver(parcel, FleetClient(url, "", MACHINE, BOOT))

    (attempt,) = the_job(fleet, job.id).attempts
    assert (attempt.state, attempt.error_code) == (AttemptState.ERROR, "delivery_refused")
    assert spool.keys() == set()


def test_work_that_was_interrupted_is_dropped_when_the_spool_is_opened(tmp_path: Path) -> None:
    done, torn = UUID(int=1), UUID(int=2)
    Spool(tmp_path).put((done, 1), {0: (PNG, b"picture")}, {"state": "completed"})
    (tmp_path / f"{torn}.1").mkdir()
    (tmp_path / f"{torn}.1" / "0").write_bytes(b"half a pict")

    again = Spool(tmp_path)

    assert again.keys() == {(done, 1)}
    (parcel,) = again.parcels()
    letter = parcel.letter()
    assert (letter["images"], letter["outcome"], parcel.data(0)) == ([PNG], {"state": "completed"}, b"picture")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{done}.1"]


def test_where_the_disk_is_full_work_stays_in_memory_and_is_delivered_from_there(
    fleet: Fleet, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = a_running_job(fleet)
    spool = Spool(tmp_path / "spool")
    (tmp_path / "spool" / f"{job.id}.1").write_text("a folder cannot be made where a file is")

    parcel = spool.put((job.id, 1), {}, {"state": "error", "error_code": "cannot_draw", "error": "no"})
    kept, was_full = spool.keys(), spool.is_full()
    (tmp_path / "spool" / f"{job.id}.1").unlink()
    spool.deliver(parcel, FleetClient(url, "", MACHINE, BOOT))

    assert (kept, was_full) == ({(job.id, 1)}, True)
    assert "kept in memory only" in caplog.text
    assert "make room there" in caplog.text
    assert the_job(fleet, job.id).attempts[0].error_code == "cannot_draw"
    assert (spool.keys(), spool.is_full()) == (set(), False)


def test_a_spool_is_full_when_as_much_waits_as_may(tmp_path: Path) -> None:
    spool = Spool(tmp_path, most_bytes=1000)
    spool.put((uuid4(), 1), {0: (PNG, bytes(500))}, {"state": "completed"})
    before = spool.is_full()

    spool.put((uuid4(), 1), {0: (PNG, bytes(500))}, {"state": "completed"})

    assert (before, spool.is_full()) == (False, True)
    assert len(spool.keys()) == 2
