"""The live store on Redis: progress of running jobs, and the wishes to cancel them or to skip a picture of theirs."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import cast
from uuid import UUID

import redis

from app.core.live import HISTORY_SECONDS, LARGEST_PREVIEW, Progress, Skipped, is_position

log = logging.getLogger(__name__)

KEEP_SECONDS = 3600
"""How long a running job may be silent before its progress is forgotten."""

PREVIEW_SECONDS = 300
"""How long a preview is shown when no newer one comes: larger than all else here, and soon stale."""

MOST_KEPT = 1000
"""So many moments of a job are kept for those who come back after a break; a few a second are left."""

AWAY_SECONDS = 5.0

KNOWN = frozenset(field.name for field in fields(Progress))

# One round trip a step: leave the progress, learn whether to stop. An attempt that comes after a later one has lost its
# job: nothing of it is kept, or it would show its picture in place of the right one.
REPORT = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local known, mine = newest and tonumber(newest[2][2]) or 0, tonumber(ARGV[1])
if mine < known then return 1 end
if mine > known then redis.call('DEL', KEYS[3]) end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'attempt', ARGV[1], 'told', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
if ARGV[6] ~= '' then redis.call('SET', KEYS[3], ARGV[6], 'EX', ARGV[5]) end
return redis.call('EXISTS', KEYS[2])
"""

Moments = Sequence[tuple[bytes, Mapping[bytes, bytes]]]
"""What a stream answers: positions and what was left there."""


