"""A machine of a large fleet: it is quiet while it is idle, and missed as soon as any when it is lost with a job."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, insert
from sqlalchemy.orm import Session

from app.core.fleet import Limits
from app.core.lifecycle import AttemptState
from app.core.tables import Attempt, Machine
from tests.support.processes import wait_until
from tests.support.system import System, borrowed

MODEL = "in-a-crowd"
QUIET = "machine-quiet"
OTHERS = 1000
SILENT_AFTER = timedelta(seconds=Limits().silent_after)
SOON = 3 * SILENT_AFTER
"""Quiet ones are missed later; in how many seconds others are is measured in tests/services/test_recovery.py."""


@pytest.fixture
def crowded(server: System) -> Iterator[System]:
    """Run one machine, in a fleet of a thousand others that have checked in."""
    ids = [f"other-{number}" for number in range(OTHERS)]
    seen = datetime.now(UTC) + timedelta(hours=1)  # as if they did so all the time
    rows = [{"id": each, "boot_id": "boot", "first_seen_at": seen, "last_seen_at": seen} for each in ids]
    with Session(server.engine) as session:
        session.execute(insert(Machine), rows)
        session.commit()
    with borrowed(server) as running:
        running.put_model(MODEL)
        running.add_machine(QUIET, MODEL)
        running.wait_for_machines(MODEL, 1)
        yield running
    with Session(server.engine) as session:
        session.execute(delete(Machine).where(Machine.id.in_(ids)))
        session.commit()


def the_machine(system: System) -> Machine:
    with Session(system.engine, expire_on_commit=False) as session:
        return session.get_one(Machine, QUIET)


def the_attempt(system: System, job_id: str) -> Attempt | None:
    with Session(system.engine, expire_on_commit=False) as session:
        return session.get(Attempt, (job_id, 1))


@pytest.mark.timeout(600)
def test_a_quiet_machine_is_there_and_is_missed_at_once_when_it_is_lost_with_a_job(crowded: System) -> None:
    wait_until(lambda: the_machine(crowded).quiet_until is not None, "it is told to be quiet")
    heard = the_machine(crowded).last_seen_at

    wait_until(lambda: datetime.now(UTC) > heard + SILENT_AFTER + timedelta(seconds=2), "others would be silent by now")
    still_there = crowded.ready_machines(MODEL)
    heard_since = the_machine(crowded).last_seen_at
    job_id = crowded.post("v1/jobs", {"model_id": MODEL, "prompt": "a red circle", "steps": 150, "n": 16})["job_id"]
    wait_until(lambda: crowded.get(f"v1/jobs/{job_id}")["progress"] > 0, "it is being drawn")
    crowded.parts[QUIET].kill()
    last_heard = the_machine(crowded)
    wait_until(lambda: (found := the_attempt(crowded, job_id)) and found.ended_at is not None, "the attempt is lost")

    attempt = the_attempt(crowded, job_id)
    assert (still_there, heard_since) == ([QUIET], heard)
    assert last_heard.quiet_until is None, "from its claim on it must be heard of as any machine that draws"
    assert attempt is not None
    assert attempt.state == AttemptState.LOST
    assert attempt.ended_at is not None
    assert SILENT_AFTER <= attempt.ended_at - last_heard.last_seen_at < SOON
