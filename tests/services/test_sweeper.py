"""The sweeper: bells that got lost in the middle of a backlog, at a cost that does not grow with it."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery import Celery
from sqlalchemy import create_engine, func, select

from app.broker import CeleryDispatcher, make_celery
from app.core import bells
from app.core.dispatch import GENERATE, Message, model_queue
from app.core.fleet import Fleet, prepare_engine
from app.core.jobs import Terms
from app.core.lifecycle import JobState
from app.core.tables import IdempotencyKey, Job
from app.settings import Settings
from tasks.control.sweep import sweep
from tests.builders import MODEL, a_job, a_machine, a_model, claim, the_job
from tests.support.broker import BrokerServer
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.processes import free_port

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


def a_backlog(fleet: Fleet, count: int, **more: Any) -> Sequence[Job]:
    a_model(fleet)
    return [a_job(fleet, **more) for _ in range(count)]


def test_the_depths_of_many_queues_are_asked_in_one_round_trip(
    ringing: Fleet, broker_server: BrokerServer, celery: Celery
) -> None:
    names = [f"m-{number}" for number in range(200)]
    for number, name in enumerate(names[:5]):
        ringing.dispatcher.send([Message(GENERATE, model_queue(name), uuid4(), number)] * (number + 1))
    with celery.connection_for_write() as connection:
        connection.default_channel.client.ping()

    with redis.Redis.from_url(broker_server.url) as counting:
        before = counting.info("stats")["total_reads_processed"]
        depths = ringing.dispatcher.depths([model_queue(name) for name in names])
        after = counting.info("stats")["total_reads_processed"]

    assert [depths[model_queue(name)] for name in names] == [1, 2, 3, 4, 5] + [0] * 195
    # 800 lists: what was read beside their one pipeline is the connection's own greeting.
    assert after - before < 30


def test_after_a_flush_in_the_middle_of_a_backlog_all_of_it_is_rung_for(
    ringing: Fleet, broker_server: BrokerServer, clock: Clock
) -> None:
    a_machine(ringing, ready_for=[MODEL])
    waiting = a_backlog(ringing, 30)
    for job in waiting[:10]:
        assert claim(ringing, job.id) is not None
    broker_server.clear()
    clock.advance(6)

    sweep(ringing)
    first = ringing.dispatcher.depth(QUEUE)
    clock.advance(2)
    sweep(ringing)

    assert first == 20
    assert ringing.dispatcher.depth(QUEUE) == 20


def test_jobs_that_were_rung_for_just_now_are_given_some_seconds(
    ringing: Fleet, broker_server: BrokerServer, clock: Clock
) -> None:
    a_backlog(ringing, 3)
    broker_server.clear()

    depths = []
    for _ in range(4):
        clock.advance(2)
        sweep(ringing)
        depths.append(ringing.dispatcher.depth(QUEUE))

    assert depths == [0, 0, 3, 3]


def test_a_long_backlog_is_given_plenty_of_bells_and_no_flood(
    fleet: Fleet, dispatcher: RecordingDispatcher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bells, "PLENTY", 12)
    monkeypatch.setattr(bells, "MOST_RUNG_AT_ONCE", 5)
    a_backlog(fleet, 20)
    dispatcher.lose_everything()

    rung = []
    for _ in range(5):
        clock.advance(6)
        rung.append(bells.ring_forgotten(fleet))

    assert rung == [5, 5, 2, 0, 0]


def test_a_broker_that_is_away_is_not_taken_for_an_empty_one(
    fleet: Fleet, dispatcher: RecordingDispatcher, clock: Clock
) -> None:
    (job,) = a_backlog(fleet, 1)
    dispatcher.is_away = True
    clock.advance(60)

    sweep(fleet)

    assert the_job(fleet, job.id).rung_at == job.rung_at


def test_jobs_that_were_not_begun_in_time_are_cancelled_and_say_so(fleet: Fleet, clock: Clock) -> None:
    a_machine(fleet, ready_for=[MODEL])
    due = clock.now + timedelta(seconds=30)
    begun, *late = a_backlog(fleet, 3, terms=Terms(deadline_at=due))
    assert claim(fleet, begun.id) is not None
    in_time = a_job(fleet, terms=Terms(deadline_at=due + timedelta(hours=1)))
    clock.advance(31)

    sweep(fleet)

    running = [job for job in (begun, *late) if the_job(fleet, job.id).state == JobState.PROCESSING]
    ended = [the_job(fleet, job.id) for job in (begun, *late) if job not in running]
    assert len(running) == 1
    assert {(job.state, job.error_code) for job in ended} == {(JobState.CANCELLED, "deadline_passed")}
    assert all(due.isoformat(timespec="seconds") in str(job.error) for job in ended)
    assert the_job(fleet, in_time.id).state == JobState.QUEUED


def test_idempotency_keys_are_forgotten_after_a_day(fleet: Fleet, clock: Clock) -> None:
    with fleet.transaction() as tx:
        for hours in (1, 23, 25, 48):
            made = tx.now - timedelta(hours=hours)
            tx.session.add(IdempotencyKey(owner="", key=str(hours), fingerprint="0" * 64, job_ids=[], created_at=made))

    sweep(fleet)

    with fleet.reading() as session:
        assert set(session.scalars(select(IdempotencyKey.key))) == {"1", "23"}
        assert session.scalar(select(func.count()).select_from(Job)) == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_is_being_restarted_costs_a_round_and_one_line(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    engine = prepare_engine(create_engine(f"postgresql+psycopg://fleet@127.0.0.1:{free_port()}/fleet"))

    sweep(replace(fleet, engine=engine))

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "Traceback" not in caplog.text
