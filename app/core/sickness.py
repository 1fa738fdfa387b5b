"""Sickness: machines that fail what others finish, and two hosts that use one machine's id.

A job that fails says little: the order may be at fault. A job that one machine failed and another one then finished
says that the first machine is at fault. Two of them within an hour, with nothing completed in between, and it is given
no more jobs until it is started anew or an operator says so.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func, select

from app.core.fleet import Transaction
from app.core.lifecycle import AttemptState, JobState
from app.core.tables import Attempt, Job, Machine

log = logging.getLogger(__name__)

STRIKES = 2
"""How many jobs that others finished make a machine sick: one could be chance."""

STRIKE_SECONDS = 3600.0
"""For how long a failure counts."""

LONGEST_REASON = 300
"""Characters of an error that are repeated where several are named."""

TWIN_SECONDS = 60.0
"""How long the machine of an id that two processes used in turns is left alone after the last time."""


def judge_those_who_failed(tx: Transaction, job: Job) -> None:
    """Hold a job that was just completed against the machines that had failed it."""
    if job.attempt == 1:
        return
    failed = select(Attempt.machine_id).where(Attempt.job_id == job.id, Attempt.state == AttemptState.ERROR).distinct()
    for machine_id in tx.session.scalars(failed.order_by(Attempt.machine_id)).all():
        if machine_id != job.machine_id:
            _judge(tx, machine_id)


def _judge(tx: Transaction, machine_id: str) -> None:
    # Locked before its failures are counted: of two jobs that end at once, the later one sees both.
    machine = tx.session.get(Machine, machine_id, with_for_update=True, populate_existing=True)
    if machine is None or machine.sick:
        return
    strikes = _strikes(tx, machine)
    if len(strikes) < STRIKES:
        return
    names = "; ".join(
        f"job {attempt.job_id} ({attempt.error_code}: {shorten(attempt.error)}), finished by {job.machine_id}"
        for attempt, job in strikes
    )
    machine.sick = f"machine {machine_id!r} is taken for sick, it failed what others finished: {names}"
    log.error("%s; it gets no more jobs until it is started anew or undrained", machine.sick)


def _strikes(tx: Transaction, machine: Machine) -> Sequence[tuple[Attempt, Job]]:
    """Find what the machine failed since it last completed anything, and others finished; one failure a job."""
    mine = Attempt.machine_id == machine.id
    completed = select(func.max(Attempt.ended_at)).where(mine, Attempt.state == AttemptState.COMPLETED)
    since = max(
        moment
        for moment in (
            tx.now - timedelta(seconds=STRIKE_SECONDS),
            tx.session.scalar(completed),
            machine.well_since,
        )
        if moment is not None
    )
    query = (
        select(Attempt, Job)
        .join(Job, Job.id == Attempt.job_id)
        .where(mine, Attempt.state == AttemptState.ERROR, Attempt.ended_at >= since)
        .where(Job.state == JobState.COMPLETED, Job.machine_id != machine.id)
        .order_by(Attempt.ended_at, Attempt.job_id)
    )
    return list({job.id: (attempt, job) for attempt, job in tx.session.execute(query)}.values())


def note_boot(tx: Transaction, machine: Machine, boot_id: str) -> None:
    """Note which process speaks for a machine: a new one is well, and one that comes back has a twin."""
    if machine.boot_id == boot_id:
        if machine.twin_seen_at and machine.twin_seen_at < tx.now - timedelta(seconds=TWIN_SECONDS):
            forgive(tx, machine)
        return
    came_back = machine.previous_boot_id == boot_id
    machine.previous_boot_id, machine.boot_id = machine.boot_id, boot_id
    forgive(tx, machine)
    if came_back:
        machine.twin_seen_at = tx.now
        machine.sick = (
            f"two processes check in as machine {machine.id!r} in turns (boots {machine.previous_boot_id} and "
            f"{boot_id}): give each host a MACHINE_ID of its own"
        )
        log.error("%s; none of them gets jobs until one has been quiet for %g s", machine.sick, TWIN_SECONDS)


def shorten(text: str | None) -> str:
    """Bring an error to the length of a sentence; the whole of it stands with its attempt."""
    words = text or "no reason was given"
    return words if len(words) <= LONGEST_REASON else words[: LONGEST_REASON - 1] + "…"


def forgive(tx: Transaction, machine: Machine) -> None:
    """Let a machine be well, whatever it did before."""
    machine.sick = None
    machine.twin_seen_at = None
    machine.well_since = tx.now
