"""Replays: a completed job drawn once more, to be held against the first time.

A replay has the very same order, seeds and all, and a machine of the same kind of device is asked first: there the
pixels should be equal bit for bit. Elsewhere they are close, and the receipts say what was different.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from app.core import jobs, machines
from app.core.dispatch import GENERATE, Message, machine_queue
from app.core.errors import JobNotFound, NotReplayable
from app.core.fleet import Transaction
from app.core.jobs import PLAIN, Terms
from app.core.lifecycle import HoldingState, JobState
from app.core.spec import GenerationSpec
from app.core.tables import Attempt, Holding, Image, Job, Machine

SAME_FOR_ALL = ("format", "seed", "pictures")
"""What of a receipt follows from the order, or is about the receipt itself."""

SEAT = ("together", "row", "left")
"""What a receipt says of where in its pass a picture lay; see docs/drivers.md, "The replay receipt"."""

LONGEST_RECEIPT = 256 * 1024
"""Characters; a model of a hundred files has some twenty thousand."""


def order(tx: Transaction, job_id: UUID, terms: Terms = PLAIN) -> Job:
    """Order the pictures of a completed job once more, seeds and all, to be held against them.

    Raises JobNotFound, NotReplayable, and what `jobs.submit` raises.
    """
    origin = jobs.get(tx.session, job_id)
    if origin.state != JobState.COMPLETED:
        raise NotReplayable(
            f"job {job_id} is {origin.state}; only what was drawn can be drawn again and be held against it",
            state=str(origin.state),
        )
    priority = origin.priority if terms.priority is None else terms.priority
    terms = replace(terms, origin_id=origin.id, is_replay=True, priority=priority)
    job = jobs.submit(tx, GenerationSpec.from_json(origin.spec), terms)
    if machine_id := _like_the_first(tx, origin):
        # The bell in the model's queue may be heard by another kind of machine, which leaves the job for this one.
        tx.after_commit(Message(GENERATE, machine_queue(machine_id), job.id, job.priority))
    return job


def _like_the_first(tx: Transaction, origin: Job) -> str | None:
    """Name an able machine with the kind of device that drew the job, best the same one."""
    first = tx.session.get(Attempt, (origin.id, origin.attempt))
    if first is None or not first.device:
        return None
    is_ready = exists().where(
        Holding.machine_id == Machine.id, Holding.model_id == origin.model_id, Holding.state == HoldingState.READY
    )
    query = (
        select(Machine.id)
        .where(Machine.device["name"].as_string() == first.device, is_ready, machines.takes_jobs(tx.limits, tx.now))
        .order_by(Machine.id != first.machine_id, Machine.id)
        .limit(1)
    )
    return tx.session.scalar(query)


def keep_receipts(session: Session, attempt: Attempt, receipts: Sequence[Mapping[str, Any]]) -> None:
    """Put what a machine says of how each picture was drawn beside the pictures; what is far too long is let be."""
    if not receipts:
        return
    query = select(Image).where(Image.job_id == attempt.job_id, Image.attempt == attempt.number)
    for image in session.scalars(query):
        receipt = dict(receipts[image.position]) if image.position < len(receipts) else None
        if receipt and len(json.dumps(receipt)) <= LONGEST_RECEIPT:
            image.receipt = receipt


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and its replay."""

    position: int
    first: Image | None
    """None: the job it replays has no such picture any more."""
    again: Image

    @property
    def differs(self) -> dict[str, list[Any]]:
        """Return what is different in their receipts, by name: what it was, and what it is now."""
        before = dict(_plain((self.first.receipt if self.first else None) or {}))
        now = dict(_plain(self.again.receipt or {}))
        names = [name for name in (before | now) if before.get(name) != now.get(name)]
        return {name: [before.get(name), now.get(name)] for name in sorted(names)}


def pairs(session: Session, job: Job) -> list[Pair]:
    """Return the pictures of a completed replay beside those that it replays."""
    first = {image.position: image for image in _first_images(session, job)}
    return [Pair(image.position, first.get(image.position), image) for image in jobs.shown_images(job)]


def seats(session: Session, job: Job) -> list[dict[str, Any]]:
    """Return where each picture that a replay draws again lay in its pass; empty where that is not known of all.

    Sums are made in another order in a pass of another width: in the same seats pictures are equal bit for bit.
    """
    if not job.is_replay:
        return []
    first = _first_images(session, job)
    receipts = [image.receipt or {} for image in first]
    is_whole = [image.position for image in first] == list(range(GenerationSpec.from_json(job.spec).n))
    if not is_whole or not all("row" in receipt for receipt in receipts):
        return []
    return [{name: receipt[name] for name in SEAT if name in receipt} for receipt in receipts]


def _first_images(session: Session, job: Job) -> list[Image]:
    """Return the pictures that a replay draws again, as far as they are still there."""
    origin = session.get(Job, job.origin_id) if job.origin_id is not None else None
    return [] if origin is None else sorted(jobs.shown_images(origin), key=lambda image: image.position)


def keep_comparison(tx: Transaction, job_id: UUID, comparison: Mapping[str, Any]) -> None:
    """Keep what comparing has found: pictures do not change any more."""
    tx.session.execute(update(Job).where(Job.id == job_id).values(comparison=dict(comparison)))


def require_replay(job: Job) -> None:
    """Raise JobNotFound for a job that replays none."""
    if not job.is_replay:
        raise JobNotFound(
            f"job {job.id} replays no other one; POST /v1/jobs/{job.id}/replay orders its replay", job_id=str(job.id)
        )


def _plain(receipt: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return a receipt as names and plain values; files by their model and path."""
    for name, value in receipt.items():
        if not prefix and name in SAME_FOR_ALL:
            continue
        if name == "files" and not prefix and isinstance(value, list):
            files = [file for file in value if isinstance(file, Mapping)]
            yield from ((f"files.{file.get('model_id')}/{file.get('path')}", file.get("hash")) for file in files)
        elif isinstance(value, Mapping):
            yield from _plain(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
