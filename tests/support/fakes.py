"""Fakes that keep the contract of what they stand for; tests put the same questions to the fake and to the real one."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.core.dispatch import Message
from app.core.live import LARGEST_PREVIEW, Progress, Skipped, is_position

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

    def depths(self, queues: Sequence[str]) -> Mapping[str, int]:
        """Count what waits in many queues."""
        return {} if self.is_away else {queue: self.depth(queue) or 0 for queue in queues}

    def lose_everything(self) -> None:
        """Forget what waits, as a broker does that was emptied."""
        self.waiting.clear()


class MemoryLive:
    """A live store in memory."""

    def __init__(self) -> None:
        self._moments: dict[UUID, list[tuple[int, Progress]]] = {}
        self._previews: dict[UUID, bytes] = {}
        self._unwanted: set[UUID] = set()
        self._skipped: dict[UUID, Skipped] = {}
        self._position = 0

    def report(self, job_id: UUID, progress: Progress, preview: bytes | None = None) -> bool:
        """Leave progress and perhaps a preview, and return whether the attempt should stop."""
        newest = self.progress(job_id)
        if newest and newest.attempt > progress.attempt:
            return True
        if newest and newest.attempt < progress.attempt:
            self._previews.pop(job_id, None)
        self._position += 1
        self._moments.setdefault(job_id, []).append((self._position, progress))
        if preview and len(preview) <= LARGEST_PREVIEW:
            self._previews[job_id] = preview
        return job_id in self._unwanted

    def is_unwanted(self, job_id: UUID) -> bool:
        """Say whether somebody asked to cancel the job."""
        return job_id in self._unwanted

    def history(self, job_id: UUID, after: str = "") -> list[tuple[str, Progress]]:
        """Read all progress behind this position."""
        if not is_position(after):
            raise ValueError(f"{after!r} is no position of a history")
        first = int(after.partition("-")[0] or 0)
        return [(str(position), moment) for position, moment in self._moments.get(job_id, []) if position > first]

    def preview(self, job_id: UUID) -> bytes | None:
        """Read the newest preview."""
        return self._previews.get(job_id)

    def progress(self, job_id: UUID) -> Progress | None:
        """Read the newest progress."""
        moments = self._moments.get(job_id)
        return moments[-1][1] if moments else None

    def progress_of_each(self, job_ids: Sequence[UUID]) -> Mapping[UUID, Progress]:
        """Read the newest progress of many jobs."""
        return {job_id: self._moments[job_id][-1][1] for job_id in job_ids if self._moments.get(job_id)}

    def ask_to_cancel(self, job_id: UUID) -> None:
        """Remember that nobody wants it any more."""
        self._unwanted.add(job_id)

    def ask_to_skip(self, job_id: UUID, shown: Progress) -> None:
        """Remember which picture is meant."""
        self._skipped[job_id] = Skipped(shown.attempt, shown.image)

    def skipped(self, job_id: UUID) -> Skipped | None:
        """Read which picture somebody asked to skip last."""
        return self._skipped.get(job_id)

    def forget(self, job_id: UUID) -> None:
        """Drop what was kept for a job; its history stays, as here no time passes."""
        self._skipped.pop(job_id, None)
        self._previews.pop(job_id, None)
        self._unwanted.discard(job_id)

    def lose_everything(self) -> None:
        """Forget all, as a store does that was emptied; positions go on growing, as those of a real one do."""
        self._moments.clear()
        self._previews.clear()
        self._unwanted.clear()
        self._skipped.clear()


class MemoryImages:
    """An image store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.is_stuck = False

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`."""
        self.kept[key] = data

    def get(self, key: str) -> bytes:
        """Read what was kept; raises KeyError when it is gone."""
        return self.kept[key]

    def delete(self, key: str) -> None:
        """Drop what was kept, unless it is stuck."""
        if self.is_stuck:
            raise PermissionError(f"{key} cannot be deleted")
        self.kept.pop(key, None)

    def within(self, folder: str, before: datetime) -> list[str]:
        """Name what lies in a folder; here no time passes."""
        return [key for key in self.kept if key.rpartition("/")[0] == folder]
