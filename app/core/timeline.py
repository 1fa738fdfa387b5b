"""A job's life as a list of events, each with a number that never changes.

The list follows from the rows alone, and a job's rows only ever add to its end: whoever knows event 3 of a job will
find the same event 3 for ever, whatever became of the live store meanwhile. Between them lies what machines have told
of their progress, as far as the live store still has it.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self
from uuid import UUID

from sqlalchemy import bindparam, select

from app.core import jobs
from app.core.errors import JobNotFound
from app.core.fleet import Fleet
from app.core.lifecycle import ENDED, AttemptState, JobState
from app.core.live import Progress, is_position
from app.core.tables import Attempt, Job


class Kind(StrEnum):
    """What can happen to a job. None is called `error`: browsers would take it for a broken connection."""

    QUEUED = "queued"
    ATTEMPT_STARTED = "attempt_started"
    ATTEMPT_ENDED = "attempt_ended"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    number: int
    kind: Kind
    at: datetime
    attempt: Attempt | None = None


Happened = tuple[Kind, datetime, Attempt | None]


@dataclass(frozen=True, slots=True)
class Place:
    """How far somebody has read: the number of an event, and a position in the live store's history."""

    number: int = -1
    position: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` has written; raises ValueError for anything else."""
        number, _, position = text.partition(":")
        if not re.fullmatch(r"[0-9]{1,9}", number) or not is_position(position):
            raise ValueError(f"{text!r} is no id of an event")
        return cls(int(number), position)

    def __str__(self) -> str:
        """Write it as an event's id."""
        return f"{self.number}:{self.position}"


News = tuple[Place, Event | Progress]
"""Something that was not known before, and the place behind it."""


def events_of(job: Job) -> list[Event]:
    """Return what has happened to a job, oldest first.

    The job's row was read before its attempts were; what they know more than it is left for the next time.
    """
    found: list[Happened] = [(Kind.QUEUED, job.created_at, None)]
    for attempt in job.attempts:
        if attempt.number <= job.attempt:
            found += _of_attempt(job, attempt)
    if job.state in ENDED and job.ended_at is not None:
        found.append((Kind.ENDED, job.ended_at, None))
    return [Event(number, *happened) for number, happened in enumerate(found)]


def _of_attempt(job: Job, attempt: Attempt) -> list[Happened]:
    found: list[Happened] = [(Kind.ATTEMPT_STARTED, attempt.started_at, attempt)]
    holds_it = job.state == JobState.PROCESSING and attempt.number == job.attempt
    if attempt.ended_at is not None and not holds_it:
        found.append((Kind.ATTEMPT_ENDED, attempt.ended_at, attempt))
        if _was_sent_back(job, attempt):
            found.append((Kind.QUEUED, attempt.ended_at, None))
    return found


def _was_sent_back(job: Job, attempt: Attempt) -> bool:
    """Say whether the job went back to its queue when this attempt ended."""
    if attempt.number < job.attempt or job.state == JobState.QUEUED:
        return True
    if attempt.state in {AttemptState.COMPLETED, AttemptState.CANCELLED}:
        return False
    # An attempt that ends its job does it in one transaction, which has one time; a client that cancels comes later.
    return job.state == JobState.CANCELLED or job.ended_at != attempt.ended_at


def waits(job: Job, now: datetime | None = None) -> list[float]:
    """Return for how many seconds a job waited before each of its attempts, and last for how long it waits `now`."""
    found, since = [], job.created_at
    for attempt in job.attempts:
        found.append(max(0.0, (attempt.started_at - since).total_seconds()))
        since = attempt.ended_at or attempt.started_at
    if job.state == JobState.QUEUED and now is not None:
        found.append(max(0.0, (now - since).total_seconds()))
    return found


def news(place: Place, events: Sequence[Event], moments: Sequence[tuple[str, Progress]]) -> tuple[list[News], Place]:
    """Weave events and progress into one order, and return what lies behind `place`, and the new place.

    `moments` are those behind `place.position`, read after the events were. Those of an attempt that no event tells of
    yet are left for the next time; those of an attempt that had ended before they came are passed over.
    """
    found: list[News] = []
    waiting = deque(moments)

    def tell_progress(attempt: int) -> None:
        nonlocal place
        while waiting and waiting[0][1].attempt <= attempt:
            position, moment = waiting.popleft()
            place = replace(place, position=position)
            if moment.attempt == attempt:
                found.append((place, moment))

    for event in events:
        if event.number <= place.number:
            continue
        if event.kind is Kind.ATTEMPT_ENDED and event.attempt is not None:
            tell_progress(event.attempt.number)
        place = replace(place, number=event.number)
        found.append((place, event))
    newest = events[-1]
    if newest.kind is Kind.ATTEMPT_STARTED and newest.attempt is not None:
        tell_progress(newest.attempt.number)
    elif waiting:
        place = replace(place, position=waiting[-1][0])
    return found, place


_MARK = select(Job.state, Job.attempt).where(Job.id == bindparam("job_id"))
"""Made once: every open stream asks it three times a second."""


class Reader:
    """Somebody who reads a job's life as it happens, and holds nothing between two looks."""

    def __init__(self, fleet: Fleet, job_id: UUID, place: Place | None = None) -> None:
        """Begin behind `place`, or at the beginning."""
        self.place = place or Place()
        self.job: Job | None = None
        """The job as it was at the last look."""
        self._fleet, self._job_id = fleet, job_id
        self._events: list[Event] = []
        self._mark: tuple[JobState, int] | None = None

    @property
    def is_over(self) -> bool:
        """Say whether the job has ended and nothing more will come."""
        return bool(self._events) and self._events[-1].kind is Kind.ENDED and self.place.number >= len(self._events) - 1

    def look(self) -> list[News]:
        """Return what has come since the last look; raises JobNotFound."""
        self.find()
        moments = self._fleet.live.history(self._job_id, self.place.position)
        found, self.place = news(self.place, self._events, moments)
        return found

    def find(self) -> None:
        """Read the rows anew if anything happened: each event changes the job's state or its attempt's number.

        Raises JobNotFound.
        """
        with self._fleet.reading() as session:
            row = session.execute(_MARK, {"job_id": self._job_id}).one_or_none()
            if row is None:
                raise JobNotFound(f"there is no job {self._job_id}", job_id=str(self._job_id))
            mark = (row[0], row[1])
            if mark != self._mark or self.job is None:
                self.job = jobs.get(session, self._job_id)
                self._mark, self._events = (self.job.state, self.job.attempt), events_of(self.job)
        if self.place.number >= len(self._events):  # no id of this job: better all of it again than nothing
            self.place = Place()
