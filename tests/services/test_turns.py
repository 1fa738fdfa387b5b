"""Who gets the next job: owners take turns, then priority, then age; at the same cost however many jobs wait."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session

from app.core import alike, attempts, batches, bells, turns
from app.core.dispatch import GENERATE, Message, model_queue
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.leaps import read_by_index
from app.core.spec import GenerationSpec
from app.core.tables import Job
from tests.builders import MACHINE, MODEL, a_job, a_machine, a_model, claim, the_job
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.processes import WAIT_SECONDS

BACKLOG = 30_000
"""Far more than what may be read of it; `make bench-dispatch` has 100,000."""
OWNERS = 20
MACHINES = 8


@pytest.fixture(autouse=True)
def machine(fleet: Fleet) -> str:
    """Have a machine that is ready."""
    a_model(fleet)
    return a_machine(fleet, ready_for=[MODEL])


def of(owner: str, priority: int = 0, **more: Any) -> Terms:
    return Terms(owner=owner, priority=priority, **more)


def served(fleet: Fleet, job: Job, count: int) -> list[UUID]:
    """Follow the bell of one job several times; returns what was given."""
    given = [claim(fleet, job.id) for _ in range(count)]
    return [attempt.job_id for attempt in given if attempt]


def test_the_best_job_of_the_queue_is_given_whatever_bell_was_heard(fleet: Fleet, clock: Clock) -> None:
    waiting = []
    for priority in (0, 9, 3, 0, 9):
        waiting.append(a_job(fleet, priority=priority).id)
        clock.advance(1)
    bell = the_job(fleet, waiting[3])

    given = served(fleet, bell, 5)

    assert given == [waiting[k] for k in (1, 4, 2, 0, 3)]
    assert claim(fleet, bell.id) is None


def test_one_owners_many_jobs_do_not_stand_before_the_single_job_of_another(fleet: Fleet) -> None:
    many = [a_job(fleet, terms=of("many", priority=9)) for _ in range(20)]
    single = a_job(fleet, terms=of("single"))

    given = served(fleet, many[0], 2)

    assert single.id in given


def test_owners_take_turns_as_long_as_they_wait(fleet: Fleet) -> None:
    owners = {a_job(fleet, terms=of(owner)).id: owner for owner in "aaaaabbbcc"}

    given = "".join(owners[job_id] for job_id in served(fleet, the_job(fleet, next(iter(owners))), 10))

    assert [sorted(given[k : k + 3]) for k in (0, 3)] == [["a", "b", "c"]] * 2
    assert (sorted(given[6:8]), given[8:]) == (["a", "b"], "aa")


def test_who_was_served_last_waits_for_who_was_served_longer_ago(fleet: Fleet, clock: Clock) -> None:
    first = [a_job(fleet, terms=of(owner)) for owner in ("a", "b")]
    assert served(fleet, first[0], 2) == [job.id for job in first]
    clock.advance(60)

    a_new, b_new, c_new = (a_job(fleet, terms=of(owner)) for owner in ("a", "b", "c"))

    assert served(fleet, a_new, 3) == [c_new.id, a_new.id, b_new.id]


def test_models_have_turns_of_their_own(fleet: Fleet) -> None:
    a_job(fleet, model_id="other", terms=of("a"))
    here = a_job(fleet, terms=of("b"))

    given = served(fleet, here, 2)

    assert given == [here.id]


def test_a_job_whose_time_has_not_come_or_has_passed_is_passed_over(fleet: Fleet, clock: Clock) -> None:
    early, late, now = (a_job(fleet, priority=priority) for priority in (9, 8, 0))
    with fleet.transaction() as tx:
        tx.session.get_one(Job, early.id).next_attempt_at = clock.now + timedelta(seconds=30)
        tx.session.get_one(Job, late.id).deadline_at = clock.now

    given = served(fleet, early, 2)
    clock.advance(30)

    assert given == [now.id]
    assert served(fleet, early, 2) == [early.id]


def test_a_job_that_had_begun_in_time_may_be_tried_again_after_its_deadline(fleet: Fleet, clock: Clock) -> None:
    job = a_job(fleet, terms=of("", deadline_at=clock.now + timedelta(seconds=5)))
    assert claim(fleet, job.id) is not None
    clock.advance(10)
    a_machine(fleet, boot_id="boot-2", ready_for=[MODEL])

    again = claim(fleet, job.id, boot_id="boot-2")

    assert again is not None
    assert again.number == 2


def test_many_machines_that_claim_at_once_are_all_given_different_jobs(fleet: Fleet, engine: Engine) -> None:
    rounds = 40 if engine.dialect.name == "postgresql" else 5
    names = [a_machine(fleet, f"gpu-{number}", ready_for=[MODEL]) for number in range(MACHINES)]
    waiting = [a_job(fleet, terms=of(owner)) for owner in "abcd" * (rounds * MACHINES // 4)]

    with ThreadPoolExecutor(MACHINES) as crowd:
        given = list(crowd.map(lambda k: claim(fleet, waiting[k].id, names[k % MACHINES]), range(len(waiting))))

    taken = [attempt.job_id for attempt in given if attempt]
    assert sorted(taken) == sorted(job.id for job in waiting)


# On SQLite there is one writer at a time: whoever comes second waits for the first, whatever it wants.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("owners", ["a", "ab"])
def test_a_claim_does_not_wait_for_what_others_have_locked(fleet: Fleet, owners: str) -> None:
    a_machine(fleet, "gpu-2", ready_for=[MODEL])
    owner_of = {a_job(fleet, terms=of(owner)).id: owner for owner in owners * 2}
    bell = next(iter(owner_of))

    with ThreadPoolExecutor(1) as other, fleet.transaction() as tx:
        mine = attempts.claim(tx, bell, MACHINE, "boot-1").job_id
        tx.session.flush()
        theirs = other.submit(claim, fleet, bell, "gpu-2").result(timeout=WAIT_SECONDS)

    assert theirs is not None
    assert mine != theirs.job_id
    assert {owner_of[mine], owner_of[theirs.job_id]} == set(owners)


@contextmanager
def statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """Write down every statement and its values."""
    said: list[tuple[str, Any]] = []

    def note(_c: Any, _u: Any, statement: str, values: Any, _x: Any, _m: Any) -> None:
        said.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        event.remove(engine, "before_cursor_execute", note)


def fill(fleet: Fleet, count: int, owners: int = OWNERS) -> None:
    """Let many jobs wait, as many requests would have left them."""
    a_job(fleet, terms=of("owner-0"))
    with fleet.transaction() as tx:
        for k in range(owners):
            turns.enter(tx, MODEL, f"owner-{k}")
    copied = "model_id, queue, state, spec, rank, priority, dialect, attempt, max_attempts, created_at, rung_at"
    if fleet.engine.dialect.name == "postgresql":
        fresh, number, series = "gen_random_uuid()", "k", f"generate_series(1, {count}) AS s(k)"
        moment = "queued_at + k * interval '1 millisecond'"
    else:
        fresh, number = "lower(hex(randomblob(16)))", "k"
        series = f"(WITH RECURSIVE s(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM s WHERE k < {count}) SELECT k FROM s)"
        moment = "strftime('%Y-%m-%d %H:%M:%f', queued_at, '+' || (k / 1000.0) || ' seconds')"
    with fleet.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(
            text(
                f"INSERT INTO jobs (id, owner, queued_at, {copied}) "  # words of this file
                f"SELECT {fresh}, 'owner-' || ({number} % {owners}), {moment}, {copied} FROM jobs, {series}"
            )
        )


def plans(engine: Engine, said: list[tuple[str, Any]]) -> list[str]:
    """Let the database explain how it answered those of the statements that look for jobs."""
    how = {"postgresql": "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)", "sqlite": "EXPLAIN QUERY PLAN"}[engine.dialect.name]
    looking = [(statement, values) for statement, values in said if "FROM jobs" in statement]
    with Session(engine) as session:
        read_by_index(session)
        connection = session.connection()
        found = [connection.exec_driver_sql(f"{how} {statement}", values).all() for statement, values in looking]
    return [json.dumps([column for row in rows for column in row]) for rows in found]


def lessons(engine: Engine) -> Iterator[str]:
    """Let PostgreSQL learn more and more about the queue, as autovacuum does at any moment of its own."""
    yield "nothing"
    if engine.dialect.name == "postgresql":
        for lesson in ("ANALYZE jobs", "VACUUM ANALYZE jobs"):
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(lesson)
            yield lesson


def touched(plan: str) -> int:
    """Return how many pages PostgreSQL has touched for a plan."""
    top = json.loads(plan)[0][0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


def test_a_claim_costs_the_same_however_many_jobs_and_owners_wait(fleet: Fleet) -> None:
    if fleet.engine.dialect.name == "postgresql":
        with fleet.engine.begin() as connection:  # the worst case: it believes that nothing waits
            connection.exec_driver_sql("ANALYZE jobs")
    fill(fleet, BACKLOG)
    with fleet.reading() as session:
        bell = session.scalars(select(Job).limit(1)).one()
    given = Counter[str]()

    with statements(fleet.engine) as said:
        for _ in range(2 * OWNERS):
            attempt = claim(fleet, bell.id)
            assert attempt is not None
            given[the_job(fleet, attempt.job_id).owner] += 1

    with statements(fleet.engine) as said_for_a_batch, fleet.transaction() as tx:
        first = attempts.claim(tx, bell.id, MACHINE, "boot-1")
        assert len(batches.take_along(tx, first, {alike.kind_of(GenerationSpec.from_json(bell.spec)): 4})) == 3

    assert set(given.values()) == {2}
    looking = [each for each in said if "leaps" in each[0] or "LIMIT" in each[0]][:10]
    looking += [each for each in said_for_a_batch if "leaps" in each[0] or "LIMIT" in each[0]]
    for lesson in lessons(fleet.engine):
        for plan in plans(fleet.engine, looking):
            assert "ix_jobs_waiting" in plan, lesson
            if fleet.engine.dialect.name == "postgresql":
                assert touched(plan) < 500, (lesson, plan)
            else:
                assert "SCAN jobs" not in plan, plan
                assert "TEMP B-TREE" not in plan, plan


def test_a_round_of_the_sweeper_costs_the_same_however_many_jobs_wait(
    fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    fill(fleet, BACKLOG)
    a_job(fleet, model_id="other")
    dispatcher.waiting += [Message(GENERATE, model_queue(MODEL), uuid4())] * BACKLOG

    with statements(fleet.engine) as said:
        rung = bells.ring_forgotten(fleet)

    assert rung == 0
    for lesson in lessons(fleet.engine):
        (plan,) = plans(fleet.engine, said)
        if fleet.engine.dialect.name == "postgresql":
            # Of as many jobs as it counts each may lie on a page of its own.
            assert touched(plan) < 1.2 * bells.PLENTY, (lesson, plan)
        else:
            assert "SCAN jobs" not in plan, plan
            assert "TEMP B-TREE" not in plan, plan
