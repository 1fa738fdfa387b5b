"""The live store on Redis: progress of running jobs, and the wish to cancel them."""

import json
import logging
from dataclasses import asdict
from typing import cast
from uuid import UUID

import redis

from app.core.live import Progress

log = logging.getLogger(__name__)

KEEP_SECONDS = 3600
"""How long a running job may be silent before its progress is forgotten."""

# One round trip a step: leave the progress, learn whether somebody wants to cancel.
REPORT = """
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return redis.call('EXISTS', KEYS[2])
"""


class RedisLive:
    """Progress and cancelling through Redis or Valkey; a store that is away costs a warning, never a picture."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)
        self._report = self._redis.register_script(REPORT)

    def report(self, job_id: UUID, progress: Progress) -> bool:
        """Leave progress, and return whether somebody asked to cancel the job."""
        try:
            keys = [_progress_key(job_id), _cancel_key(job_id)]
            return bool(self._report(keys=keys, args=[json.dumps(asdict(progress)), KEEP_SECONDS]))
        except redis.RedisError as exc:
            log.warning("job %s: no progress could be left: %s", job_id, exc)
            return False

    def progress(self, job_id: UUID) -> Progress | None:
        """Read the newest progress; None when there is none, or the store is away."""
        try:
            found = cast("bytes | None", self._redis.get(_progress_key(job_id)))
        except redis.RedisError as exc:
            log.warning("job %s: no progress could be read: %s", job_id, exc)
            return None
        return Progress(**json.loads(found)) if found else None

    def ask_to_cancel(self, job_id: UUID) -> None:
        """Let the running attempt know that nobody wants its pictures any more."""
        try:
            self._redis.set(_cancel_key(job_id), 1, ex=KEEP_SECONDS)
        except redis.RedisError as exc:
            log.warning("job %s: its machine will learn of the cancelling at its next check-in: %s", job_id, exc)

    def forget(self, job_id: UUID) -> None:
        """Drop all that was kept for a job that has ended."""
        try:
            self._redis.delete(_progress_key(job_id), _cancel_key(job_id))
        except redis.RedisError as exc:
            log.warning("job %s: its progress stays for an hour: %s", job_id, exc)


class NoLive:
    """For a server without a live store: nothing is seen moving, everything else works."""

    def report(self, job_id: UUID, progress: Progress) -> bool:  # noqa: ARG002  # the port's signature
        """Forget it."""
        return False

    def progress(self, job_id: UUID) -> Progress | None:  # noqa: ARG002  # the port's signature
        """Know nothing."""
        return None

    def ask_to_cancel(self, job_id: UUID) -> None:
        """Leave it to the next check-in."""

    def forget(self, job_id: UUID) -> None:
        """Have nothing to forget."""


def _progress_key(job_id: UUID) -> str:
    return f"imagefleet:progress:{job_id}"


def _cancel_key(job_id: UUID) -> str:
    return f"imagefleet:cancel:{job_id}"
