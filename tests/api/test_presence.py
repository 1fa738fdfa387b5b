"""How often machines check in: those that draw every few seconds, idle ones less often where there are many."""

from dataclasses import replace
from datetime import timedelta

import pytest
from flask import Flask

from app.api.application import make_application
from app.core import attempts, census, check_in, listing, presence, roster
from app.core.check_in import Orders
from app.core.errors import MachineAlive
from app.core.fleet import Fleet, Limits
from app.core.lifecycle import AttemptState, JobState
from app.core.listing import MachineQuery
from app.core.presence import COUNTED_EVERY, LONGEST_PAUSE, Crowd
from app.core.protocol import CHECK_IN_SECONDS
from app.core.roster import Standing
from app.core.tables import Machine
from app.settings import Settings
from tests.builders import BOOT, MACHINE, MODEL, a_job, a_machine, a_report, a_running_job, claim, let_pass, the_job
from tests.support.fakes import Clock
from tests.support.web import Client, client_of

MANY = Limits(idle_check_ins_per_second=0.05)
"""One machine is a crowd: it may be quiet for 16 to 20 seconds."""


@pytest.fixture
def crowded(fleet: Fleet) -> Fleet:
    """Return a fleet that has more machines than it likes to hear of every few seconds."""
    return replace(fleet, limits=MANY)


def checks_in(fleet: Fleet, crowd: Crowd, machine_id: str = MACHINE, *, is_idle: bool = True, **more: object) -> Orders:
    """Let a machine that is ready check in."""
    with fleet.transaction() as tx:
        report = a_report(machine_id, ready_for=[MODEL], is_idle=is_idle, **more)
        return check_in.check_in(tx, report, crowd=crowd)


def standing(fleet: Fleet, clock: Clock) -> tuple[Standing, bool, bool, int]:
    """Say what a machine is to those who plan, where it is listed, alive and silent, and how many are counted alive."""
    with fleet.reading() as session:
        found = roster.read(session, fleet.limits, clock.now).posts[MACHINE].standing
        listed = [
            bool(listing.page_of_machines(session, MachineQuery(alive=alive), fleet.limits, clock.now).rows)
            for alive in (True, False)
        ]
        counted = census.take(session, fleet.limits, clock.now).machines["alive",]
    return found, listed[0], listed[1], counted


def row_of(fleet: Fleet) -> Machine:
    with fleet.reading() as session:
        return session.get_one(Machine, MACHINE)


def lose(fleet: Fleet) -> int:
    with fleet.transaction() as tx:
        return attempts.lose_of_silent_machines(tx)


def test_in_a_small_fleet_an_idle_machine_checks_in_as_often_as_any(fleet: Fleet) -> None:
    crowd = Crowd()
    told = [checks_in(fleet, crowd, f"other-{number}").pause_seconds for number in range(9)]

    assert set(told) == {CHECK_IN_SECONDS}
    assert checks_in(fleet, crowd).pause_seconds == CHECK_IN_SECONDS
    assert row_of(fleet).quiet_until is None


def test_the_pause_grows_with_the_fleet_and_has_an_end(fleet: Fleet, clock: Clock) -> None:
    ten_a_second = replace(fleet, limits=Limits(idle_check_ins_per_second=1.0))
    for number in range(10):
        a_machine(fleet, f"other-{number}")

    some = [checks_in(ten_a_second, Crowd()).pause_seconds for _ in range(20)]
    for number in range(10, 60):
        a_machine(fleet, f"other-{number}")
    many = [checks_in(ten_a_second, Crowd()).pause_seconds for _ in range(20)]

    assert all(0.8 * 10 <= pause <= 11 for pause in some)  # this machine is the eleventh
    assert all(0.8 * LONGEST_PAUSE <= pause <= LONGEST_PAUSE for pause in many)
    assert len(set(many)) > 10, "machines that were started together must not go on together"


def test_a_quiet_machine_is_alive_until_it_is_late(crowded: Fleet, clock: Clock) -> None:
    pause = checks_in(crowded, Crowd()).pause_seconds
    assert pause > MANY.silent_after

    clock.advance(pause + MANY.silent_after - 0.1)
    while_quiet = standing(crowded, clock)
    job = a_job(crowded)  # promises and turns count on it too
    promised = the_job(crowded, job.id)
    clock.advance(0.2)

    assert while_quiet == (Standing.WORKING, True, False, 1)
    assert promised.state == JobState.QUEUED
    assert standing(crowded, clock) == (Standing.SILENT, False, True, 0)


def test_whoever_has_something_to_do_is_heard_of_as_often_as_ever(crowded: Fleet, clock: Clock) -> None:
    crowd = Crowd()
    assert checks_in(crowded, crowd, is_idle=False).pause_seconds == CHECK_IN_SECONDS
    assert checks_in(crowded, crowd).pause_seconds > CHECK_IN_SECONDS

    # What it says next takes the permission back, whatever was told before.
    assert checks_in(crowded, crowd, is_idle=False).pause_seconds == CHECK_IN_SECONDS
    clock.advance(MANY.silent_after + 0.1)
    assert standing(crowded, clock) == (Standing.SILENT, False, True, 0)


