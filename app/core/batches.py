"""Batches: jobs that wait for the same, and that a machine draws in one pass of its pipeline.

A batch is made at the claim, out of what waits at that moment: nobody waits for one to fill. Each job of it is an
attempt of its own, and ends on its own. Only first tries are batched: a job that was lost or has failed is drawn alone,
so that one which kills its machine takes the others with it once at most.
"""

from collections.abc import Iterator, Mapping
from uuid import UUID

from sqlalchemy import select

from app.core import alike, attempts, turns
from app.core.fleet import Transaction
from app.core.lifecycle import AttemptState, JobState
from app.core.measures import BATCHED_JOBS
from app.core.spec import GenerationSpec
from app.core.tables import Attempt, Job, Machine
from app.core.turns import Line

LOOKED_AT = 16
"""How many jobs of an owner are looked at, the next ones: a claim costs the same however many wait."""

OWNERS_LOOKED_AT = 16

Candidate = tuple[str, UUID, int]
"""An owner, a job of theirs, and how many pictures it wants."""


def take_along(tx: Transaction, first: Attempt, together: Mapping[str, int]) -> list[Attempt]:
    """Give a machine, with the attempt it was just given, jobs that it can draw in the same pass.

    `together` says how many pictures the machine draws in one pass, by kind (`alike.kind_of`); a kind that is missing
    is drawn alone. Owners take turns, as far as they have such jobs among their next ones. Asked again for the same
    claim it gives the same attempts.
    """
    tx.session.flush()
    if again := _given_before(tx, first):
        return again
    job = attempts.job_of(tx.session, first)
    spec = GenerationSpec.from_json(job.spec)
    room = min(together.get(alike.kind_of(spec), 0), alike.MOST_TOGETHER) - spec.n
    key = alike.key_of(spec)
    if room < 1 or key is None or not _may_be_batched(job):
        return []
    machine = tx.session.get_one(Machine, first.machine_id)
    given, served = [], []
    for owner, job_id, pictures in _in_turns(tx, Line.of(job), key):
        if pictures > room or not _locked(tx, job_id):
            continue
        if (attempt := attempts.give(tx, job_id, machine, first.claim_id)) is None:
            continue
        given.append(attempt)
        served.append(owner)
        room -= pictures
        if room < 1:
            break
    turns.note_served(tx, job.model_id, served)
    for attempt in (first, *given) if given else ():
        attempt.together = len(given) + 1
    if given:
        tx.count(BATCHED_JOBS, more=len(given))
    return given


def _given_before(tx: Transaction, first: Attempt) -> list[Attempt]:
    if first.claim_id is None:
        return []
    query = select(Attempt).where(Attempt.machine_id == first.machine_id, Attempt.state == AttemptState.RUNNING)
    query = query.where(Attempt.claim_id == first.claim_id, Attempt.job_id != first.job_id).order_by(Attempt.job_id)
    found = tx.session.scalars(query.with_for_update(skip_locked=True)).all()
    for attempt in found:
        attempt.started_at = max(attempt.started_at, tx.now)
    return list(found)


def _may_be_batched(job: Job) -> bool:
    """Say whether a job may share a pass: on its first try, and not when its pixels are to be equal bit for bit."""
    return job.attempt <= 1 and not job.is_replay


def _in_turns(tx: Transaction, line: Line, key: str) -> Iterator[Candidate]:
    """Go through the next jobs of a line that have a key, one of each owner in turn."""
    owners = turns.order_of(tx.session, line)[:OWNERS_LOOKED_AT]
    waiting = [_next_of(tx, line, owner, key) for owner in owners]
    while waiting:
        for each in list(waiting):
            found = next(each, None)
            if found is None:
                waiting.remove(each)
            else:
                yield found


def _next_of(tx: Transaction, line: Line, owner: str, key: str) -> Iterator[Candidate]:
    query = (
        # Those that may not be had are sorted out here: as a condition it could lead through the whole queue.
        select(Job.id, Job.spec, Job.is_replay, Job.attempt, turns.is_due(tx.now).label("is_due"))
        .where(Job.state == JobState.QUEUED, Job.queue == line.queue, Job.owner == owner)
        .order_by(*turns.AS_INDEXED[1:])
        .limit(LOOKED_AT)
    )
    for row in tx.session.execute(query).all():
        if not row.is_due or row.is_replay or row.attempt:
            continue
        spec = GenerationSpec.from_json(row.spec)
        if alike.key_of(spec) == key:
            yield owner, row.id, spec.n


def _locked(tx: Transaction, job_id: UUID) -> bool:
    """Lock a job that still waits; False where it does not, or somebody else holds it."""
    query = select(Job.id).where(Job.id == job_id, Job.state == JobState.QUEUED, Job.attempt == 0)
    return tx.session.scalar(query.with_for_update(skip_locked=True)) is not None
