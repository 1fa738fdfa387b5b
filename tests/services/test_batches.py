"""Jobs that wait are drawn in one pass: claimed by many machines at once, and by real processes that may die of it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
import requests
from PIL import Image
from sqlalchemy.orm import Session

from app.core import alike, attempts, batches, jobs
from app.core.errors import NotClaimable
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.lifecycle import AttemptState, JobState
from app.core.spec import GenerationSpec
from app.core.tables import Job
from tasks.machine.widths import SURE_AFTER, Widths
from tests.builders import BOOT, MODEL, a_job, a_machine, a_model, the_job
from tests.support.processes import WAIT_SECONDS, wait_until
from tests.support.servers import ANSWER_SECONDS
from tests.support.system import System, running_system

RIVALS = 8
WIDE = 3
ROUNDS = 2
ALIKE = "alike"
MACHINE = "machine-1"

STEPS = 10
STEP_SECONDS = "0.02"

MANY_STEPS = 150
"""So many that there is time to cancel."""

SOME_STEPS = 60

TRIES = 5
"""How often a busy computer may measure what it does beside, or come too late."""


def test_machines_that_claim_batches_at_once_are_all_given_different_jobs(fleet: Fleet) -> None:
    rounds = ROUNDS if fleet.engine.dialect.name == "postgresql" else 1
    a_model(fleet)
    names = [a_machine(fleet, f"gpu-{number}", ready_for=[MODEL]) for number in range(RIVALS)]
    for _ in range(rounds):
        waiting = [a_job(fleet, terms=Terms(owner=owner)) for owner in "abc" * RIVALS]
        wide = {alike.kind_of(GenerationSpec.from_json(waiting[0].spec)): WIDE}
        crowd_is_there = Barrier(RIVALS)

        def take(name: str) -> list[UUID]:
            crowd_is_there.wait(WAIT_SECONDS)  # noqa: B023  # it ends with the round
            taken = list[UUID]()
            while True:
                try:
                    with fleet.transaction() as tx:
                        first = attempts.claim(tx, waiting[0].id, name, BOOT)  # noqa: B023  # as above
                        given = [first, *batches.take_along(tx, first, wide)]  # noqa: B023  # as above
                        found = [attempt.job_id for attempt in given]
                except NotClaimable:
                    return taken
                assert len(found) <= WIDE
                taken += found

        with ThreadPoolExecutor(RIVALS) as crowd:
            given = [job_id for taken in crowd.map(take, names) for job_id in taken]

        assert sorted(given) == sorted(job.id for job in waiting)
        for job in waiting:
            (attempt,) = the_job(fleet, job.id).attempts
            assert attempt.state == AttemptState.RUNNING
            with fleet.transaction() as tx:
                jobs.cancel(tx, job.id, fleet)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Run a fleet of one machine that has learnt that it draws together as fast as alone."""
    more = {"FAKE_STEP_SECONDS": STEP_SECONDS, "MAX_ATTEMPTS": "1"}
    with running_system(tmp_path_factory.mktemp("batches"), **more) as found:
        found.put_model(ALIKE)
        yield found


@pytest.fixture
def learnt(system: System) -> System:
    """Have a machine that has just started and drawn each width often enough to know."""
    if MACHINE not in system.parts:
        system.add_machine(MACHINE, ALIKE)
    for _ in range(TRIES):
        system.tend()
        system.wait_for_machines(ALIKE, 1)
        if learns(system):
            return system
        system.parts[MACHINE].kill()
        what_it_knows(system).unlink(missing_ok=True)
        system.parts[MACHINE].start()
    raise AssertionError("the machine has not learnt to draw four together")


def learns(system: System) -> bool:
    """Let the machine measure passes, and other work of the computer with them; say whether it draws four together."""
    for _ in range(SURE_AFTER + 1):
        assert system.ended(order(system, "alone")[0])["status"] == "completed"
    for _ in range(10):
        found = [system.ended(job_id) for job_id in order(system, *"abcd")]
        assert {job["status"] for job in found} == {"completed"}
        if {shared(system, job["job_id"]) for job in found} == {4}:
            return True
    return False


def what_it_knows(system: System) -> Path:
    """Return the file in which the machine keeps what it has learnt."""
    return system.folder / MACHINE / "learnt" / MACHINE / "widths.json"


def order(system: System, *prompts: str, steps: int = STEPS) -> list[str]:
    """Order several jobs in one request: all of them wait when the first bell rings."""
    body = {"model_id": ALIKE, "prompts": list(prompts), "seed": 7, "steps": steps, "width": 64, "height": 64}
    return [job["job_id"] for job in system.post("v1/jobs", body)["jobs"]]


def job_of(system: System, job_id: str) -> Job:
    with Session(system.engine, expire_on_commit=False) as session:
        return jobs.get(session, UUID(job_id))


def shared(system: System, job_id: str) -> int:
    """Return how many jobs the last attempt of a job was given with."""
    return job_of(system, job_id).attempts[-1].together


