"""The dispatcher and the sweeper over a real broker."""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from celery import Celery

from app.broker import CeleryDispatcher, make_celery
from app.core import images, jobs
from app.core.dispatch import CONTROL_QUEUE, GENERATE, Message, model_queue
from app.core.errors import StaleAttempt
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.settings import Settings
from tasks.control.sweep import sweep
from tests.builders import (
    MODEL,
    a_job,
    a_machine,
    a_model,
    a_picture,
    a_running_job,
    an_upload,
    claim,
    finish,
    let_pass,
    the_job,
)
from tests.support.broker import BrokerServer, running_broker
from tests.support.fakes import Clock
from tests.support.processes import WAIT_SECONDS, command_of, free_port, wait_until

QUEUE = model_queue(MODEL)


@pytest.fixture
def celery(settings: Settings, broker_url: str) -> Iterator[Celery]:
    """Return a Celery app on the real broker."""
    app = make_celery(replace(settings, broker_url=broker_url))
    yield app
    app.close()


@pytest.fixture
def ringing(fleet: Fleet, celery: Celery) -> Fleet:
    """Return a fleet that rings on the real broker."""
    return replace(fleet, dispatcher=CeleryDispatcher(celery))


def taken(celery: Celery, queue: str = QUEUE) -> list[UUID]:
    """Take every message out of a queue in the order in which a worker would get them; returns the jobs' ids."""
    found: list[UUID] = []
    with celery.connection_for_read() as connection, connection.SimpleQueue(queue) as waiting:
        while True:
            try:
                message: Any = waiting.get_nowait()
            except waiting.Empty:
                return found
            message.ack()
            assert message.headers["task"] == GENERATE
            found.append(UUID(message.payload[0][0]))


def test_a_bell_carries_the_jobs_id_and_nothing_of_its_content(ringing: Fleet, celery: Celery) -> None:
    job = a_job(ringing, prompt="a-secret-prompt")

    with celery.connection_for_read() as connection, connection.SimpleQueue(QUEUE) as waiting:
        message = waiting.get(timeout=WAIT_SECONDS)
        message.ack()

    assert message.payload[0] == [str(job.id)]
    assert "a-secret-prompt" not in str(message.body) + str(message.headers)


def test_bells_are_rung_by_priority_and_then_by_age(ringing: Fleet, celery: Celery) -> None:
    waiting = [a_job(ringing, priority=priority).id for priority in (0, 9, 3, 0, 9, 6)]

    order = taken(celery)

    assert order == [waiting[k] for k in (1, 4, 5, 2, 0, 3)]


def test_the_depth_of_a_queue_counts_every_priority(ringing: Fleet) -> None:
    for priority in (0, 3, 6, 9, 9):
        a_job(ringing, priority=priority)

    assert ringing.dispatcher.depth(QUEUE) == 5
    assert ringing.dispatcher.depth(model_queue("other")) == 0
    assert ringing.dispatcher.depth(CONTROL_QUEUE) == 0


def test_jobs_wait_in_the_queue_of_their_model_only(ringing: Fleet, celery: Celery) -> None:
    mine, other = a_job(ringing), a_job(ringing, model_id="other")

    assert taken(celery, model_queue("other")) == [other.id]
    assert taken(celery) == [mine.id]


def test_lost_bells_are_rung_again(ringing: Fleet, celery: Celery, broker_server: BrokerServer, clock: Clock) -> None:
    waiting = {a_job(ringing).id for _ in range(3)}
    broker_server.clear()
    clock.advance(6)

    sweep(ringing)

    assert set(taken(celery)) == waiting


def test_a_healthy_backlog_is_left_alone(ringing: Fleet, celery: Celery, clock: Clock) -> None:
    waiting = [a_job(ringing).id for _ in range(3)]

    for _ in range(5):
        clock.advance(60)
        sweep(ringing)

    assert taken(celery) == waiting


def test_only_the_missing_bells_are_rung(ringing: Fleet, celery: Celery, clock: Clock) -> None:
    for _ in range(3):
        a_job(ringing)
    with celery.connection_for_read() as connection, connection.SimpleQueue(QUEUE) as waiting:
        waiting.get_nowait().ack()
    clock.advance(6)

    sweep(ringing)
    sweep(ringing)

    assert ringing.dispatcher.depth(QUEUE) == 3


def test_a_fresh_job_is_not_rung_for_twice(ringing: Fleet, broker_server: BrokerServer, clock: Clock) -> None:
    a_job(ringing)
    broker_server.clear()
    clock.advance(4)

    sweep(ringing)

    assert ringing.dispatcher.depth(QUEUE) == 0


