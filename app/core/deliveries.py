"""Deliveries: giving an owed event to one sender at a time, and keeping what became of each try.

At least once: a sender that dies in the middle has perhaps delivered, and its event is sent again under the same id.
Of one job's events a later one makes void what still waits before it, and none is sent while an earlier one is on
its way: an ending is never overtaken by older news.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, select
from sqlalchemy.orm import Session, aliased, selectinload

from app.core import jobs
from app.core.dispatch import DELIVER, WEBHOOK_QUEUE, Message
from app.core.errors import DeliveryNotFound, DeliveryOwed
from app.core.fleet import Fleet, Transaction
from app.core.lifecycle import DeliveryState, move_to
from app.core.measures import WEBHOOK_DELIVERIES, WEBHOOK_TRIES
from app.core.tables import Delivery, DeliveryTry, Hook, Job

HOLD_SECONDS = 60.0
"""How long a sender may take before its event is given to another one: four times what sending takes at most, and
longer than the longest `WEBHOOK_ANSWER_SECONDS` lets it."""

MOST_TRIES = 12
LONGEST_WAIT = 7200.0
MOST_PATIENCE = 3600.0
"""Seconds; the longest wait that a receiver may ask for with `Retry-After`."""

BELLS_BY_HOST = 4
"""How many bells a round rings for one host: whoever hears one goes on until nothing is owed to that host."""

MOST_BELLS = 500
RETRIED = frozenset({408, 425, 429})
"""Statuses of the 400s that may pass: Request Timeout, Too Early, Too Many Requests."""

LOST = "the control worker ended in the middle of it; whether it arrived is not known"


@dataclass(frozen=True, slots=True)
class Parcel:
    """An event on its way: one try of one delivery."""

    delivery_id: UUID
    job_id: UUID
    number: int
    event: str
    body: dict[str, Any] = field(repr=False)
    sealed: str = field(repr=False)
    traceparent: str = ""
    """The trace of the request that ordered the job."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver made of a try."""

    at: datetime
    seconds: float
    status: int | None = None
    """None: there was no answer."""
    error: str | None = None
    retry_after: float | None = None
    """Seconds that the receiver asked for."""
    hopeless: bool = False
    """Trying again cannot help, whatever the status."""

    @property
    def is_success(self) -> bool:
        """Say whether it arrived: 2xx, and nothing else."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_final(self) -> bool:
        """Say whether trying again could not help: the receiver does not want it."""
        return self.hopeless or (self.status is not None and 400 <= self.status < 500 and self.status not in RETRIED)

    @property
    def outcome(self) -> str:
        """Say in a word how the try ended: `delivered`, `refused`, `failed`, or `no_answer`."""
        if self.is_success:
            return "delivered"
        return "refused" if self.is_final else "no_answer" if self.status is None else "failed"


def wait_before_next(first: float, failures: int, luck: float) -> float:
    """Return the seconds until the next try after so many failures.

    It triples from `first` seconds to two hours. `luck`, 0 to 1, moves it between half of that and all of it: receivers
    that were down together are not called together, and yet twelve tries cover more than four hours at the least
    (full jitter could draw them all at once).
    Source: "equal jitter" in https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """
    return min(first * 3.0 ** (failures - 1), LONGEST_WAIT) * (0.5 + luck / 2)


def take(tx: Transaction, host: str) -> Parcel | None:
    """Hold what is due to a host for one sender; None when nothing is due or all of it is being sent."""
    # The row of the hook is the lock of its job's events. Whoever waited for it looks anew: three looks are plenty.
    for _ in range(3):
        job_id = tx.session.scalar(
            select(Hook.job_id)
            .join(Delivery, Delivery.job_id == Hook.job_id)
            .where(Delivery.host == host, *_due(tx.now))
            .order_by(Delivery.next_try_at)
            .limit(1)
            .with_for_update(of=Hook, skip_locked=True),
        )
        if job_id is None:
            return None
        if (delivery := _next_of(tx, job_id)) is not None:
            return _hold(tx, delivery)
    return None


def _due(now: datetime) -> Sequence[ColumnElement[bool]]:
    on_its_way = aliased(Delivery)
    held = and_(
        on_its_way.job_id == Delivery.job_id,
        on_its_way.state == DeliveryState.OWED,
        on_its_way.held_until > now,
    )
    return (Delivery.state == DeliveryState.OWED, Delivery.next_try_at <= now, ~exists().where(held))


def _next_of(tx: Transaction, job_id: UUID) -> Delivery | None:
    """Choose what of a job's events can be sent now, and make void what came before it."""
    query = select(Delivery).where(Delivery.job_id == job_id, Delivery.state == DeliveryState.OWED)
    fresh = query.order_by(Delivery.position).execution_options(populate_existing=True)
    owed = tx.session.scalars(fresh).all()
    if not owed or any(each.held_until is not None and each.held_until > tx.now for each in owed):
        return None
    *earlier, newest = owed
    for each in earlier:
        _end(tx, each, DeliveryState.VOID, f"{newest.event!r} came later")
    if newest.held_until is not None:
        _note_lost(tx, newest)
    return newest if newest.state == DeliveryState.OWED and newest.next_try_at <= tx.now else None


