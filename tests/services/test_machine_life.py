"""A machine's side of a job's life, with real machines: told to stop, drained, cancelled, watched, kept at its model.

All tests share one running server; each machine has models of its own.
"""

import io
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import psutil
import pytest
from PIL import Image

from app.core.dispatch import machine_queue, model_queue
from app.live import RedisLive
from tests.support.broker import patient
from tests.support.processes import WAIT_SECONDS, wait_until
from tests.support.system import Part, System, borrowed

SLOW, PATIENT, FIRST, SECOND = "slow", "patient", "first", "second"

STEPS = (3, 6, 12, 24, 48, 96)
"""Seconds of drawing, until what a busy computer takes beside them is little."""

LATE = 60
"""Steps of a second that a busy computer may be late, of 2400."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def system(server: System) -> Iterator[System]:
    """Start a machine with steps of a second, and one that lets a job take very long to end."""
    with borrowed(server) as running:
        for model_id in (SLOW, PATIENT, FIRST, SECOND):
            running.put_model(model_id)
        running.add_machine("machine-slow", SLOW, FAKE_STEP_SECONDS="1")
        running.add_machine("machine-patient", PATIENT, DRAIN_SECONDS="3600", FAKE_STEP_SECONDS="0.2")
        running.wait_for_machines(SLOW, 1)
        running.wait_for_machines(PATIENT, 1)
        yield running


def order(system: System, model_id: str, **more: Any) -> str:
    """Order a picture; returns the job's id."""
    body = {"model_id": model_id, "prompt": "a red circle", "seed": 7, "steps": 1}
    return str(system.post("v1/jobs", body | more)["job_id"])


def job(system: System, job_id: str) -> Any:
    """Return a job as its client sees it."""
    return system.get(f"v1/jobs/{job_id}")


def order_long(system: System, model_id: str) -> str:
    """Order what takes minutes, and wait until it is being drawn."""
    job_id = order(system, model_id, steps=150, n=16)
    wait_until(lambda: job(system, job_id)["progress"] > 0, "the job is being drawn")
    return job_id


def said(part: Part) -> str:
    """Return what a machine has printed."""
    assert part.process is not None
    return part.process.said()


def live_of(system: System) -> RedisLive:
    """Return the live store of the machines."""
    return RedisLive(patient(system.broker.url))


def test_a_cancelled_job_stops_within_a_step_and_the_machine_draws_the_next_one(system: System) -> None:
    live = live_of(system)
    job_id = order_long(system, SLOW)

    answer = system.post(f"v1/jobs/{job_id}/cancel", {})
    cancelled_at = live.progress(UUID(job_id))
    done = system.ended(order(system, SLOW))

    told = [moment.step for _, moment in live.history(UUID(job_id))]
    assert answer["status"] == "cancelled"
    assert done["status"] == "completed"
    assert cancelled_at is not None
    # That it stops at the very next step is shown in tests/machine/test_work.py, where nothing else runs.
    assert max(told) <= cancelled_at.step + LATE
    assert f"job {job_id}: attempt 1 stopped, nobody wants it any more" in said(system.parts["machine-slow"])


def test_a_running_job_can_be_watched(system: System) -> None:
    live = live_of(system)
    job_id = order(system, SLOW, steps=10, n=1)

    data = wait_until(lambda: live.preview(UUID(job_id)), "there is a preview")
    done = system.ended(job_id)

    with Image.open(io.BytesIO(data)) as preview:
        assert preview.format == "JPEG"
    moments = [moment for _, moment in live.history(UUID(job_id))]
    assert len({moment.step for moment in moments if moment.phase == "denoising"} - {0}) > 2  # of ten, in ten seconds
    assert moments[-1].phase == "uploading"
    assert done["status"] == "completed"


def test_the_phases_of_an_attempt_add_up_to_its_time(system: System) -> None:
    shares = list[float]()
    for steps in STEPS:
        done = system.ended(order(system, SLOW, steps=steps))

        (attempt,) = done["attempts"]
        began, ended = (datetime.fromisoformat(attempt[name]) for name in ("started_at", "ended_at"))
        whole, spent = (ended - began).total_seconds(), sum(attempt["timings"].values())
        assert attempt["timings"]["denoising"] >= steps
        assert spent <= whole + 0.1
        shares.append(spent / whole)
        if shares[-1] >= 0.8:
            break
    # No phase is what the requests at both ends take: almost nothing, unless the computer is busy with other things.
    assert max(shares) >= 0.8, shares