def test_ended_and_running_jobs_are_not_rung_for(ringing: Fleet, broker_server: BrokerServer, clock: Clock) -> None:
    drawn = a_running_job(ringing)
    cancelled = a_job(ringing)
    with ringing.transaction() as tx:
        jobs.cancel(tx, cancelled.id, ringing)
    broker_server.clear()
    clock.advance(6)
    a_machine(ringing, attempts=frozenset({(drawn.id, 1)}))

    sweep(ringing)

    assert ringing.dispatcher.depth(QUEUE) == 0


def test_the_jobs_of_a_silent_machine_go_back_and_its_late_result_is_refused(
    ringing: Fleet, celery: Celery, clock: Clock
) -> None:
    job = a_running_job(ringing)
    a_machine(ringing, "gpu-2", ready_for=[MODEL])
    taken(celery)
    let_pass(ringing, clock, 13)
    a_machine(ringing, "gpu-2", ready_for=[MODEL])

    sweep(ringing)

    assert the_job(ringing, job.id).state == JobState.QUEUED
    assert taken(celery) == [job.id]
    with pytest.raises(StaleAttempt):
        images.receive(ringing, an_upload(job))
    with pytest.raises(StaleAttempt):
        finish(ringing, job)
    assert claim(ringing, job.id, "gpu-2") is not None
    shown = images.receive(ringing, an_upload(job, attempt=2, machine_id="gpu-2", data=a_picture("blue")))
    done = finish(ringing, job, attempt=2, machine_id="gpu-2")
    assert (done.state, [image.id for image in jobs.shown_images(done)]) == (JobState.COMPLETED, [shown])
    assert [attempt.state for attempt in done.attempts] == [AttemptState.LOST, AttemptState.COMPLETED]


def test_a_machine_that_checks_in_in_time_keeps_its_jobs(ringing: Fleet, clock: Clock) -> None:
    job = a_running_job(ringing)

    for _ in range(10):
        clock.advance(3)
        a_machine(ringing, ready_for=[MODEL], attempts=frozenset({(job.id, 1)}))
        sweep(ringing)

    assert the_job(ringing, job.id).state == JobState.PROCESSING


def test_an_order_is_kept_without_a_broker_and_rung_for_when_it_is_back(
    fleet: Fleet, settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        broker = BrokerServer(Path(folder))
        celery = make_celery(replace(settings, broker_url=broker.url))
        ringing = replace(fleet, dispatcher=CeleryDispatcher(celery))
        caplog.set_level(logging.DEBUG)

        job = a_job(ringing)
        clock.advance(6)
        sweep(ringing)
        while_away = ringing.dispatcher.depth(QUEUE)
        broker.start()
        try:
            sweep(ringing)
            rung = taken(celery)
            broker.stop()
            clock.advance(6)
            late = a_job(ringing)
            broker.start()
            clock.advance(6)
            wait_until(lambda: ringing.dispatcher.depth(QUEUE) is not None, "the broker is back")
            sweep(ringing)
            both = taken(celery)
        finally:
            celery.close()
            broker.stop()

    assert while_away is None
    assert rung == [job.id]
    assert set(both) == {job.id, late.id}
    password = broker.url.partition("://:")[2].partition("@")[0]
    assert "did not take its message" in caplog.text
    assert password not in caplog.text


def test_sending_to_a_broker_that_is_away_never_raises(settings: Settings) -> None:
    celery = make_celery(replace(settings, broker_url=f"redis://127.0.0.1:{free_port()}/0"))

    sent = CeleryDispatcher(celery).send([Message(GENERATE, QUEUE, uuid4())])

    assert sent == 0
    celery.close()


def test_the_embedded_broker_shows_its_password_to_nobody() -> None:
    with running_broker() as broker:
        password = broker.url.partition("://:")[2].partition("@")[0]
        assert broker.process is not None
        own = " ".join(command_of(psutil.Process(broker.process.pid)))
        processes = [" ".join(command_of(process)) for process in psutil.process_iter()]

    assert password
    assert own in processes
    assert not [line for line in processes if password in line]


def test_models_of_a_fleet_do_not_block_each_other(ringing: Fleet, celery: Celery) -> None:
    a_model(ringing, "slow")
    slow = [a_job(ringing, model_id="slow").id for _ in range(50)]
    fast = a_job(ringing)

    assert taken(celery) == [fast.id]
    assert taken(celery, model_queue("slow")) == slow


def test_a_connection_that_was_closed_with_a_message_unsettled_can_be_closed_again(broker_url: str) -> None:
    celery = make_celery(Settings(broker_url=broker_url))
    connection = celery.connection_for_read()
    with connection.SimpleQueue("unsettled") as queue:
        queue.put("a bell")
        queue.get(timeout=WAIT_SECONDS)
        transport = connection.transport
        transport.client = None  # as where its process has noticed that the broker is away
        queue.channel._pool = queue.channel._async_pool = None

        with pytest.raises(connection.connection_errors, match="is closed"):
            queue.channel._connparams()
        connection.maybe_close_channel(queue.channel)