def _note_lost(tx: Transaction, delivery: Delivery) -> None:
    """Write down the try of a sender that died; it counts, or an event that kills senders would do it for ever."""
    began = (delivery.held_until or tx.now) - timedelta(seconds=HOLD_SECONDS)
    _keep_try(tx.session, delivery.id, delivery.tried, Answer(began, HOLD_SECONDS, error=LOST))
    delivery.held_until = None
    delivery.failures += 1
    if delivery.failures >= MOST_TRIES:
        _end(tx, delivery, DeliveryState.GIVEN_UP, f"the last of {MOST_TRIES} tries: {LOST}")


def _hold(tx: Transaction, delivery: Delivery) -> Parcel:
    delivery.tried += 1
    delivery.held_until = tx.now + timedelta(seconds=HOLD_SECONDS)
    sealed = tx.session.get_one(Hook, delivery.job_id).sealed
    trace = tx.session.scalar(select(Job.traceparent).where(Job.id == delivery.job_id))
    return Parcel(delivery.id, delivery.job_id, delivery.tried, delivery.event, delivery.body, sealed, trace or "")


def record(tx: Transaction, parcel: Parcel, answer: Answer) -> DeliveryState | None:
    """Keep what became of a try, and settle what follows; returns the delivery's state, None when its job is gone.

    Of a sender that was given up for dead only the success counts: its failure is no longer its business.
    """
    tx.count(WEBHOOK_TRIES, answer.outcome)
    if tx.session.get(Hook, parcel.job_id, with_for_update=True) is None:
        return None
    delivery = tx.session.get_one(Delivery, parcel.delivery_id, populate_existing=True)
    _keep_try(tx.session, delivery.id, parcel.number, answer)
    if delivery.state != DeliveryState.OWED:
        return delivery.state
    if answer.is_success:
        _end(tx, delivery, DeliveryState.DELIVERED)
    elif delivery.tried == parcel.number:
        _settle_failure(tx, delivery, answer)
    return delivery.state


def _settle_failure(tx: Transaction, delivery: Delivery, answer: Answer) -> None:
    delivery.held_until = None
    delivery.failures += 1
    said = answer.error or f"the receiver answered {answer.status}"
    if answer.is_final:
        _end(tx, delivery, DeliveryState.GIVEN_UP, said)
    elif delivery.failures >= MOST_TRIES:
        _end(tx, delivery, DeliveryState.GIVEN_UP, f"the last of {MOST_TRIES} tries: {said}")
    elif later := _later_event(tx.session, delivery):
        _end(tx, delivery, DeliveryState.VOID, f"{later!r} came later")
    else:
        wait = wait_before_next(tx.limits.webhook_retry_seconds, delivery.failures, random.random())  # noqa: S311  # nothing to guess
        asked_for = min(answer.retry_after or 0.0, MOST_PATIENCE)
        delivery.next_try_at = tx.now + timedelta(seconds=max(wait, asked_for))


