"""Jobs that were left behind, and the same request that takes them up."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from sqlalchemy import func, select

from app.core import idempotency, jobs, left_behind
from app.core.fleet import Fleet
from app.core.tables import IdempotencyKey
from tests.builders import a_completed_job, a_job
from tests.support.fakes import Clock

MINE, SAME = "me", "a" * 64


def leave(fleet: Fleet, job_id: UUID, owner: str = MINE, fingerprint: str = SAME) -> None:
    with fleet.transaction() as tx:
        left_behind.leave(tx, owner, fingerprint, job_id)


def take_up(fleet: Fleet, owner: str = MINE, fingerprint: str = SAME) -> UUID | None:
    with fleet.transaction() as tx:
        found = left_behind.take_up(tx, owner, fingerprint)
        return found.id if found else None


def test_each_job_that_was_left_is_taken_up_once_whatever_has_become_of_it(fleet: Fleet) -> None:
    left = [a_completed_job(fleet).id, a_job(fleet).id]
    for job_id in left:
        leave(fleet, job_id)

    assert [take_up(fleet) for _ in range(3)] == [*left, None]


def test_others_and_other_requests_find_nothing(fleet: Fleet) -> None:
    leave(fleet, a_job(fleet).id)

    assert take_up(fleet, owner="another") is None
    assert take_up(fleet, fingerprint="b" * 64) is None


def test_who_comes_late_orders_anew(fleet: Fleet, clock: Clock) -> None:
    first, second = a_job(fleet).id, a_job(fleet).id
    leave(fleet, first)
    clock.advance(left_behind.KEPT.total_seconds())

    assert take_up(fleet) is None
    leave(fleet, second)
    assert [take_up(fleet), take_up(fleet)] == [second, None]


def test_what_was_called_off_meanwhile_is_ordered_anew(fleet: Fleet) -> None:
    called_off, wanted = a_job(fleet).id, a_job(fleet).id
    for job_id in (called_off, wanted):
        leave(fleet, job_id)
    with fleet.transaction() as tx:
        jobs.cancel(tx, called_off, fleet)

    assert [take_up(fleet), take_up(fleet)] == [wanted, None]


def test_two_that_come_at_once_take_up_different_jobs(fleet: Fleet) -> None:
    left = {a_job(fleet).id for _ in range(4)}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda job_id: leave(fleet, job_id), left))
        taken = list(pool.map(lambda _: take_up(fleet), range(8)))

    assert {job_id for job_id in taken if job_id} == left
    assert taken.count(None) == 4


def test_what_nobody_comes_back_for_is_forgotten(fleet: Fleet, clock: Clock) -> None:
    leave(fleet, a_job(fleet).id)
    clock.advance(idempotency.KEPT.total_seconds())

    with fleet.transaction() as tx:
        idempotency.forget_old(tx)

    with fleet.reading() as session:
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 0