def test_a_quiet_machine_that_claims_is_missed_as_soon_as_any(crowded: Fleet, clock: Clock) -> None:
    let_pass(crowded, clock, 20)
    job = a_job(crowded)
    checks_in(crowded, Crowd())
    let_pass(crowded, clock, 5)

    claim(crowded, job.id)
    let_pass(crowded, clock, MANY.silent_after - 1)
    early = lose(crowded)
    let_pass(crowded, clock, 2)

    assert (early, lose(crowded)) == (0, 1)
    found = the_job(crowded, job.id)
    assert (found.state, found.attempts[0].state) == (JobState.QUEUED, AttemptState.LOST)


def test_a_claim_that_crosses_a_check_in_leaves_no_permission(crowded: Fleet) -> None:
    a_running_job(crowded)  # the check-in was put together just before

    assert checks_in(crowded, Crowd()).pause_seconds == CHECK_IN_SECONDS
    assert row_of(crowded).quiet_until is None


def test_a_drained_machine_hears_soon_that_it_may_work_again(crowded: Fleet) -> None:
    checks_in(crowded, Crowd())
    with crowded.transaction() as tx:
        tx.session.get_one(Machine, MACHINE).drained = True

    assert checks_in(crowded, Crowd()).pause_seconds == CHECK_IN_SECONDS


def test_machines_are_counted_now_and_then(crowded: Fleet, clock: Clock) -> None:
    crowd = Crowd()
    first = checks_in(crowded, crowd).pause_seconds
    with crowded.transaction() as tx:
        tx.session.add_all(
            Machine(id=f"other-{k}", boot_id=BOOT, first_seen_at=clock.now, last_seen_at=clock.now) for k in range(50)
        )

    soon = checks_in(crowded, crowd).pause_seconds
    clock.advance(COUNTED_EVERY.total_seconds())
    later = checks_in(crowded, crowd).pause_seconds

    assert max(first, soon) <= 1 / MANY.idle_check_ins_per_second < 0.8 * LONGEST_PAUSE <= later


def test_the_last_sign_is_the_later_one(clock: Clock) -> None:
    later = clock.now + timedelta(seconds=1)
    assert presence.last_sign(clock.now, None) == clock.now
    assert presence.last_sign(clock.now, later) == presence.last_sign(later, clock.now) == later


@pytest.fixture
def application(crowded: Fleet, settings: Settings) -> Flask:
    """Return the web application of the crowded fleet."""
    return make_application(crowded, settings)


def test_a_machine_that_does_not_say_it_is_idle_is_not_kept_waiting(application: Flask) -> None:
    client = client_of(application)
    body = {"machine_id": MACHINE, "boot_id": BOOT, "holdings": [{"model_id": MODEL, "state": "ready"}]}

    of_an_older_version = client.post("/machines/v1/check-in", json=body).json
    idle = client.post("/machines/v1/check-in", json=body | {"idle": True}).json

    assert of_an_older_version["pause_seconds"] == CHECK_IN_SECONDS
    assert 16 <= idle["pause_seconds"] <= 20
    assert client.get("/v1/machines").json["machines"][0]["alive"] is True


def test_a_machine_that_is_gone_is_forgotten_and_one_that_may_be_there_is_not(
    fleet: Fleet, clock: Clock, client: Client
) -> None:
    let_pass(fleet, clock, 20)
    job = a_running_job(fleet)
    there = client.delete(f"/v1/machines/{MACHINE}")
    clock.advance(11)
    with_a_job = client.delete(f"/v1/machines/{MACHINE}")
    let_pass(fleet, clock, 20)
    lose(fleet)

    gone, again = (client.delete(f"/v1/machines/{MACHINE}") for _ in range(2))

    assert [answer.status_code for answer in (there, with_a_job, gone, again)] == [409, 409, 204, 404]
    assert [answer.json["error"]["code"] for answer in (there, with_a_job)] == ["machine_alive"] * 2
    assert client.get("/v1/machines").json["machines"] == []
    assert client.get(f"/v1/jobs/{job.id}").json["attempts"][0]["machine_id"] == MACHINE
    a_machine(fleet, ready_for=[MODEL])
    assert client.get(f"/v1/machines/{MACHINE}").json["alive"] is True


def test_a_quiet_machine_is_not_forgotten(crowded: Fleet, clock: Clock) -> None:
    checks_in(crowded, Crowd())
    clock.advance(MANY.silent_after + 5)

    with pytest.raises(MachineAlive), crowded.transaction() as tx:
        presence.forget(tx, tx.session.get_one(Machine, MACHINE))
