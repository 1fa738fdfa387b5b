"""Silence: machines are taken for lost only while somebody could have heard them."""

import signal
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine

from app.core import attempts, heartbeats
from app.core.fleet import Fleet, prepare_engine
from app.core.lifecycle import JobState
from app.heart import Heart
from tests.builders import MODEL, a_machine, a_running_job, let_pass, the_job
from tests.support.fakes import Clock, MemoryImages, MemoryLive, RecordingDispatcher
from tests.support.processes import free_port, wait_until
from tests.support.system import System, borrowed

AWAY_SECONDS = 15.0
BEATS = 5


def lose(fleet: Fleet) -> int:
    with fleet.transaction() as tx:
        return attempts.lose_of_silent_machines(tx)


def beat(fleet: Fleet) -> None:
    with fleet.transaction() as tx:
        heartbeats.beat(tx, heartbeats.API)


def test_a_machine_that_is_silent_while_we_listen_loses_its_job(fleet: Fleet, clock: Clock) -> None:
    job = a_running_job(fleet)

    let_pass(fleet, clock, 9)
    early = lose(fleet)
    let_pass(fleet, clock, 4)

    assert (early, lose(fleet)) == (0, 1)
    assert the_job(fleet, job.id).state == JobState.QUEUED


@pytest.mark.parametrize("ever_there", [False, True])
def test_nobody_is_silent_while_the_api_is_away(fleet: Fleet, clock: Clock, ever_there: bool) -> None:
    if ever_there:
        let_pass(fleet, clock, 20)
    job = a_running_job(fleet)

    lost = []
    for _ in range(20):
        clock.advance(3)
        lost.append(lose(fleet))

    # Until its beat is stale nobody has been silent for long enough either.
    assert sum(lost) == 0
    assert the_job(fleet, job.id).state == JobState.PROCESSING


def test_an_api_that_comes_back_gives_the_machines_time_to_speak(fleet: Fleet, clock: Clock) -> None:
    let_pass(fleet, clock, 20)
    speaking, silent = a_running_job(fleet), a_running_job(fleet, "gpu-2")
    clock.advance(60)

    beat(fleet)
    at_once = lose(fleet)
    let_pass(fleet, clock, 8)
    a_machine(fleet, ready_for=[MODEL], attempts=frozenset({(speaking.id, 1)}))
    let_pass(fleet, clock, 3)

    assert (at_once, lose(fleet)) == (0, 1)
    assert the_job(fleet, speaking.id).state == JobState.PROCESSING
    assert the_job(fleet, silent.id).state == JobState.QUEUED


def test_beats_of_many_processes_are_one(fleet: Fleet, clock: Clock) -> None:
    began = clock.now
    for _ in range(20):
        beat(fleet)
        clock.advance(0.5)

    with fleet.reading() as session:
        assert heartbeats.listening_since(session, heartbeats.API, clock.now) == began
        assert heartbeats.listening_since(session, "another", clock.now) is None


def test_a_database_that_is_away_costs_a_heart_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.02)
    engine = prepare_engine(create_engine(f"postgresql+psycopg://fleet@127.0.0.1:{free_port()}/fleet"))
    asked = list[int]()

    def goes_on() -> bool:
        asked.append(1)
        return len(asked) <= BEATS

    Heart(Fleet(engine, RecordingDispatcher(), MemoryImages(), MemoryLive()), goes_on).start()
    wait_until(lambda: len(asked) > BEATS, "it has beaten")

    assert [record.levelname for record in caplog.records if record.name == "app.heart"] == ["WARNING"]
    assert "Traceback" not in caplog.text


@pytest.fixture(scope="module")
def system(server: System) -> Iterator[System]:
    """Run one machine."""
    with borrowed(server) as running:
        running.put_model(MODEL)
        running.add_machine("machine-silence", MODEL, FAKE_STEP_SECONDS="1")
        running.wait_for_machines(MODEL, 1)
        yield running


@pytest.mark.timeout(900)
def test_an_api_that_is_paused_takes_no_job_from_a_machine_that_goes_on_drawing(system: System) -> None:
    job_id = system.post("v1/jobs", {"model_id": MODEL, "prompt": "a red circle", "steps": 150})["job_id"]
    wait_until(lambda: system.get(f"v1/jobs/{job_id}")["progress"] > 0, "it is being drawn")
    web, control_log = system.parts["web"].tree(), system.parts["control"].log
    said_before = len(control_log.read_text())

    for process in web:
        process.send_signal(signal.SIGSTOP)
    time.sleep(AWAY_SECONDS)
    for process in web:
        process.send_signal(signal.SIGCONT)
    time.sleep(heartbeats.STALE_SECONDS)
    soon = system.get(f"v1/jobs/{job_id}")
    done = system.hurry(job_id)

    assert soon["status"] == "processing", "the picture must still be drawn when the API is back"
    assert (done["status"], [attempt["state"] for attempt in done["attempts"]]) == ("completed", ["completed"])
    assert "Traceback" not in control_log.read_text()[said_before:]
