"""What a machine does with a bell, whatever its driver, its disk and the server do."""

import time
from uuid import UUID, uuid4

import pytest
from flask import Flask, Response, request

from app.core import jobs
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.tables import Machine
from tasks.machine import spool
from tasks.machine.client import FleetClient
from tasks.machine.drivers.contract import CannotDraw, ModelFiles, Step
from tasks.machine.errors import Fenced, FleetAway, ModelNotProven, Refused
from tasks.machine.work import Worker
from tests.builders import BOOT, MACHINE, MODEL, a_job, a_machine, claim, the_job
from tests.support.drivers import ScriptedDriver, files_of, raising
from tests.support.processes import WAIT_SECONDS, free_port, wait_until
from tests.support.web import serving


@pytest.fixture
def looks(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """Note each time that a reporter asks whether its job is still wanted."""
    asked = list[UUID]()
    ask = fleet.live.is_unwanted

    def note(job_id: UUID) -> bool:
        answer = ask(job_id)
        asked.append(job_id)
        return answer

    monkeypatch.setattr(fleet.live, "is_unwanted", note)
    return asked


TRIES = 20
"""How often something is measured that a busy computer disturbs: a lasting fault disturbs it each time."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def unproven(model_id: str, base: str | None) -> ModelFiles:
    raise ModelNotProven(f"{model_id} changed")


def test_a_bell_becomes_pictures(fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver) -> None:
    job = a_job(fleet, n=2, seed=5)

    drawing_worker.run(job.id)

    done = the_job(fleet, job.id)
    assert (done.state, [image.seed for image in jobs.shown_images(done)]) == (JobState.COMPLETED, [5, 6])
    assert drawing_worker.attempts() == set()


def test_a_bell_for_a_job_that_another_machine_has_is_let_be(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job = a_job(fleet)
    a_machine(fleet, "gpu-2")
    claim(fleet, job.id, "gpu-2")

    drawing_worker.run(job.id)
    drawing_worker.run(uuid4())

    assert scripted.drawn == []
    assert the_job(fleet, job.id).machine_id == "gpu-2"


@pytest.mark.parametrize(
    ("problem", "state", "code"),
    [
        (CannotDraw("no such layer"), JobState.ERROR, "cannot_draw"),
        (RuntimeError("surprise"), JobState.QUEUED, "internal_error"),
    ],
)
def test_a_failure_is_told_and_ends_the_job_only_if_no_other_try_could_help(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver, problem: Exception, state: JobState, code: str
) -> None:
    job = a_job(fleet)
    scripted.meanwhile = raising(problem)

    drawing_worker.run(job.id)

    kept = the_job(fleet, job.id)
    (attempt,) = kept.attempts
    assert (kept.state, attempt.state, attempt.error_code) == (state, AttemptState.ERROR, code)
    assert str(problem) in str(attempt.error)


def test_a_worker_goes_on_after_a_surprise(fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver) -> None:
    failed = a_job(fleet)
    scripted.meanwhile = raising(RuntimeError("surprise"))
    drawing_worker.run(failed.id)
    scripted.meanwhile = lambda _: None

    drawing_worker.run(failed.id)

    assert [a.state for a in the_job(fleet, failed.id).attempts] == [AttemptState.ERROR, AttemptState.COMPLETED]


def test_a_bell_may_bring_another_job_of_the_same_queue(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    rung, urgent = a_job(fleet), a_job(fleet, priority=9)

    drawing_worker.run(rung.id)

    assert (the_job(fleet, rung.id).state, the_job(fleet, urgent.id).state) == (JobState.QUEUED, JobState.COMPLETED)
    assert drawing_worker.attempts() == set()


def test_a_claim_whose_answer_was_lost_is_answered_again_and_costs_no_try(
    fleet: Fleet, application: Flask, drawing_worker: Worker
) -> None:
    job, lost = a_job(fleet), list[int]()

    def lose_the_first_answer(response: Response) -> Response:
        if request.path.endswith("/claim") and not lost:
            lost.append(response.status_code)
            return Response("the line broke", status=502)
        return response

    application.after_request(lose_the_first_answer)

    drawing_worker.run(job.id)

    done = the_job(fleet, job.id)
    assert lost == [200]
    assert (done.state, [a.number for a in done.attempts]) == (JobState.COMPLETED, [1])


def test_the_phases_add_up_to_the_whole_attempt(
    fleet: Fleet,
    application: Flask,
    drawing_worker: Worker,
    scripted: ScriptedDriver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spool, "KEPT_SECONDS", WAIT_SECONDS)  # however long a busy computer takes to bring them home
    moments, unaccounted = list[float](), list[float]()

    def note_the_beginning(model_id: str, base: str | None) -> ModelFiles:
        moments.append(time.monotonic())
        return files_of(model_id, base)

    def note_the_end() -> None:
        if request.path.endswith("/finish"):
            moments.append(time.monotonic())

    drawing_worker.files_of = note_the_beginning
    application.before_request(note_the_end)
    scripted.meanwhile = lambda _: time.sleep(0.2)

    while not unaccounted or (min(unaccounted) > 0.1 and len(unaccounted) < TRIES):
        job = a_job(fleet, n=2)
        moments.clear()
        drawing_worker.run(job.id)
        began, ended = moments
        timings = the_job(fleet, job.id).attempts[0].timings
        assert set(timings) == {"starting", "loading", "denoising", "encoding", "uploading"}
        assert timings["denoising"] >= 0.4
        assert timings["uploading"] > 0
        unaccounted.append(abs(sum(timings.values()) - (ended - began)))

    assert min(unaccounted) <= 0.1


def test_a_machine_that_gets_no_jobs_is_told_why(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job, reasons = a_job(fleet), list[str]()
    with fleet.transaction() as tx:
        tx.session.get_one(Machine, MACHINE).drained = True
    drawing_worker.on_turned_away = reasons.append

    drawing_worker.run(job.id)

    assert "drained" in reasons[0]
    assert (scripted.drawn, the_job(fleet, job.id).state) == ([], JobState.QUEUED)


def test_a_pipeline_that_left_for_another_is_counted(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    models = list[str]()
    drawing_worker.on_model = models.append
    for model_id in (MODEL, "other", "other", MODEL):
        drawing_worker.run(a_job(fleet, model_id=model_id).id)

    assert models == [MODEL, "other", "other", MODEL]
    assert drawing_worker.swaps == 2


def test_a_model_that_lost_its_proof_costs_no_try(fleet: Fleet, drawing_worker: Worker) -> None:
    job = a_job(fleet)
    drawing_worker.files_of = unproven

    drawing_worker.run(job.id)

    kept = the_job(fleet, job.id)
    assert (kept.state, kept.attempts[0].state) == (JobState.QUEUED, AttemptState.LOST)
    assert kept.attempts[0].error_code == "model_not_proven"


def test_a_cancelled_job_stops_at_the_next_step(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver, looks: list[UUID]
) -> None:
    job = a_job(fleet, n=5)
    steps = []

    def cancel_at_the_second(step: Step) -> None:
        steps.append(step)
        if step.image == 1:
            with fleet.transaction() as tx:
                jobs.cancel(tx, job.id, fleet)
            before = len(looks)
            wait_until(lambda: len(looks) > before + 2, "the reporter has looked, and noted what it saw")

    scripted.meanwhile = cancel_at_the_second

    drawing_worker.run(job.id)

    assert len(steps) == 2
    kept = the_job(fleet, job.id)
    assert (kept.state, kept.images) == (JobState.CANCELLED, [])


def test_an_abandoned_attempt_stops_at_the_next_step(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job = a_job(fleet, n=5)
    steps = []

    def lose_at_the_second(step: Step) -> None:
        steps.append(step)
        if step.image == 1:
            drawing_worker.abandon({(job.id, 1), (uuid4(), 1)})

    scripted.meanwhile = lose_at_the_second

    drawing_worker.run(job.id)

    assert len(steps) == 2
    assert the_job(fleet, job.id).state == JobState.PROCESSING


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
