"""The live store on Redis: progress of running jobs, and the wish to cancel them."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import cast
from uuid import UUID

import redis

from app.core.live import Progress

log = logging.getLogger(__name__)

KEEP_SECONDS = 3600
"""How long a running job may be silent before its progress is forgotten."""

AWAY_SECONDS = 5.0

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
        self._away_until = 0.0

    def report(self, job_id: UUID, progress: Progress) -> bool:
        """Leave progress, and return whether somebody asked to cancel the job."""
        keys = [_progress_key(job_id), _cancel_key(job_id)]
        told = json.dumps(asdict(progress))
        return bool(self._try(lambda: self._report(keys=keys, args=[told, KEEP_SECONDS])))

    def progress(self, job_id: UUID) -> Progress | None:
        """Read the newest progress; None when there is none, or the store is away."""
        found = self._try(lambda: self._redis.get(_progress_key(job_id)))
        return Progress(**json.loads(cast("bytes", found))) if found else None

    def ask_to_cancel(self, job_id: UUID) -> None:
        """Let the running attempt know that nobody wants its pictures any more; else its next check-in does."""
        self._try(lambda: self._redis.set(_cancel_key(job_id), 1, ex=KEEP_SECONDS))

    def forget(self, job_id: UUID) -> None:
        """Drop all that was kept for a job that has ended; else it goes by itself within the hour."""
        self._try(lambda: self._redis.delete(_progress_key(job_id), _cancel_key(job_id)))

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
