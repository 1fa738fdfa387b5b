"""The feed: what happens to all jobs of an owner, or of everybody, for those who watch many jobs at once.

It follows from the rows alone, as one job's timeline does (`app.core.timeline`): a row keeps when its job last changed,
and whoever comes back names a moment behind which it wants the news.

Rows become visible when their transaction is committed, which may be later than rows that were changed after them. So a
place in the feed never lies in the last `SETTLED_SECONDS`: these are read again at each look. A feed that stays open
tells nothing twice; whoever comes back may hear of the last seconds again, by the same job and number, and never hears
less.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, select, true
from sqlalchemy.orm import Session, selectinload

from app.core import timeline
from app.core.fleet import Fleet
from app.core.lifecycle import JobState
from app.core.live import Progress
from app.core.tables import Job
from app.core.timeline import Event

SETTLED_SECONDS = 10.0
"""Longer than any transaction that changes a job takes to commit, and more than the clocks of servers are apart."""

MOST_AT_ONCE = 500
"""Jobs that are read in one go by somebody who comes back after long."""

MOST_RUNNING = 200
"""Of so many jobs progress is told, those that began first; the others are seen beginning and ending."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Spot:
    """How far somebody has read the feed."""

    since: datetime
    """What happened from this moment on is news."""
    passed: datetime
    """Jobs that changed before this moment have been looked at; later than `since` while there is much to catch up."""

    @classmethod
    def at(cls, moment: datetime) -> Self:
        """Stand at a moment."""
        return cls(moment, moment)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` has written; raises ValueError for anything else."""
        if not (found := re.fullmatch(r"([0-9]{1,16})(?:-([0-9]{1,16}))?", text, re.ASCII)):
            raise ValueError(f"{text!r} is no id of an event")
        since, passed = (_EPOCH + int(each) * _MICROSECOND for each in (found[1], found[2] or found[1]))
        return cls(since, passed)

    def __str__(self) -> str:
        """Write it as an event's id."""
        moments = dict.fromkeys((self.since, self.passed))
        return "-".join(str((moment - _EPOCH) // _MICROSECOND) for moment in moments)


class Mark(NamedTuple):
    """By what it is seen that something has happened to a job."""

    id: UUID
    state: JobState
    attempt: int
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Known:
    """What has been told of a job that changed lately."""

    mark: tuple[JobState, int]
    number: int
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Told:
    """News of one job, and the place from which whoever has heard it goes on."""

    spot: Spot
    job: Job
    event: Event


class Feed:
    """Somebody who reads what happens to many jobs, and holds nothing of the database between two looks."""

    def __init__(self, fleet: Fleet, owner: str | None, spot: Spot | None = None) -> None:
        """Begin behind `spot`, or now; `owner` None: with the jobs of everybody."""
        self._fleet, self._owner = fleet, owner
        self._known: dict[UUID, Known] = {}
        self._progress: dict[UUID, Progress] = {}
        settled = self._settled()
        # What came from a clock that is ahead must not keep this one silent until then.
        self.spot = Spot(min(spot.since, settled), min(spot.passed, settled)) if spot else Spot.at(settled)
        self.is_behind = False
        """More has happened than one look tells: the next one goes on."""
        if spot is None:
            self.look()  # what is old by now is known, and not told

    def look(self) -> list[Told]:
        """Return what has come since the last look, job by job."""
        settled = self._settled()
        with self._fleet.reading() as session:
            rows = self._changed(session, settled)
            found = [(job, event) for job in self._jobs(session, rows) for event in self._news_of(job)]
        begin, self.spot = self.spot, self._next(rows, settled)
        self._known = {key: each for key, each in self._known.items() if each.changed_at >= self.spot.passed}
        # Whoever is cut off within a look goes on with the job that was being told of.
        spots = [self._before(job, begin) for job, _ in found[1:]] + [self.spot]
        return [Told(spot, *each) for spot, each in zip(spots, found, strict=False)]

    def progress(self) -> list[tuple[UUID, Progress]]:
        """Return how far jobs are that are being drawn, where that has changed since it was last asked."""
        running = select(Job.id, Job.attempt).where(Job.state == JobState.PROCESSING, self._is_ours())
        with self._fleet.reading() as session:
            query = running.order_by(Job.started_at, Job.id).limit(MOST_RUNNING)
            attempts: dict[UUID, int] = {row.id: row.attempt for row in session.execute(query)}
        moments = self._fleet.live.progress_of_each(list(attempts))
        newest = {job_id: moment for job_id, moment in moments.items() if moment.attempt == attempts[job_id]}
        news = [(job_id, moment) for job_id, moment in newest.items() if self._progress.get(job_id) != moment]
        self._progress = newest
        return news

    def _settled(self) -> datetime:
        return self._fleet.clock() - timedelta(seconds=SETTLED_SECONDS)

    def _is_ours(self) -> ColumnElement[bool]:
        return true() if self._owner is None else Job.owner == self._owner

    def _changed(self, session: Session, settled: datetime) -> Sequence[Mark]:
        """Return the jobs that changed behind our place, oldest first: many of old changes, all of the last seconds."""
        query = select(Job.id, Job.state, Job.attempt, Job.changed_at).order_by(Job.changed_at, Job.id)
        query = query.where(Job.changed_at >= self.spot.passed, self._is_ours())
        rows = _read(session, query.limit(MOST_AT_ONCE))
        self.is_behind = len(rows) == MOST_AT_ONCE and rows[-1].changed_at < settled
        if len(rows) < MOST_AT_ONCE:
            return rows
        # What changed in the same moment, such as an order of many prompts, belongs together: so a moment is all that a
        # place must name, and no page ends within one.
        return _read(session, query.where(Job.changed_at <= rows[-1].changed_at) if self.is_behind else query)

    def _jobs(self, session: Session, rows: Sequence[Mark]) -> Iterator[Job]:
        """Load those that are not as we have told them, in the order of the rows."""
        fresh = [row.id for row in rows if not self._is_known(row)]
        for first in range(0, len(fresh), MOST_AT_ONCE):
            chosen = select(Job).where(Job.id.in_(fresh[first : first + MOST_AT_ONCE]))
            whole = chosen.options(selectinload(Job.attempts), selectinload(Job.images))
            yield from session.scalars(whole.order_by(Job.changed_at, Job.id))

    def _is_known(self, row: Mark) -> bool:
        known = self._known.get(row.id)
        return known is not None and known.mark == (row.state, row.attempt)

    def _news_of(self, job: Job) -> list[Event]:
        known = self._known.get(job.id)
        events = timeline.events_of(job)
        assert job.changed_at is not None  # it was found by it
        self._known[job.id] = Known((job.state, job.attempt), events[-1].number, job.changed_at)
        before = -1 if known is None else known.number
        return [event for event in events if event.number > before and event.at >= self.spot.since]

    def _before(self, job: Job, begin: Spot) -> Spot:
        assert job.changed_at is not None  # it was found by it
        return Spot(begin.since, min(job.changed_at, self.spot.passed))

    def _next(self, rows: Sequence[Mark], settled: datetime) -> Spot:
        if self.is_behind:
            return Spot(self.spot.since, rows[-1].changed_at + _MICROSECOND)
        return Spot.at(max(self.spot.passed, settled))


def _read(session: Session, query: Executable) -> list[Mark]:
    return [Mark(row.id, row.state, row.attempt, row.changed_at) for row in session.execute(query)]
