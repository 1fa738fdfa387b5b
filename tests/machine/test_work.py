"""What a machine does with a bell, whatever its driver, its disk and the server do."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from PIL import Image

from app.core import jobs
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.live import Progress
from tasks.machine.client import FleetClient
from tasks.machine.drivers.contract import CannotDraw, ModelFiles, OnStep, Order, OutOfMemory, Picture, Step
from tasks.machine.errors import Fenced, FleetAway, ModelNotProven, Refused
from tasks.machine.spool import Spool
from tasks.machine.work import Worker
from tests.builders import BOOT, MACHINE, MODEL, a_job, a_machine, claim, the_job
from tests.support.fakes import MemoryLive
from tests.support.processes import free_port
from tests.support.web import serving


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def url(application: Flask) -> Iterator[str]:
    """Serve the real application on loopback."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with serving(application) as address:
        yield address


@dataclass
class ScriptedDriver:
    """Draws plain pictures, and does in between what a test wants."""

    meanwhile: Callable[[Step], None] = lambda _: None
    drawn: list[Order] = field(default_factory=list)

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw, one step each."""
        self.drawn.append(order)
        for position in range(order.spec.n):
            step = Step("denoising", 1, 1, position)
            self.meanwhile(step)
            on_step(step)
            yield Picture(Image.new("RGB", (8, 8), (position, 0, 0)), (order.spec.seed or 0) + position)

    def device(self) -> dict[str, Any]:
        """Have no device."""
        return {}

    def loaded(self) -> list[str]:
        """Hold nothing."""
        return []

    def free(self) -> None:
        """Have nothing to give back."""


def files_of(model_id: str, base: str | None) -> ModelFiles:
    return ModelFiles(model_id, Path("model.bin"), "proof", base)


def unproven(model_id: str, base: str | None) -> ModelFiles:
    raise ModelNotProven(f"{model_id} changed")


@pytest.fixture
def driver() -> ScriptedDriver:
    """Return a driver that does as the test says."""
    return ScriptedDriver()


@pytest.fixture
def worker(url: str, fleet: Fleet, driver: ScriptedDriver, tmp_path: Path) -> Worker:
    """Return a worker that has checked in with the real API."""
    a_machine(fleet, ready_for=[MODEL])
    client = FleetClient(url, "", MACHINE, BOOT)
    return Worker(client, fleet.live, Spool(tmp_path / "spool"), lambda: driver, files_of)


def raising(problem: Exception) -> Callable[[Step], None]:
    def fail(_: Step) -> None:
        raise problem

    return fail


def test_a_bell_becomes_pictures(fleet: Fleet, worker: Worker, driver: ScriptedDriver) -> None:
    job = a_job(fleet, n=2, seed=5)

    worker.run(job.id)

    done = the_job(fleet, job.id)
    assert (done.state, [image.seed for image in jobs.shown_images(done)]) == (JobState.COMPLETED, [5, 6])
    assert {"drawing", "encoding"} <= set(done.attempts[0].timings)
    assert worker.attempts() == set()


def test_a_bell_for_a_job_that_another_machine_has_is_let_be(
    fleet: Fleet, worker: Worker, driver: ScriptedDriver
) -> None:
    job = a_job(fleet)
    a_machine(fleet, "gpu-2")
    claim(fleet, job.id, "gpu-2")

    worker.run(job.id)
    worker.run(uuid4())

    assert driver.drawn == []
    assert the_job(fleet, job.id).machine_id == "gpu-2"


@pytest.mark.parametrize(
    ("problem", "state", "code"),
    [
        (CannotDraw("no such layer"), JobState.ERROR, "cannot_draw"),
        (OutOfMemory("8 GB are too few"), JobState.QUEUED, "out_of_memory"),
        (RuntimeError("surprise"), JobState.QUEUED, "internal_error"),
    ],
)
def test_a_failure_is_told_and_ends_the_job_only_if_no_other_try_could_help(
    fleet: Fleet, worker: Worker, driver: ScriptedDriver, problem: Exception, state: JobState, code: str
) -> None:
    job = a_job(fleet)
    driver.meanwhile = raising(problem)

    worker.run(job.id)

    kept = the_job(fleet, job.id)
    (attempt,) = kept.attempts
    assert (kept.state, attempt.state, attempt.error_code) == (state, AttemptState.ERROR, code)
    assert str(problem) in str(attempt.error)


def test_a_worker_goes_on_after_a_surprise(fleet: Fleet, worker: Worker, driver: ScriptedDriver) -> None:
    driver.meanwhile = raising(RuntimeError("surprise"))
    worker.run(a_job(fleet).id)
    driver.meanwhile = lambda _: None
    job = a_job(fleet)

    worker.run(job.id)

    assert the_job(fleet, job.id).state == JobState.COMPLETED


def test_a_model_that_lost_its_proof_costs_no_try(fleet: Fleet, worker: Worker) -> None:
    job = a_job(fleet)
    worker.files_of = unproven

    worker.run(job.id)

    kept = the_job(fleet, job.id)
    assert (kept.state, kept.attempts[0].state) == (JobState.QUEUED, AttemptState.LOST)
    assert kept.attempts[0].error_code == "model_not_proven"


def test_a_cancelled_job_stops_at_the_next_step(fleet: Fleet, worker: Worker, driver: ScriptedDriver) -> None:
    job = a_job(fleet, n=5)
    steps = []

    def cancel_at_the_second(step: Step) -> None:
        steps.append(step)
        if step.image == 1:
            with fleet.transaction() as tx:
                jobs.cancel(tx, job.id, fleet)

    driver.meanwhile = cancel_at_the_second

    worker.run(job.id)

    assert len(steps) == 2
    kept = the_job(fleet, job.id)
    assert (kept.state, kept.images) == (JobState.CANCELLED, [])


def test_an_abandoned_attempt_stops_at_the_next_step(fleet: Fleet, worker: Worker, driver: ScriptedDriver) -> None:
    job = a_job(fleet, n=5)
    steps = []

    def lose_at_the_second(step: Step) -> None:
        steps.append(step)
        if step.image == 1:
            worker.abandon({(job.id, 1), (uuid4(), 1)})

    driver.meanwhile = lose_at_the_second

    worker.run(job.id)

    assert len(steps) == 2
    assert the_job(fleet, job.id).state == JobState.PROCESSING


def test_a_worker_that_stops_hands_back_what_does_not_end_in_time(
    fleet: Fleet, worker: Worker, driver: ScriptedDriver
) -> None:
    job, next_job = a_job(fleet, n=5), a_job(fleet)
    worker.grace = -1.0
    driver.meanwhile = lambda _: worker.stop()

    worker.run(job.id)
    worker.run(next_job.id)

    kept = the_job(fleet, job.id)
    assert (kept.state, kept.attempts[0].error_code) == (JobState.QUEUED, "handed_back")
    assert the_job(fleet, next_job.id).attempts == []


def test_a_worker_that_stops_brings_a_short_job_to_its_end(
    fleet: Fleet, worker: Worker, driver: ScriptedDriver
) -> None:
    job = a_job(fleet)
    driver.meanwhile = lambda _: worker.stop()

    worker.run(job.id)

    assert the_job(fleet, job.id).state == JobState.COMPLETED


def test_progress_is_left_where_clients_find_it(fleet: Fleet, worker: Worker, driver: ScriptedDriver) -> None:
    job = a_job(fleet, n=2)
    seen: list[Progress | None] = []
    driver.meanwhile = lambda _: seen.append(fleet.live.progress(job.id))

    worker.run(job.id)

    assert isinstance(fleet.live, MemoryLive)
    assert seen[1] == Progress(1, "denoising", 1, 1, 0, 2)
    assert fleet.live.progress(job.id) is None


def test_work_that_nobody_takes_is_kept_named_and_delivered_later(
    fleet: Fleet, worker: Worker, driver: ScriptedDriver, tmp_path: Path
) -> None:
    job = a_job(fleet)
    at_home = worker.client
    away = FleetClient(f"http://127.0.0.1:{free_port()}", "", MACHINE, BOOT)

    def cut_the_line(_: Step) -> None:
        worker.client = away

    driver.meanwhile = cut_the_line
    worker.run(job.id)
    with pytest.raises(FleetAway):
        worker.deliver_rest()
    kept = worker.attempts()
    worker.client = at_home
    worker.deliver_rest()

    assert kept == {(job.id, 1)}
    assert the_job(fleet, job.id).state == JobState.COMPLETED
    assert worker.attempts() == set()


def test_work_of_an_attempt_that_lost_is_thrown_away(fleet: Fleet, url: str, tmp_path: Path) -> None:
    job = a_job(fleet)
    a_machine(fleet)
    spool = Spool(tmp_path / "spool")
    parcel = spool.put((job.id, 1), [], {"state": "completed"})

    status = spool.deliver(parcel, FleetClient(url, "", MACHINE, BOOT))

    assert status is None
    assert spool.keys() == set()


def test_work_that_was_interrupted_is_dropped_when_the_spool_is_opened(tmp_path: Path) -> None:
    done, torn = UUID(int=1), UUID(int=2)
    about = {"seed": 1, "media_type": "image/png"}
    Spool(tmp_path).put((done, 1), [(about, b"picture")], {"state": "completed"})
    (tmp_path / f"{torn}.1").mkdir()
    (tmp_path / f"{torn}.1" / "0").write_bytes(b"half a pict")

    again = Spool(tmp_path)

    assert again.keys() == {(done, 1)}
    (parcel,) = again.parcels()
    assert (parcel.images(), parcel.outcome()) == ([about], {"state": "completed"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{done}.1"]


def test_the_client_tells_away_from_refused_from_fenced(fleet: Fleet, url: str) -> None:
    job = a_job(fleet)
    client = FleetClient(url, "", MACHINE, BOOT)

    with pytest.raises(Refused, match="not_claimable"):
        client.claim(job.id)
    a_machine(fleet)
    with pytest.raises(Fenced):
        client.claim(uuid4())
    with pytest.raises(Fenced):
        client.finish(job.id, 1, {"state": "completed"})
    with pytest.raises(FleetAway):
        FleetClient(f"http://127.0.0.1:{free_port()}", "", MACHINE, BOOT).check_in({})


def test_a_server_that_is_none_of_ours_is_away_and_not_trusted() -> None:
    stranger = Flask("stranger")
    stranger.add_url_rule("/<path:_>", view_func=lambda _: "hello", methods=["POST"], endpoint="hello")

    with serving(stranger) as url, pytest.raises(FleetAway, match="is it an Imagefleet server"):
        FleetClient(url, "", MACHINE, BOOT).check_in({})
