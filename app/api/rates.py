"""How many requests of one client are taken in a minute: the same for every dialect."""

import logging
import math
import time

from flask import Flask, current_app
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import MovingWindowRateLimiter

from app.settings import Settings

log = logging.getLogger(__name__)

AWAY_SECONDS = 5.0
"""How long a store that did not answer is left alone, or each request would wait for it."""

EXTENSION = "imagefleet.rates"
CATALOG_EXTENSION = "imagefleet.rates.catalog"


class RequestGate:
    """Counts the requests of each client within the last minute.

    Any minute, not each one of the clock: so it is known when the next request will be taken, and no client sends
    twice as many around the full minute. All web processes count together where they share a store.
    """

    def __init__(self, allowed: RateLimitItem, store: Storage) -> None:
        """Let so many requests of a client through in so much time."""
        self.most = allowed.amount
        self._allowed = allowed
        self._window = MovingWindowRateLimiter(store)
        self._away_until = 0.0

    def seconds_until_open(self, client: str) -> int:
        """Count a request; returns 0 when it is taken, or the seconds after which the next one will be.

        A store that is away lets everybody through: that costs fairness for a while, and no picture.
        """
        if time.monotonic() < self._away_until:
            return 0
        try:
            if self._window.hit(self._allowed, client):
                return 0
            opens_at = self._window.get_window_stats(self._allowed, client).reset_time
        except StorageError as exc:
            log.warning("requests are not counted for %g s, the store is away: %s", AWAY_SECONDS, exc)
            self._away_until = time.monotonic() + AWAY_SECONDS
            return 0
        return max(1, math.ceil(opens_at - time.time()))


def open_gate(app: Flask, settings: Settings) -> None:
    """Give an application its gates, where requests are limited at all."""
    if settings.requests_per_minute:
        allowed = RateLimitItemPerMinute(settings.requests_per_minute)
        app.extensions[EXTENSION] = RequestGate(allowed, store_at(settings.live_url))
    if settings.catalog_requests_per_minute:
        allowed = RateLimitItemPerMinute(settings.catalog_requests_per_minute)
        store = store_at(settings.live_url, "imagefleet:catalog-requests")
        app.extensions[CATALOG_EXTENSION] = RequestGate(allowed, store)


def gate() -> RequestGate | None:
    """Return this application's gate; None where requests are not limited."""
    found: RequestGate | None = current_app.extensions.get(EXTENSION)
    return found


def catalog_gate() -> RequestGate | None:
    """Return the gate of what needs no token; None where requests for it are not limited."""
    found: RequestGate | None = current_app.extensions.get(CATALOG_EXTENSION)
    return found


def store_at(url: str, prefix: str = "imagefleet:requests") -> Storage:
    """Choose where requests are counted; without Redis, each process counts for itself."""
    if not url.startswith(("redis", "unix")):
        return MemoryStorage(wrap_exceptions=True)
    return RedisStorage(url, key_prefix=prefix, wrap_exceptions=True, socket_timeout=1, socket_connect_timeout=1)