def colour_of(job: dict[str, Any]) -> Any:
    (picture,) = job["images"]
    data = requests.get(picture["url"], timeout=ANSWER_SECONDS).content
    with Image.open(BytesIO(data)) as found:
        return found.convert("RGB").getpixel((0, 0))


def colour_for(prompt: str) -> tuple[int, ...]:
    """Return what the driver that needs no model draws for a prompt."""
    return tuple(sha256(f"{ALIKE}\n{prompt}\n7".encode()).digest()[:3])


def test_jobs_that_wait_for_a_machine_are_drawn_in_one_pass_and_each_is_given_its_own_picture(learnt: System) -> None:
    prompts = [f"picture {number}" for number in range(4)]
    learnt.parts[MACHINE].kill()
    waiting = order(learnt, *prompts)
    learnt.parts[MACHINE].start()

    found = [learnt.ended(job_id) for job_id in waiting]

    assert [job["status"] for job in found] == ["completed"] * 4
    assert [colour_of(job) for job in found] == [colour_for(prompt) for prompt in prompts]
    drawn = [job_of(learnt, job_id).attempts for job_id in waiting]
    assert [[attempt.together for attempt in each] for each in drawn] == [[4]] * 4
    assert len({each[0].claim_id for each in drawn}) == 1


def teach(system: System, job_id: str) -> None:
    """Have the machine know, from its next start on, that it draws four of this kind as fast as one."""
    widths = Widths(4, 5.0, what_it_knows(system))
    kind = alike.kind_of(GenerationSpec.from_json(job_of(system, job_id).spec))
    for width in (1, 2, 4):
        for _ in range(SURE_AFTER + 1):
            widths.learn(kind, width, 1.0)


def receipt_of(system: System, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = system.get(f"v1/images/{job['images'][0]['image_id']}/receipt")["receipt"]
    return found


def cancelled_midway(system: System, prompts: list[str]) -> list[str]:
    """Order several, and cancel the second while all are drawn, unless the computer was too busy to come in time."""
    system.parts[MACHINE].kill()
    waiting = order(system, *prompts, steps=MANY_STEPS)
    teach(system, waiting[0])
    system.parts[MACHINE].start()
    wait_until(lambda: system.get(f"v1/jobs/{waiting[1]}")["progress"], "all of them are being drawn")
    requests.post(f"{system.url}/v1/jobs/{waiting[1]}/cancel", json={}, timeout=ANSWER_SECONDS)
    return waiting


def test_a_running_job_that_is_cancelled_leaves_its_pass_and_the_others_are_drawn_on(learnt: System) -> None:
    prompts = [f"company {number}" for number in range(4)]

    for _ in range(TRIES):
        found = [learnt.ended(job_id) for job_id in cancelled_midway(learnt, prompts)]
        if found[1]["status"] == "cancelled" and receipt_of(learnt, found[0])["left"]:
            break

    assert [job["status"] for job in found] == ["completed", "cancelled", "completed", "completed"]
    assert found[1]["images"] == []
    others = [found[place] for place in (0, 2, 3)]
    assert [colour_of(job) for job in others] == [colour_for(prompts[place]) for place in (0, 2, 3)]
    receipts = [receipt_of(learnt, job) for job in others]
    assert {receipt["together"] for receipt in receipts} == {4}
    # One row left the pass, and long before its end.
    ((row, step),) = receipts[0]["left"]
    assert [receipt["left"] for receipt in receipts] == [[[row, step]]] * 3
    assert {row, *(receipt["row"] for receipt in receipts)} == set(range(4))
    assert 0 < step < MANY_STEPS


def test_what_a_batch_loses_with_its_machine_goes_back_one_by_one_and_costs_no_try(learnt: System) -> None:
    prompts = [f"survivor {number}" for number in range(4)]
    # So long that a batch of them is under way when the machine is killed, and of a kind it knows to draw together.
    learnt.parts[MACHINE].kill()
    found = order(learnt, *prompts * 5, steps=SOME_STEPS)
    teach(learnt, found[0])
    learnt.parts[MACHINE].start()

    def is_being_drawn() -> bool:
        return any(
            job_of(learnt, job_id).state == JobState.PROCESSING and shared(learnt, job_id) > 1 for job_id in found
        )

    wait_until(is_being_drawn, "several are being drawn together")
    learnt.parts[MACHINE].kill()
    held = [job_of(learnt, job_id) for job_id in found]
    learnt.tend()
    learnt.parts[MACHINE].start()

    ended = [learnt.ended(job_id) for job_id in found]

    # With one attempt allowed, what had counted as a try would have ended these.
    assert {job["status"] for job in ended} == {"completed"}
    assert [colour_of(job) for job in ended] == [colour_for(prompt) for prompt in prompts * 5]
    for job in held:
        if job.state == JobState.PROCESSING and job.attempts[-1].together > 1:
            states = [attempt.state for attempt in job_of(learnt, str(job.id)).attempts]
            assert states in ([AttemptState.LOST, AttemptState.COMPLETED], [AttemptState.COMPLETED])
    again = [job_of(learnt, job_id).attempts for job_id in found]
    assert {attempt.together for attempts_of in again for attempt in attempts_of[1:]} <= {1}
