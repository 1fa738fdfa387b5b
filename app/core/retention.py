"""Retention: deleting what is older than somebody said it should be kept, a few at a time.

Each step deletes rows in one transaction that stays short, and dooms their files in the same one (`picture_files`).
It returns how many it took; fewer than MOST_AT_ONCE means that nothing is left to do. What is counted in /metrics is
written down elsewhere (`counters`), so nothing here makes a counter fall.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, delete, exists, literal, select, tuple_

from app.core import picture_files, presence
from app.core.fleet import Transaction
from app.core.inputs import NOTED_EVERY
from app.core.lifecycle import ENDED, DeliveryState, JobState
from app.core.spec import GenerationSpec
from app.core.tables import Caller, Delivery, Image, Input, Job, Machine, UtcDateTime

MOST_AT_ONCE = 200
"""How many rows one transaction deletes."""

MOST_LOOKED_AT = 2000
"""How many pictures one step looks at for leftovers: most are none."""

MOST_OLD_ORDERS = 5000
"""With more unended orders than that from before a moment nobody looks through them for pictures: all are kept."""


def forget_jobs(tx: Transaction, before: datetime) -> int:
    """Delete jobs that ended before a moment, oldest first, with all that belongs to them.

    A job with a favourite picture stays, and so does one whose webhook is still owed something.
    """
    favourite = exists().where(Image.job_id == Job.id, Image.is_favourite)
    owed = exists().where(Delivery.job_id == Job.id, Delivery.state == DeliveryState.OWED)
    old = (
        select(Job.id)
        # That it was created before follows from the rest, and is what the index knows.
        .where(Job.created_at < before, Job.state.in_(ENDED), Job.ended_at < before, ~favourite, ~owed)
        .order_by(Job.created_at, Job.id)
        .limit(MOST_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    found = tx.session.scalars(old).all()
    # Locked and looked at again: somebody may have made one a favourite at this moment.
    drawn = select(Image.job_id, Image.id, Image.key, Image.is_favourite).where(Image.job_id.in_(found))
    pictures = tx.session.execute(drawn.with_for_update()).all()
    spared = {picture.job_id for picture in pictures if picture.is_favourite}
    _doom(tx, [(picture.id, picture.key) for picture in pictures if picture.job_id not in spared])
    tx.session.execute(delete(Job).where(Job.id.in_(set(found) - spared)))  # the rest goes along by its foreign keys
    return len(found)


def forget_images(tx: Transaction, before: datetime) -> int:
    """Delete pictures that were drawn before a moment and are no favourites, oldest first; their jobs stay.

    The pictures of jobs that have not ended stay, whatever their age.
    """
    ended = exists().where(Job.id == Image.job_id, Job.state.in_(ENDED))
    old = (
        select(Image.id, Image.key)
        .where(Image.is_favourite.is_(False), Image.created_at < before, ended)
        .order_by(Image.created_at, Image.id)
        .limit(MOST_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    return _delete_images(tx, [(row.id, row.key) for row in tx.session.execute(old)])


def _delete_images(tx: Transaction, gone: Collection[tuple[UUID, str]]) -> int:
    _doom(tx, gone)
    tx.session.execute(delete(Image).where(Image.id.in_([image_id for image_id, _ in gone])))
    return len(gone)


def _doom(tx: Transaction, gone: Iterable[tuple[UUID, str]]) -> None:
    keys = [key for image_id, picture in gone for key in (picture, picture_files.thumbnail_key(image_id))]
    picture_files.doom(tx, keys)


def forget_deliveries(tx: Transaction, before: datetime) -> int:
    """Delete deliveries that ended before a moment, with their tries."""
    old = (
        select(Delivery.id)
        .where(Delivery.ended_at < before, Delivery.state != DeliveryState.OWED)
        .order_by(Delivery.ended_at)
        .limit(MOST_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    found = tx.session.scalars(old).all()
    tx.session.execute(delete(Delivery).where(Delivery.id.in_(found)))
    return len(found)


def forget_inputs(tx: Transaction, before: datetime) -> int:
    """Delete uploaded pictures that no job has asked for since a moment, and that no unended job needs."""
    old = select(Input.sha256, Input.key).where(Input.used_at < before)
    needed = _needed_inputs(tx, before) if tx.session.execute(old.limit(1)).first() else None
    if needed is None:
        return 0
    gone = old.where(Input.sha256.not_in(sorted(needed))).order_by(Input.used_at).limit(MOST_AT_ONCE)
    found = tx.session.execute(gone.with_for_update(skip_locked=True)).all()
    picture_files.doom(tx, [row.key for row in found])
    tx.session.execute(delete(Input).where(Input.sha256.in_([row.sha256 for row in found])))
    return len(found)


def _needed_inputs(tx: Transaction, before: datetime) -> set[str] | None:
    """Name the pictures that unended jobs from before a moment need; None where these jobs are too many to be read.

    Whatever was ordered later has noted that it uses its pictures, or finds that noted lately enough.
    """
    unended = (JobState.QUEUED, JobState.PROCESSING)
    orders = select(Job.spec).where(Job.state.in_(unended), Job.created_at < before + NOTED_EVERY)
    specs = tx.session.scalars(orders.limit(MOST_OLD_ORDERS + 1)).all()
    if len(specs) > MOST_OLD_ORDERS:
        return None
    return {picture for spec in specs for picture in GenerationSpec.from_json(spec).pictures}


def forget_visitors(tx: Transaction, before: datetime) -> int:
    """Delete what callers have set for themselves who have neither set nor ordered anything since a moment."""
    ordered = exists().where(Job.caller == Caller.id, Job.created_at >= before)
    old = select(Caller.id).where(Caller.updated_at < before, ~ordered).limit(MOST_AT_ONCE)
    found = tx.session.scalars(old.with_for_update(skip_locked=True)).all()
    tx.session.execute(delete(Caller).where(Caller.id.in_(found)))
    return len(found)


def forget_machines(tx: Transaction, before: datetime) -> int:
    """Delete machines that were last heard before a moment, with what they held; one that is drained is waited for."""
    gone = and_(presence.silent_since(before), Machine.drained.is_(False), ~presence.DRAWS, ~presence.HOLDS_ENGINE)
    old = select(Machine.id).where(gone).limit(MOST_AT_ONCE).with_for_update(skip_locked=True)
    found = tx.session.scalars(old).all()
    # Locked and looked at again: a claim changes nothing in the machine's row, and one may have come between.
    deletes = delete(Machine).where(Machine.id.in_(found), gone).execution_options(synchronize_session=False)
    tx.session.execute(deletes)
    return len(found)


@dataclass(frozen=True, slots=True)
class Place:
    """How far the pictures were looked through for leftovers."""

    created_at: datetime
    image_id: UUID


def forget_leftovers(tx: Transaction, before: datetime, after: Place | None) -> Place | None:
    """Delete pictures that an attempt delivered which did not complete its job, where the job has ended.

    Looks at some of the pictures behind a place, by their age, and returns how far it came; None: at the end.
    """
    query = select(Image.created_at, Image.id, Image.key, Image.attempt, Job.state, Job.attempt.label("newest"))
    query = query.join(Job, Job.id == Image.job_id).where(Image.created_at < before)
    if after is not None:
        here = tuple_(literal(after.created_at, UtcDateTime), literal(after.image_id, Image.id.type))
        query = query.where(tuple_(Image.created_at, Image.id) > here)
    rows = tx.session.execute(query.order_by(Image.created_at, Image.id).limit(MOST_LOOKED_AT)).all()
    hidden = [row for row in rows if row.state in ENDED and not _is_shown(row.state, row.attempt, row.newest)]
    _delete_images(tx, [(row.id, row.key) for row in hidden])
    return Place(rows[-1].created_at, rows[-1].id) if len(rows) == MOST_LOOKED_AT else None


def _is_shown(state: JobState, attempt: int, newest: int) -> bool:
    return state == JobState.COMPLETED and attempt == newest
