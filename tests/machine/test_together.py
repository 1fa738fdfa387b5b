"""Several jobs in one pass: each is told, cancelled, delivered and judged as if it were alone."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from app.core import alike, jobs
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.spec import GenerationSpec
from app.core.tables import Job
from tasks.machine.client import FleetClient
from tasks.machine.courier import Courier
from tasks.machine.drivers.contract import CannotDraw, ModelFiles, Order, OutOfMemory, Step
from tasks.machine.errors import ModelNotProven
from tasks.machine.spool import Spool
from tasks.machine.widths import SURE_AFTER, Widths
from tasks.machine.work import Worker
from tests.builders import BOOT, MACHINE, MODEL, a_job, a_machine, the_job
from tests.support.drivers import BatchingDriver, ScriptedDriver, files_of
from tests.support.fakes import Clock
from tests.support.processes import WAIT_SECONDS, wait_until

WIDE = 4


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def driver() -> BatchingDriver:
    """Return a driver that draws several orders in one pass, and does as the test says."""
    return BatchingDriver()


@pytest.fixture
def worker(url: str, fleet: Fleet, driver: BatchingDriver, tmp_path: Path) -> Worker:
    """Return a worker that has learnt to draw so many pictures together."""
    a_machine(fleet, ready_for=[MODEL])
    client = FleetClient(url, "", MACHINE, BOOT)
    found = Worker(client, fleet.live, Spool(tmp_path / "spool"), lambda: driver, files_of)
    found.widths = Widths(WIDE, 5.0)
    learnt(found.widths, alike.kind_of(GenerationSpec(model_id=MODEL, prompt="")))
    return found


def learnt(widths: Widths, kind: str) -> None:
    for width in (1, 2, 4):
        for _ in range(SURE_AFTER + 1):
            widths.learn(kind, width, 1.0)


@pytest.fixture
def waiting(fleet: Fleet, clock: Clock) -> Callable[..., list[Job]]:
    """Return what orders several jobs, one behind the other."""

    def ordered(*prompts: str, **more: Any) -> list[Job]:
        found = []
        for prompt in prompts:
            clock.advance(0.001)
            found.append(a_job(fleet, prompt=prompt, **more))
        return found

    return ordered


Waiting = Callable[..., list[Job]]


def states(fleet: Fleet, found: list[Job]) -> list[JobState]:
    return [the_job(fleet, job.id).state for job in found]


def seeds(fleet: Fleet, job: Job) -> list[int]:
    return [image.seed for image in jobs.shown_images(the_job(fleet, job.id))]


def on_prompt(prompt: str, problem: Exception) -> Callable[[Any], None]:
    """Return what fails where an order with this prompt is drawn."""

    def fail(orders: list[Order]) -> None:
        if prompt in [order.spec.prompt for order in orders]:
            raise problem

    return fail


def test_jobs_that_wait_are_drawn_in_one_pass_and_each_has_its_own_pictures(
    fleet: Fleet, worker: Worker, driver: BatchingDriver, waiting: Waiting
) -> None:
    found = [*waiting("a", seed=5), *waiting("b", seed=7, n=2), *waiting("c", seed=9), *waiting("d", seed=1)]

    worker.run(found[0].id)

    assert driver.passes == [["a", "b", "c"]]
    assert driver.drawn == []
    assert states(fleet, found) == [JobState.COMPLETED] * 3 + [JobState.QUEUED]
    assert [seeds(fleet, job) for job in found] == [[5], [7, 8], [9], []]
    assert [a.number for job in found[:3] for a in the_job(fleet, job.id).attempts] == [1, 1, 1]
    assert worker.attempts() == set()


def test_the_machine_names_all_attempts_of_a_batch_when_it_checks_in(
    worker: Worker, driver: BatchingDriver, waiting: Waiting
) -> None:
    found, named = waiting("a", "b", "c"), list[set[tuple[UUID, int]]]()
    driver.meanwhile = lambda _: named.append(worker.attempts())

    worker.run(found[0].id)

    assert named[0] == {(job.id, 1) for job in found}


def test_a_job_that_is_cancelled_is_dropped_and_the_others_are_drawn(
    fleet: Fleet, worker: Worker, driver: BatchingDriver, waiting: Waiting
) -> None:
    found = waiting("a", "b", "c")
    told = list[Step]()

    def cancel(step: Step) -> None:
        if not told:
            with fleet.transaction() as tx:
                jobs.cancel(tx, found[1].id, fleet)
            wait_until(lambda: fleet.live.is_unwanted(found[1].id), "the wish is known")
            worker.abandon({(found[1].id, 1)})
        told.append(step)

    driver.meanwhile = cancel

    worker.run(found[0].id)

    assert states(fleet, found) == [JobState.COMPLETED, JobState.CANCELLED, JobState.COMPLETED]
    assert the_job(fleet, found[1].id).images == []
    assert (len(driver.passes), driver.drawn, worker.attempts()) == (1, [], set())


def test_when_all_are_cancelled_the_pass_is_stopped(
    fleet: Fleet, worker: Worker, driver: BatchingDriver, waiting: Waiting
) -> None:
    found, ended = waiting("a", "b"), list[bool]()
    driver.meanwhile = lambda _: worker.abandon({(job.id, 1) for job in found})
    driver.spoilt = lambda _: ended.append(True)

    worker.run(found[0].id)

    assert (ended, driver.drawn, worker.attempts()) == ([], [], set())
    assert [the_job(fleet, job.id).images for job in found] == [[], []]


@pytest.mark.parametrize("problem", [OutOfMemory(2, 1), MemoryError(), RuntimeError("surprise"), CannotDraw("no")])
def test_what_cannot_be_drawn_in_one_pass_is_drawn_alone_in_the_same_attempts(
    fleet: Fleet, worker: Worker, driver: BatchingDriver, waiting: Waiting, problem: Exception
) -> None:
    found = waiting("a", "b", "c")
    driver.spoilt = on_prompt("a", problem)

    worker.run(found[0].id)

    assert states(fleet, found) == [JobState.COMPLETED] * 3
    assert [order.spec.prompt for order in driver.drawn] == ["a", "b", "c"]
    attempts = [attempt for job in found for attempt in the_job(fleet, job.id).attempts]
    assert {(attempt.number, attempt.state) for attempt in attempts} == {(1, AttemptState.COMPLETED)}


class Picky(BatchingDriver):
    """Cannot draw one prompt, alone or not."""

    def draw(self, order: Order, on_step: Callable[[Step], None]) -> Any:
        if order.spec.prompt == "poison":
            raise CannotDraw("this one never")
        return super().draw(order, on_step)


def test_a_job_that_can_never_be_drawn_fails_alone(fleet: Fleet, worker: Worker, waiting: Waiting) -> None:
    driver = Picky()
    driver.spoilt = on_prompt("poison", CannotDraw("this one never"))
    worker.driver = lambda: driver
    found = waiting("a", "poison", "c")

    worker.run(found[0].id)

    assert states(fleet, found) == [JobState.COMPLETED, JobState.ERROR, JobState.COMPLETED]
    assert "this one never" in str(the_job(fleet, found[1].id).error)


def test_a_pass_that_ran_out_of_memory_makes_the_next_ones_narrower(
    worker: Worker, driver: BatchingDriver, waiting: Waiting
) -> None:
    found = waiting(*"abcdefgh")
    driver.spoilt = on_prompt("a", OutOfMemory(2, 1))

    for _ in range(2):
        worker.run(found[-1].id)

    assert [len(prompts) for prompts in driver.passes] == [4, 2]


def test_a_pass_that_the_driver_had_to_divide_makes_the_next_ones_narrower(
    fleet: Fleet, worker: Worker, driver: BatchingDriver, waiting: Waiting
) -> None:
    found = waiting(*"abcdefgh")
    driver.most = 3

    for _ in range(2):
        worker.run(found[-1].id)

    assert [len(prompts) for prompts in driver.passes] == [4, 3]
    assert states(fleet, found)[:7] == [JobState.COMPLETED] * 7


def test_a_model_that_lost_its_proof_sends_every_job_of_the_batch_back(
    fleet: Fleet, worker: Worker, waiting: Waiting
) -> None:
    def unproven(model_id: str, base: str | None) -> ModelFiles:
        raise ModelNotProven(f"{model_id} changed")

    worker.files_of = unproven
    found = waiting("a", "b")

    worker.run(found[0].id)

    assert states(fleet, found) == [JobState.QUEUED] * 2
    assert {the_job(fleet, job.id).attempts[0].error_code for job in found} == {"model_not_proven"}


def test_a_machine_that_stops_hands_all_of_a_batch_back(
    fleet: Fleet, worker: Worker, driver: BatchingDriver, waiting: Waiting
) -> None:
    found = waiting("a", "b", "c")
    worker.grace = 0.0
    driver.meanwhile = lambda _: worker.stop()

    worker.run(found[0].id)

    assert states(fleet, found) == [JobState.QUEUED] * 3
    assert {the_job(fleet, job.id).attempts[0].error_code for job in found} == {"handed_back"}
    assert driver.drawn == []


def test_a_batch_that_has_not_come_to_a_step_is_handed_back_over_its_head(
    fleet: Fleet, worker: Worker, driver: BatchingDriver, waiting: Waiting
) -> None:
    found, goes_on = waiting("a", "b"), threading.Event()

    def load(_: Any) -> None:
        worker.stop()
        wait_until(lambda: states(fleet, found) == [JobState.QUEUED] * 2, "both are given back")
        goes_on.set()

    worker.grace = 0.0
    worker.on_model = load

    worker.run(found[0].id)

    assert goes_on.is_set()
    assert [len(the_job(fleet, job.id).attempts) for job in found] == [1, 1]


def test_a_batch_counts_as_one_job_that_is_on_its_way_home(fleet: Fleet, worker: Worker, waiting: Waiting) -> None:
    worker.courier = Courier(1)
    found = waiting(*"abcd")

    worker.run(found[0].id)

    assert worker.courier.wait(0, timeout=WAIT_SECONDS)
    assert states(fleet, found) == [JobState.COMPLETED] * 4


def test_a_driver_that_draws_one_order_at_a_time_never_asks_for_more(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver, waiting: Waiting
) -> None:
    drawing_worker.widths = Widths(WIDE, 5.0)
    found = waiting(*"abcdefgh")

    for _ in range(5):
        drawing_worker.run(found[0].id)

    assert states(fleet, found) == [JobState.COMPLETED] * 5 + [JobState.QUEUED] * 3
    assert drawing_worker.widths.wanted() == {}


def test_a_machine_learns_by_itself_to_draw_together_what_that_makes_faster(
    fleet: Fleet, worker: Worker, driver: BatchingDriver, waiting: Waiting
) -> None:
    worker.widths = Widths(2, 60.0)
    found = waiting(*"abcdefg")
    learning = worker.widths

    for job in found:
        worker.run(job.id)

    # Three by themselves, the first of which counts for nothing; then two are tried.
    assert [order.spec.prompt for order in driver.drawn] == ["a", "b", "c"]
    assert driver.passes == [["d", "e"], ["f", "g"]]
    assert states(fleet, found) == [JobState.COMPLETED] * 7
    assert set(learning.wanted().values()) <= {2}


def test_jobs_for_a_client_that_knows_nothing_of_batches_are_read(url: str, fleet: Fleet, waiting: Waiting) -> None:
    a_machine(fleet, ready_for=[MODEL])
    (job,) = waiting("a")

    claim = FleetClient(url, "", MACHINE, BOOT).claim(job.id)

    assert (claim.job_id, list(claim.also)) == (job.id, [])
    assert replace(claim, also=()).spec == job.spec
