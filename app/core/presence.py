"""Presence: which machines are there, by when they were last heard, and how often they have to be heard.

A machine that draws checks in every few seconds, however large the fleet is: by that its jobs are missed in time when
it is lost. One that has nothing to do may be quiet for longer where there are many of them: else their check-ins cost
the server more than all jobs. Until the moment at which it was told to check in again it is not silent.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, and_, delete, exists, func, or_, select

from app.core.errors import MachineAlive, MachineNotFound
from app.core.fleet import Transaction
from app.core.lifecycle import AttemptState, EngineState
from app.core.protocol import CHECK_IN_SECONDS
from app.core.tables import Attempt, Engine, Machine

LONGEST_PAUSE = 30.0
"""Seconds; the server shows a machine that is lost while it is idle for so much longer as one that is there."""

COUNTED_EVERY = timedelta(seconds=10)
"""How long a count of the machines is good for."""

DRAWS = exists().where(Attempt.machine_id == Machine.id, Attempt.state == AttemptState.RUNNING)
"""Whether a job is a machine's, as far as the database knows: it must be taken back while the machine is known."""

HOLDS_ENGINE = exists().where(Engine.machine_id == Machine.id, Engine.state != EngineState.CLOSED)
"""Whether an engine is a machine's: it too is closed while the machine is known, and by nobody afterwards."""

Moment = datetime | BindParameter[datetime]


def heard_since(moment: Moment) -> ColumnElement[bool]:
    """Say in SQL whether a machine was heard since a moment, or had not to be."""
    return or_(Machine.last_seen_at >= moment, Machine.quiet_until >= moment)


def silent_since(moment: Moment) -> ColumnElement[bool]:
    """Say the opposite."""
    return and_(Machine.last_seen_at < moment, or_(Machine.quiet_until.is_(None), Machine.quiet_until < moment))


def last_sign(last_seen_at: datetime, quiet_until: datetime | None) -> datetime:
    """Return the moment from which a machine's silence counts."""
    return last_seen_at if quiet_until is None else max(last_seen_at, quiet_until)


def has_left(device: Mapping[str, Any]) -> bool:
    """Say whether a machine said goodbye when it last told of its device: it was stopped, and did not die."""
    return device.get("left") is True


def note_claim(tx: Transaction, machine: Machine) -> None:
    """Expect a machine that was allowed to be quiet to check in again as one that draws."""
    if machine.quiet_until is not None:
        machine.last_seen_at, machine.quiet_until = tx.now, None


def forget(tx: Transaction, machine: Machine) -> None:
    """Forget a machine that is gone, with what it held; jobs keep its name. Should it check in again, it is a new one.

    Raises MachineAlive where it checks in, or where a job or an engine must first be taken back from it, and
    MachineNotFound where somebody else has just forgotten it.
    """
    if tx.session.get(Machine, machine.id, with_for_update=True, populate_existing=True) is None:
        raise MachineNotFound(f"machine {machine.id!r} was just forgotten by somebody else", machine_id=machine.id)
    silent_for = tx.now - last_sign(machine.last_seen_at, machine.quiet_until)
    if silent_for <= timedelta(seconds=tx.limits.silent_after):
        raise MachineAlive(
            f"machine {machine.id!r} checks in; stop it first, and ask again {tx.limits.silent_after:g} s later",
            machine_id=machine.id,
        )
    for what, is_its in (("a job", DRAWS), ("an engine", HOLDS_ENGINE)):
        if tx.session.scalar(select(is_its).where(Machine.id == machine.id)):
            raise MachineAlive(
                f"{what} is still being taken back from machine {machine.id!r}; ask again in some seconds",
                machine_id=machine.id,
            )
    tx.session.expunge(machine)
    tx.session.execute(delete(Machine).where(Machine.id == machine.id))  # what it held goes along by its foreign key


@dataclass(slots=True)
class Crowd:
    """How many machines there are, as one process of the server knows it: every check-in asks, and few count."""

    _count: int = 0
    _good_until: datetime | None = None

    def pause(self, tx: Transaction) -> float:
        """Return the seconds after which an idle machine should check in again."""
        if self._good_until is None or tx.now >= self._good_until:
            limit = tx.now - timedelta(seconds=tx.limits.silent_after)
            self._count = tx.session.scalar(select(func.count()).select_from(Machine).where(heard_since(limit))) or 0
            self._good_until = tx.now + COUNTED_EVERY
        pause = min(LONGEST_PAUSE, self._count / tx.limits.idle_check_ins_per_second)
        if pause <= CHECK_IN_SECONDS:
            return CHECK_IN_SECONDS
        return max(CHECK_IN_SECONDS, pause * random.uniform(0.8, 1.0))  # noqa: S311  # no secret: machines started together must not march
