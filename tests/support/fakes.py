"""Fakes that keep the contract of what they stand for; tests put the same questions to the fake and to the real one."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.core.dispatch import Message
from app.core.live import Progress

MONDAY = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: datetime = MONDAY) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return the moment it shows."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


class RecordingDispatcher:
    """A broker whose messages wait for ever, and which can be away."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        """All that were ever taken."""
        self.waiting: list[Message] = []
        """Those that nobody has consumed yet."""
        self.is_away = False

    def send(self, messages: Iterable[Message]) -> int:
        """Take messages, unless it is away."""
        if self.is_away:
            return 0
        taken = list(messages)
        self.sent += taken
        self.waiting += taken
        return len(taken)

    def depth(self, queue: str) -> int | None:
        """Count what waits in a queue."""
        return None if self.is_away else sum(message.queue == queue for message in self.waiting)

    def lose_everything(self) -> None:
        """Forget what waits, as a broker does that was emptied."""
        self.waiting.clear()


class MemoryLive:
    """A live store in memory."""

    def __init__(self) -> None:
        self._progress: dict[UUID, Progress] = {}
        self._unwanted: set[UUID] = set()

    def report(self, job_id: UUID, progress: Progress) -> bool:
        """Leave progress, and return whether somebody asked to cancel the job."""
        self._progress[job_id] = progress
        return job_id in self._unwanted

    def progress(self, job_id: UUID) -> Progress | None:
        """Read the newest progress."""
        return self._progress.get(job_id)

    def ask_to_cancel(self, job_id: UUID) -> None:
        """Remember that nobody wants it any more."""
        self._unwanted.add(job_id)

    def forget(self, job_id: UUID) -> None:
        """Drop all that was kept for a job."""
        self._progress.pop(job_id, None)
        self._unwanted.discard(job_id)


class MemoryImages:
    """An image store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`."""
        self.kept[key] = data

    def get(self, key: str) -> bytes:
        """Read what was kept; raises KeyError when it is gone."""
        return self.kept[key]

    def delete(self, key: str) -> None:
        """Drop what was kept."""
        self.kept.pop(key, None)
