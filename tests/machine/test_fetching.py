"""The pictures that orders begin with, on their way to a machine: proven, kept, gone, damaged, out of reach."""

import io
from hashlib import sha256

import pytest
from PIL import Image

from app.core import inputs
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.pictures import checked
from tasks.machine.client import FleetClient
from tasks.machine.errors import FleetAway
from tasks.machine.pictures import PictureGone, Pictures
from tasks.machine.work import Worker
from tests.builders import BOOT, MACHINE, a_job, a_model, a_picture, the_job
from tests.support.drivers import ScriptedDriver
from tests.support.processes import free_port


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def given(fleet: Fleet, colour: str = "red") -> str:
    """Let a client upload a picture."""
    found = checked(a_picture(colour), 10**6)
    kept = inputs.Given(
        sha256=found.sha256, media_type=found.media_type, width=found.width, height=found.height, data=found.data
    )
    return inputs.keep(fleet, kept).sha256


@pytest.fixture
def fetching_worker(drawing_worker: Worker) -> Worker:
    """Return a worker that fetches pictures from the real API."""
    drawing_worker.pictures_of = Pictures(drawing_worker.client.picture)
    return drawing_worker


def test_the_driver_gets_the_picture_decoded(fleet: Fleet, fetching_worker: Worker, scripted: ScriptedDriver) -> None:
    name = given(fleet)
    job = a_job(fleet, image=name)

    fetching_worker.run(job.id)

    done = the_job(fleet, job.id)
    assert done.state == JobState.COMPLETED
    assert scripted.drawn[0].pictures[name].getpixel((1, 1)) == (255, 0, 0)
    assert done.attempts[0].timings["fetching"] >= 0


def test_a_picture_that_is_gone_ends_the_job_with_what_to_do(
    fleet: Fleet, fetching_worker: Worker, scripted: ScriptedDriver
) -> None:
    name = given(fleet)
    job = a_job(fleet, image=name)
    with fleet.reading() as session:
        fleet.images.delete(inputs.get(session, name).key)

    fetching_worker.run(job.id)

    done = the_job(fleet, job.id)
    assert (done.state, done.error_code, len(done.attempts)) == (JobState.ERROR, "picture_gone", 1)
    assert "upload it again" in str(done.error)
    assert scripted.drawn == []


def test_a_server_that_is_away_gives_the_job_back(fleet: Fleet, fetching_worker: Worker) -> None:
    job = a_job(fleet, image=given(fleet))
    nobody = FleetClient(f"http://127.0.0.1:{free_port()}", "", MACHINE, BOOT)
    fetching_worker.pictures_of = Pictures(nobody.picture)

    fetching_worker.run(job.id)

    done = the_job(fleet, job.id)
    assert done.state == JobState.QUEUED
    assert (done.attempts[0].state, done.attempts[0].error_code) == (AttemptState.LOST, "fleet_away")


def test_a_picture_is_fetched_once_while_there_is_room() -> None:
    asked: list[str] = []
    files = {sha256(data).hexdigest(): data for data in (a_picture("red"), a_picture("blue"))}

    def fetch(name: str) -> bytes:
        asked.append(name)
        return files[name]

    first, second = files
    roomy, narrow = Pictures(fetch), Pictures(fetch, most_bytes=1)
    for _ in range(2):
        roomy([first, second])
    assert asked == [first, second]

    asked.clear()
    for name in (first, first, second, first):
        narrow([name])
    assert asked == [first, second, first]


def test_bytes_that_are_not_what_their_name_says_are_not_drawn_from() -> None:
    wanted = sha256(a_picture("red")).hexdigest()

    with pytest.raises(FleetAway, match="changed on its way"):
        Pictures(lambda _: a_picture("blue"))([wanted])


def test_a_picture_that_cannot_be_decoded_is_an_error_and_not_a_crash() -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    for data in (b"rubbish", file.getvalue()[:900]):
        with pytest.raises(PictureGone, match="cannot be read"):
            Pictures({sha256(data).hexdigest(): data}.__getitem__)([sha256(data).hexdigest()])


def test_an_order_without_pictures_asks_for_none(fleet: Fleet, fetching_worker: Worker) -> None:
    a_model(fleet, "other")
    job = a_job(fleet)

    fetching_worker.run(job.id)

    assert "fetching" not in the_job(fleet, job.id).attempts[0].timings
