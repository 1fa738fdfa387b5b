"""What every job answers of its time: when it is done, how good such estimates were, and where the time went."""

from typing import Any

import pytest

from app.core import images
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState
from app.core.live import Progress
from app.core.tables import Job
from tests.builders import MODEL, a_completed_job, a_job, a_machine, a_running_job, an_upload, claim, finish
from tests.support.fakes import MONDAY, Clock
from tests.support.web import Client


def shown(client: Client, job: Job) -> dict[str, Any]:
    body: dict[str, Any] = client.get(f"/v1/jobs/{job.id}").json
    return body


def draw(fleet: Fleet, clock: Clock, seconds: float) -> Job:
    a_machine(fleet, ready_for=[MODEL])
    job = a_running_job(fleet)
    clock.advance(seconds)
    images.receive(fleet, an_upload(job))
    return finish(fleet, job, timings={"denoising": seconds - 1})


def test_a_job_that_waits_says_when_it_will_be_done(client: Client, fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, 10)
    running = a_running_job(fleet)
    clock.advance(4)
    a_job(fleet)
    clock.advance(0.5)
    a_machine(fleet, ready_for=[MODEL], attempts=frozenset({(running.id, 1)}))

    found = shown(client, a_job(fleet))

    assert found["queue_position"] == 2
    assert found["eta"]["seconds"] == pytest.approx(5.5 + 10 + 10, abs=0.1)
    assert found["eta"]["at"] == found["promised_at"]
    assert "1 job is before it, 1 machine can draw it" in found["eta"]["basis"]


def test_a_job_whose_model_nobody_has_drawn_with_says_that_it_cannot_know(client: Client, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=[MODEL])

    eta = shown(client, a_job(fleet))["eta"]

    assert (eta["seconds"], eta["at"], eta["error_p50"], eta["promises"]) == (None, None, None, 0)
    assert "no job of a-model was completed yet" in eta["basis"]


def test_a_job_that_no_machine_can_draw_says_that_it_cannot_know(client: Client, fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, 10)
    clock.advance(60)

    eta = shown(client, a_job(fleet))["eta"]

    assert eta["seconds"] is None
    assert "no live machine is ready" in eta["basis"]


def test_a_running_job_says_when_it_will_be_done(client: Client, fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, 11)
    job = a_running_job(fleet)
    clock.advance(3)
    fleet.live.report(job.id, Progress(1, "denoising", step=5, steps=10))

    found = shown(client, job)

    assert found["eta"]["seconds"] == pytest.approx(0.5 * 10 + 1)
    assert (found["progress"], found["running"]["step"], found["running"]["steps"]) == (0.5, 5, 10)


def test_the_first_job_of_a_model_is_estimated_from_its_own_steps(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_running_job(fleet)
    clock.advance(8)
    fleet.live.report(job.id, Progress(1, "denoising", step=8, steps=10))

    assert shown(client, job)["eta"]["seconds"] == pytest.approx(2)


def test_an_ended_job_has_no_eta_and_keeps_its_promise(client: Client, fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, 10)
    job = draw(fleet, clock, 10)

    found = shown(client, job)

    assert found["eta"] is None
    assert found["promised_at"] == found["ended_at"]


def test_how_good_promises_were_is_told_with_each_estimate(client: Client, fleet: Fleet, clock: Clock) -> None:
    draw(fleet, clock, 10)
    for seconds in [10] * 8 + [20] * 2:
        draw(fleet, clock, seconds)

    eta = shown(client, a_job(fleet))["eta"]

    assert eta["promises"] == 10
    assert eta["error_p50"] < 0.5
    assert eta["error_p90"] == pytest.approx(9, abs=1.1)
    assert 0 < eta["relative_p90"] < 1


def test_every_attempt_says_where_its_time_went(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_job(fleet)
    a_machine(fleet, ready_for=[MODEL], device={"name": "NVIDIA H200"})
    clock.advance(2)
    claim(fleet, job.id)
    clock.advance(4)
    finish(fleet, job, AttemptState.LOST, error="gone", timings={"loading": 3.0})
    clock.advance(1)
    claim(fleet, job.id)
    clock.advance(6)
    images.receive(fleet, an_upload(job, attempt=2))
    finish(fleet, job, attempt=2, timings={"loading": 1.0, "denoising": 4.0, "encoding": 0.5, "uploading": 0.5})

    found = shown(client, job)

    first, second = found["attempts"]
    assert (first["machine_id"], first["device"], first["error"]["message"]) == ("gpu-1", "NVIDIA H200", "gone")
    assert first["timings"] == {"queued": 2.0, "loading": 3.0}
    assert second["timings"] == {"queued": 1.0, "loading": 1.0, "denoising": 4.0, "encoding": 0.5, "uploading": 0.5}
    assert found["timings"] == {"queued": 3.0, "loading": 4.0, "denoising": 4.0, "encoding": 0.5, "uploading": 0.5}


def test_a_job_that_waits_counts_its_time_on(client: Client, fleet: Fleet, clock: Clock) -> None:
    job = a_job(fleet)
    clock.advance(7)

    assert shown(client, job)["timings"] == {"queued": 7.0}
    assert clock.now > MONDAY


def test_a_completed_job_without_timings_is_shown(client: Client, fleet: Fleet) -> None:
    assert shown(client, a_completed_job(fleet))["timings"] == {"queued": 0.0}
