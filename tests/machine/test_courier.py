"""Pictures go home beside the drawing of the next ones, and nothing of an attempt's rules is lost on the way."""

import io
import json
import threading
from pathlib import Path
from uuid import UUID

import pytest
from flask import Flask, Response, request
from PIL import Image

from app.core import jobs
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from tasks.machine.courier import Courier
from tasks.machine.drivers.contract import ModelFiles, OutOfMemory, Step
from tasks.machine.work import Worker
from tests.builders import MACHINE, MODEL, a_job, a_machine, a_running_job, the_job
from tests.support.drivers import ScriptedDriver
from tests.support.processes import WAIT_SECONDS, wait_until


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def position_of(path: str) -> int | None:
    """Return which picture a request brings."""
    return int(path.rpartition("/")[2]) if "/images/" in path else None


def test_a_picture_goes_home_while_the_next_one_is_drawn(
    fleet: Fleet, application: Flask, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job, arrived, seen = a_job(fleet, n=3), threading.Event(), list[bool]()

    def note(response: Response) -> Response:
        if "/images/" in request.path:
            arrived.set()
        return response

    application.after_request(note)

    def wait_for_the_first(step: Step) -> None:
        if step.image == 1:
            seen.append(arrived.wait(WAIT_SECONDS))

    scripted.meanwhile = wait_for_the_first

    drawing_worker.run(job.id)

    assert seen == [True]
    assert the_job(fleet, job.id).state == JobState.COMPLETED


def test_the_next_job_is_drawn_while_the_last_one_goes_home_and_both_are_named(
    fleet: Fleet, application: Flask, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    first, second = a_job(fleet), a_job(fleet)
    may_end, named = threading.Event(), list[set[tuple[UUID, int]]]()
    held = list[str]()
    drawing_worker.courier = Courier(ahead=1)

    def hold_the_first(*_: object) -> None:
        if request.path.endswith("/finish") and not held:
            held.append(request.path)
            may_end.wait(WAIT_SECONDS)

    application.before_request(hold_the_first)
    drawing_worker.run(first.id)

    def name_both(_: Step) -> None:
        named.append(drawing_worker.attempts())
        may_end.set()

    scripted.meanwhile = name_both

    drawing_worker.run(second.id)
    assert drawing_worker.courier.wait(timeout=WAIT_SECONDS)

    assert named == [{(first.id, 1), (second.id, 1)}]
    assert {the_job(fleet, job.id).state for job in (first, second)} == {JobState.COMPLETED}
    assert drawing_worker.attempts() == set()


def test_no_more_jobs_are_on_their_way_than_may_be(
    fleet: Fleet, application: Flask, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    waiting = [a_job(fleet) for _ in range(3)]
    may_end = threading.Event()
    drawing_worker.courier = Courier(ahead=1)

    def hold_every_ending() -> None:
        if request.path.endswith("/finish"):
            may_end.wait(WAIT_SECONDS)

    def draw_all() -> None:
        for job in waiting:
            drawing_worker.run(job.id)

    application.before_request(hold_every_ending)
    thread = threading.Thread(target=draw_all)
    thread.start()
    wait_until(lambda: len(scripted.drawn) == 2, "the second is drawn")
    held = len(drawing_worker.attempts())
    may_end.set()
    thread.join(WAIT_SECONDS)

    assert held == 2
    assert drawing_worker.courier.wait(timeout=WAIT_SECONDS)
    assert {the_job(fleet, job.id).state for job in waiting} == {JobState.COMPLETED}


def test_a_picture_that_is_there_is_not_brought_again(
    fleet: Fleet, application: Flask, drawing_worker: Worker, tmp_path: Path
) -> None:
    job, brought, kept = a_job(fleet, n=3), list[int | None](), list[list[str]]()

    def note() -> None:
        brought.append(position_of(request.path))
        if request.path.endswith("/finish"):
            kept.append(sorted(path.name for path in (tmp_path / "spool" / f"{job.id}.1").iterdir()))

    application.before_request(note)

    drawing_worker.run(job.id)

    assert [position for position in brought if position is not None] == [0, 1, 2]
    assert kept == [["outcome.json"]]


def test_pictures_that_the_api_did_not_take_on_the_way_are_kept_and_brought_at_the_end(
    fleet: Fleet, application: Flask, drawing_worker: Worker
) -> None:
    job, refused = a_job(fleet, n=3), list[int]()

    def refuse_the_second_once() -> Response | None:
        if position_of(request.path) == 1 and not refused:
            refused.append(1)
            return Response('{"code": "invalid", "message": "not now"}', 422, mimetype="application/json")
        return None

    application.before_request(refuse_the_second_once)

    drawing_worker.run(job.id)

    done = the_job(fleet, job.id)
    assert (refused, done.state, len(jobs.shown_images(done))) == ([1], JobState.COMPLETED, 3)


def test_an_attempt_that_lost_its_job_learns_it_from_its_first_picture(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job = a_job(fleet, n=5)
    steps = list[int]()

    def lose_it_before_the_first(step: Step) -> None:
        steps.append(step.image)
        if step.image == 0:
            with fleet.transaction() as tx:
                jobs.cancel(tx, job.id, fleet)
            fleet.live.forget(job.id)  # so that only the API can tell it
        else:
            wait_until(lambda: (job.id, 1) in drawing_worker._abandoned, "it is known to be lost")

    scripted.meanwhile = lose_it_before_the_first

    drawing_worker.run(job.id)

    assert steps == [0, 1]
    assert the_job(fleet, job.id).images == []


def test_what_was_drawn_before_the_memory_ran_out_is_kept(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job, failed = a_job(fleet, n=2), list[int]()

    def run_out_at_the_second(step: Step) -> None:
        if step.image == 1 and not failed:
            failed.append(1)
            raise OutOfMemory

    scripted.meanwhile = run_out_at_the_second

    drawing_worker.run(job.id)

    done = the_job(fleet, job.id)
    assert [order.frugal for order in scripted.drawn] == [False, True]
    assert [image.position for image in jobs.shown_images(done)] == [0, 1]
    assert [image.receipt is not None for image in done.images] == [True, True]


def test_a_picture_that_cannot_be_encoded_fails_the_attempt(
    fleet: Fleet, drawing_worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job(fleet, image_format="webp", width=8, height=8)
    too_large = Image.new("RGB", (17_000, 1))  # WebP ends at 16383
    monkeypatch.setattr("tests.support.drivers.Image.new", lambda *_: too_large)

    drawing_worker.run(job.id)

    (attempt,) = the_job(fleet, job.id).attempts
    assert (attempt.state, attempt.error_code) == (AttemptState.ERROR, "internal_error")


def test_progress_never_falls_back(fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver) -> None:
    job, failed = a_job(fleet, n=2), list[int]()

    def run_out_at_the_second(step: Step) -> None:
        if step.image == 1 and not failed:
            failed.append(1)
            raise OutOfMemory

    scripted.meanwhile = run_out_at_the_second

    drawing_worker.run(job.id)

    told = [moment for _, moment in fleet.live.history(job.id)]
    fractions = [moment.fraction for moment in told]
    assert fractions == sorted(fractions)
    assert (told[-1].phase, fractions[-1]) == ("uploading", 1.0)


def test_a_receipt_says_what_drew_a_picture_and_nothing_of_where_it_lies(
    fleet: Fleet, drawing_worker: Worker, tmp_path: Path
) -> None:
    part = ModelFiles("a-vae", tmp_path / "vae.safetensors", "p", hashes={"vae.safetensors": "sha256:bb"})
    drawing_worker.files_of = lambda model_id, base: ModelFiles(
        model_id, tmp_path / "m", "p", base, hashes={"m.safetensors": "sha256:aa"}, parts=(part,)
    )
    job = a_job(fleet, n=2, seed=5)

    drawing_worker.run(job.id)

    images = the_job(fleet, job.id).images
    receipts = [image.receipt or {} for image in images]
    assert [receipt["seed"] for receipt in receipts] == [5, 6]
    assert receipts[0]["files"] == [
        {"model_id": MODEL, "path": "m.safetensors", "hash": "sha256:aa"},
        {"model_id": "a-vae", "path": "vae.safetensors", "hash": "sha256:bb"},
    ]
    assert str(tmp_path) not in json.dumps(receipts)
    with Image.open(io.BytesIO(fleet.images.get(images[0].key))) as picture:
        assert json.loads(picture.info["imagefleet"])["receipt"] == receipts[0]


def test_what_is_on_its_way_when_the_process_ends_was_named_until_then(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job = a_running_job(fleet)
    drawing_worker._homeward.add((job.id, 1))  # as between the drawing and the spool

    a_machine(fleet, MACHINE, ready_for=[MODEL], attempts=frozenset(drawing_worker.attempts()))

    assert the_job(fleet, job.id).state == JobState.PROCESSING