def test_a_drained_machine_leaves_its_queues_finishes_its_job_and_comes_back(system: System) -> None:
    own, machine = machine_queue("machine-slow"), system.parts["machine-slow"]
    running = order(system, SLOW, steps=150, n=3)
    wait_until(lambda: job(system, running)["progress"] > 0, "the job is being drawn")

    system.post("v1/machines/machine-slow/drain", {})
    wait_until(lambda: system.consumed("machine-slow") == {own}, "it left its queue")
    still = job(system, running)["status"]
    waiting = order(system, SLOW)
    finished = system.hurry(running)
    while_drained = job(system, waiting)["status"]
    system.post("v1/machines/machine-slow/undrain", {})
    drawn = system.ended(waiting)

    assert (still, finished["status"], len(finished["attempts"])) == ("processing", "completed", 1)
    assert (while_drained, drawn["status"]) == ("queued", "completed")
    assert system.consumed("machine-slow") == {own, model_queue(SLOW)}
    assert "drained: " in said(machine)
    assert "no longer drained" in said(machine)


def whole_machine(part: Part) -> psutil.Process:
    """Return the process of `imagefleet machine`."""
    assert part.process is not None
    return psutil.Process(part.process.pid)


def its_worker(part: Part) -> psutil.Process:
    """Return the worker process of a machine."""
    found = part.child("tasks.machine")
    assert found is not None
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("who", [whole_machine, its_worker])
def test_a_machine_told_twice_to_stop_hands_its_job_back_at_once(
    system: System, who: Callable[[Part], psutil.Process], number: signal.Signals
) -> None:
    part = system.parts["machine-patient"]
    system.wait_for_machines(PATIENT, 1)
    job_id = order_long(system, PATIENT)
    assert part.process is not None
    lines, told = part.process.said().count("has 3600 s left"), who(part)

    part.rests = True
    told.send_signal(number)
    wait_until(lambda: said(part).count("has 3600 s left") > lines, "it says what it does")
    after_one = job(system, job_id)["status"]
    told.send_signal(number)
    # Its worker is started anew, and may soon be drawing it again.
    wait_until(lambda: job(system, job_id)["attempts"][0]["state"] != "running", "the job went back")
    told.wait(WAIT_SECONDS) if who is whole_machine else None
    system.post(f"v1/jobs/{job_id}/cancel", {})

    assert after_one == "processing"
    first, *others = job(system, job_id)["attempts"]
    assert (first["state"], first["error"]["code"]) == ("lost", "handed_back")
    assert others == [] or who is its_worker
    assert "was killed" not in said(part)
    if who is whole_machine:
        assert part.process.wait() == 0
        part.start()


@pytest.mark.parametrize(("affinity_seconds", "fewest", "most"), [("3600", 1, 1), ("0", 6, 9)])
def test_a_machine_stays_with_the_model_that_is_loaded(
    system: System, affinity_seconds: str, fewest: int, most: int
) -> None:
    name = f"machine-affine-{affinity_seconds}"
    part = system.add_machine(name, FIRST, SECOND, AFFINITY_SECONDS=affinity_seconds, FAKE_STEP_SECONDS="0.3")
    wait_until(lambda: {name} <= set(system.ready_machines(FIRST)) & set(system.ready_machines(SECOND)), "it is ready")
    system.post(f"v1/machines/{name}/drain", {})
    wait_until(lambda: system.consumed(name) == {machine_queue(name)}, "it left both queues")

    waiting = [order(system, (FIRST, SECOND)[k % 2]) for k in range(10)]
    system.post(f"v1/machines/{name}/undrain", {})  # it joins both at the same moment
    done = [system.ended(job_id) for job_id in waiting]
    part.kill()

    drawn = sorted((each["attempts"][0]["started_at"], each["model_id"]) for each in done)
    swaps = sum(before[1] != after[1] for before, after in pairwise(drawn))
    assert {each["status"] for each in done} == {"completed"}
    assert fewest <= swaps <= most
    assert f"swap {swaps}" in said(part)
    assert f"swap {swaps + 1}" not in said(part)
