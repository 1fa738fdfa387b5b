"""Out of memory: all is freed, the order is tried once more with less, and then it is said how much was missing."""

import multiprocessing
import resource
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from typing import Any

import psutil
import pytest

from app import catalogue
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order, OutOfMemory, Step
from tasks.machine.drivers.memory import asked_for
from tasks.machine.work import Worker
from tests.builders import a_job, the_job
from tests.support.drivers import ScriptedDriver, raising

TOO_MUCH = OutOfMemory(needed=25_300_000_000, available=23_700_000_000)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def test_a_drawing_that_ran_out_of_memory_is_tried_once_more_with_less(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver
) -> None:
    job = a_job(fleet, n=2)

    def fail_unless_frugal(_: Step) -> None:
        if not scripted.drawn[-1].frugal:
            raise TOO_MUCH

    scripted.meanwhile = fail_unless_frugal

    drawing_worker.run(job.id)

    done = the_job(fleet, job.id)
    assert (done.state, len(done.images)) == (JobState.COMPLETED, 2)
    assert [order.frugal for order in scripted.drawn] == [False, True]
    assert scripted.freed == 1


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (TOO_MUCH, ["25.3 GB were needed", "23.7 GB were there"]),
        (MemoryError("no memory"), ["an unknown amount"]),
    ],
)
def test_what_needs_too_much_either_way_says_how_much_and_may_fit_elsewhere(
    fleet: Fleet, drawing_worker: Worker, scripted: ScriptedDriver, problem: Exception, words: list[str]
) -> None:
    job = a_job(fleet)
    scripted.meanwhile = raising(problem)

    drawing_worker.run(job.id)

    kept = the_job(fleet, job.id)
    (attempt,) = kept.attempts
    assert (kept.state, attempt.state, attempt.error_code) == (JobState.QUEUED, AttemptState.ERROR, "out_of_memory")
    assert all(word in str(attempt.error) for word in words)
    assert [order.frugal for order in scripted.drawn] == [False, True]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.68 GiB", 2_684_354_560),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error code 12", 4096),
        ("something else", None),
    ],
)
def test_torchs_words_say_how_much_was_asked_for(words: str, count: int | None) -> None:
    assert asked_for(words) == count


def draw_with_little_memory(model: ModelFiles, options: dict[str, Any], answers: "SimpleQueue[Any]") -> None:
    """Draw small, then too large for what this process may have, then small again; tells what happened."""
    driver = make_driver("diffusers", DriverSettings(device="cpu"))
    small = GenerationSpec(model_id=model.model_id, prompt="a red circle", seed=1, steps=1, width=64, height=64)
    small = small.with_defaults(options)
    list(driver.draw(Order(small, model), lambda _: None))
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
    try:
        list(driver.draw(Order(replace(small, width=4096, height=4096), model), lambda _: None))
        answers.put("drawn")
    except OutOfMemory as exc:
        answers.put((exc.needed, exc.available, str(exc), driver.loaded()))
    answers.put(len(list(driver.draw(Order(small, model), lambda _: None))))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_real_torch_without_memory_says_how_much_was_needed_and_the_driver_draws_on() -> None:
    entry = next(entry for entry in catalogue.built_in() if entry.id == "demo-shapes")
    model = ModelFiles(entry.id, catalogue.artifacts() / entry.name, str(entry.hash), entry.base)
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    child = context.Process(target=draw_with_little_memory, args=(model, dict(entry.options), answers))
    child.start()

    needed, available, words, loaded = answers.get()
    drawn = answers.get()
    child.join()

    assert needed > available > 0
    assert f"{needed / 1e9:.1f} GB were needed, {available / 1e9:.1f} GB were there" in words
    assert (loaded, drawn) == ([], 1)