class RedisLive:
    """Progress and cancelling through Redis or Valkey; a store that is away costs a warning, never a picture."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)
        self._report = self._redis.register_script(REPORT)
        self._away_until = 0.0

    def report(self, job_id: UUID, progress: Progress, preview: bytes | None = None) -> bool:
        """Leave progress and perhaps a preview, and return whether the attempt should stop."""
        keys = [_progress_key(job_id), _cancel_key(job_id), _preview_key(job_id)]
        shown = preview if preview and len(preview) <= LARGEST_PREVIEW else b""
        args: list[str | int | bytes] = [
            progress.attempt,
            json.dumps(asdict(progress)),
            KEEP_SECONDS,
            MOST_KEPT,
            PREVIEW_SECONDS,
            shown,
        ]
        return bool(self._try(lambda: self._report(keys=keys, args=args)))

    def is_unwanted(self, job_id: UUID) -> bool:
        """Say whether somebody asked to cancel the job."""
        return bool(self._try(lambda: self._redis.exists(_cancel_key(job_id))))

    def progress(self, job_id: UUID) -> Progress | None:
        """Read the newest progress; None when there is none, or the store is away."""
        newest = cast("Moments", self._try(lambda: self._redis.xrevrange(_progress_key(job_id), count=1)))
        return _progress_of(newest[0][1]) if newest else None

    def progress_of_each(self, job_ids: Sequence[UUID]) -> Mapping[UUID, Progress]:
        """Read the newest progress of many jobs in one round trip."""

        def read() -> list[object]:
            with self._redis.pipeline(transaction=False) as all_of_them:
                for job_id in job_ids:
                    all_of_them.xrevrange(_progress_key(job_id), count=1)
                return cast("list[object]", all_of_them.execute())

        found = cast("list[Moments] | None", self._try(read)) if job_ids else None
        return {job_id: _progress_of(m[0][1]) for job_id, m in zip(job_ids, found or (), strict=False) if m}

    def history(self, job_id: UUID, after: str = "") -> list[tuple[str, Progress]]:
        """Read all progress that was left behind this position, oldest first."""
        if not is_position(after):  # the server's complaint would be taken for its absence
            raise ValueError(f"{after!r} is no position of a history")
        first = f"({after}" if after else "-"
        found = cast("Moments", self._try(lambda: self._redis.xrange(_progress_key(job_id), min=first)))
        return [(position.decode(), _progress_of(moment)) for position, moment in found or ()]

    def preview(self, job_id: UUID) -> bytes | None:
        """Read the newest preview."""
        return cast("bytes | None", self._try(lambda: self._redis.get(_preview_key(job_id))))

    def ask_to_cancel(self, job_id: UUID) -> None:
        """Let the running attempt know that nobody wants its pictures any more; else its next check-in does."""
        self._try(lambda: self._redis.set(_cancel_key(job_id), 1, ex=KEEP_SECONDS))

    def ask_to_skip(self, job_id: UUID, shown: Progress) -> None:
        """Let the running attempt know that what is being drawn should be left as it is."""
        meant = f"{shown.attempt} {shown.image}"
        self._try(lambda: self._redis.set(_skip_key(job_id), meant, ex=KEEP_SECONDS))

    def skipped(self, job_id: UUID) -> Skipped | None:
        """Read which picture somebody asked to skip last."""
        meant = cast("bytes | None", self._try(lambda: self._redis.get(_skip_key(job_id))))
        return Skipped(*map(int, meant.split())) if meant else None

    def forget(self, job_id: UUID) -> None:
        """Drop what was kept for a job that has ended, and its history a while later."""

        def drop() -> None:
            with self._redis.pipeline(transaction=False) as both:
                both.delete(_cancel_key(job_id), _skip_key(job_id), _preview_key(job_id))
                both.expire(_progress_key(job_id), HISTORY_SECONDS)
                both.execute()

        self._try(drop)

    def _try(self, what: Callable[[], object]) -> object:
        """Do something with the store; one that is away is left alone for a while, or each step would wait for it."""
        if time.monotonic() < self._away_until:
            return None
        try:
            return what()
        except redis.RedisError as exc:
            log.warning("the live store is away, progress is not seen for %g s: %s", AWAY_SECONDS, exc)
            self._away_until = time.monotonic() + AWAY_SECONDS
            return None


class NoLive:
    """For a server without a live store: nothing is seen moving, everything else works."""

    def report(self, job_id: UUID, progress: Progress, preview: bytes | None = None) -> bool:  # noqa: ARG002  # the port's signature
        """Forget it."""
        return False

    def is_unwanted(self, job_id: UUID) -> bool:  # noqa: ARG002  # the port's signature
        """Know of no wish."""
        return False

    def history(self, job_id: UUID, after: str = "") -> list[tuple[str, Progress]]:  # noqa: ARG002  # the port's signature
        """Know nothing."""
        return []

    def preview(self, job_id: UUID) -> bytes | None:  # noqa: ARG002  # the port's signature
        """Know nothing."""
        return None

    def progress(self, job_id: UUID) -> Progress | None:  # noqa: ARG002  # the port's signature
        """Know nothing."""
        return None

    def progress_of_each(self, job_ids: Sequence[UUID]) -> Mapping[UUID, Progress]:  # noqa: ARG002  # the port's signature
        """Know nothing."""
        return {}

    def ask_to_cancel(self, job_id: UUID) -> None:
        """Leave it to the next check-in."""

    def ask_to_skip(self, job_id: UUID, shown: Progress) -> None:
        """Let the picture be drawn to its end."""

    def skipped(self, job_id: UUID) -> Skipped | None:  # noqa: ARG002  # the port's signature
        """Know of no wish."""
        return None

    def forget(self, job_id: UUID) -> None:
        """Have nothing to forget."""


def _progress_key(job_id: UUID) -> str:
    return f"imagefleet:progress:{job_id}"


def _cancel_key(job_id: UUID) -> str:
    return f"imagefleet:cancel:{job_id}"


def _skip_key(job_id: UUID) -> str:
    return f"imagefleet:skip:{job_id}"


def _preview_key(job_id: UUID) -> str:
    return f"imagefleet:preview:{job_id}"


def _progress_of(moment: Mapping[bytes, bytes]) -> Progress:
    # A newer machine may tell more than this server understands.
    return Progress(**{name: value for name, value in json.loads(moment[b"told"]).items() if name in KNOWN})