def _later_event(session: Session, delivery: Delivery) -> str | None:
    query = select(Delivery.event).where(Delivery.job_id == delivery.job_id, Delivery.position > delivery.position)
    owed = query.where(Delivery.state == DeliveryState.OWED)
    return session.scalar(owed.order_by(Delivery.position.desc()).limit(1))


def _keep_try(session: Session, delivery_id: UUID, number: int, answer: Answer) -> None:
    # Merged: a sender that was taken for dead tells later how its try really ended.
    session.merge(
        DeliveryTry(
            delivery_id=delivery_id,
            number=number,
            at=answer.at,
            seconds=round(answer.seconds, 3),
            status=answer.status,
            error=answer.error,
        ),
    )


def _end(tx: Transaction, delivery: Delivery, state: DeliveryState, reason: str | None = None) -> None:
    move_to(delivery, state)
    delivery.ended_at = tx.now
    delivery.held_until = None
    delivery.reason = reason
    tx.count(WEBHOOK_DELIVERIES, state)


def of_job(session: Session, job_id: UUID) -> tuple[Hook | None, Sequence[Delivery]]:
    """Return a job's hook, and all that was ever owed to it with every try; raises JobNotFound."""
    jobs.state_of(session, job_id)
    query = select(Delivery).options(selectinload(Delivery.tries)).where(Delivery.job_id == job_id)
    return session.get(Hook, job_id), session.scalars(query.order_by(Delivery.position)).all()


def redeliver(tx: Transaction, job_id: UUID, delivery_id: UUID) -> Delivery:
    """Owe an event once more, with all its tries and under its old id.

    Raises JobNotFound, DeliveryNotFound, DeliveryOwed while it or a later one is owed, and IllegalMove for a void one.
    """
    jobs.state_of(tx.session, job_id)
    tx.session.get(Hook, job_id, with_for_update=True)
    delivery = tx.session.get(Delivery, delivery_id, with_for_update=True, populate_existing=True)
    if delivery is None or delivery.job_id != job_id:
        raise DeliveryNotFound(f"job {job_id} has no delivery {delivery_id}")
    if delivery.state == DeliveryState.OWED:
        raise DeliveryOwed(f"delivery {delivery_id} is owed already; its next try is at {delivery.next_try_at}")
    if later := _later_event(tx.session, delivery):
        raise DeliveryOwed(f"{later!r}, which came later, is owed; it must not be followed by older news")
    move_to(delivery, DeliveryState.OWED)
    delivery.failures = 0
    delivery.next_try_at = tx.now
    delivery.ended_at = delivery.reason = None
    tx.after_commit(Message(DELIVER, WEBHOOK_QUEUE, job_id))
    return delivery


def host_of(session: Session, job_id: UUID) -> str | None:
    """Return whom a job's hook reaches; None when it has none."""
    return session.scalar(select(Hook.host).where(Hook.job_id == job_id))


def ring_due(fleet: Fleet) -> int:
    """Ring for what is due, of each host for its oldest; returns how many bells were rung.

    Bells that wait already are counted off: senders that are busy must not find a heap of them afterwards.
    """
    order = func.row_number().over(partition_by=Delivery.host, order_by=Delivery.next_try_at).label("place")
    due = select(Delivery.job_id, order).where(*_due(fleet.clock())).subquery()
    with fleet.reading() as session:
        found = session.scalars(select(due.c.job_id).where(due.c.place <= BELLS_BY_HOST).limit(MOST_BELLS)).all()
    if not found:
        return 0
    waiting = fleet.dispatcher.depth(WEBHOOK_QUEUE)
    if waiting is None:
        return 0
    return fleet.dispatcher.send([Message(DELIVER, WEBHOOK_QUEUE, job_id) for job_id in found[waiting:]])
