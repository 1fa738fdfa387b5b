"""The brake on guessing tokens: after so many wrong ones in a minute, an address is not listened to for a while.

Counted per address, an IPv6 network of 64 bits being one, because its owner has all of it. While an address is braked
its tokens are refused unread, or guessing would go on at full speed; so two things see to it that nobody is locked out
for what a neighbour behind the same address does: whoever has shown a right token from there within a day is always
listened to, and what is refused unread is not counted, so that a new minute always begins.

All web processes count together in the live store. Without one, and while it is away, each counts for itself. Addresses
are counted in `BUCKETS` places, chosen under a key that only the servers know: that bounds the memory, and nobody can
aim at another's place.
"""

import hmac
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from threading import Lock
from typing import TypeVar

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, Storage
from limits.strategies import FixedWindowRateLimiter

T = TypeVar("T")

log = logging.getLogger(__name__)

BUCKETS = 2**16
"""Places to count in: a few megabytes when all are used."""

PROVEN_SECONDS = 24 * 3600
"""How long an address is known for a token that was right."""

TOLD_AGAIN_SECONDS = 3600
"""So often at most each process tells the store what it knows already."""

MOST_PROVEN = 10_000
"""Pairs of address and token that one process remembers; for the others the store is asked."""

AWAY_SECONDS = 5.0
"""How long a store that did not answer is left alone, or each request would wait for it."""


class Brake:
    """Counts wrong tokens by address."""

    def __init__(self, most: int, store: Storage, key: bytes) -> None:
        """Allow so many wrong tokens of an address in a minute; the key is a secret of all our servers."""
        self._allowed = RateLimitItemPerMinute(most)
        self._key = key
        self._shared = store
        self._own = MemoryStorage()
        self._away_until = 0.0
        self._proven: OrderedDict[str, float] = OrderedDict()
        self._lock = Lock()

    def seconds_until_heard(self, address: str, token: str) -> int:
        """Return 0 where a token may be looked at, else after how many seconds it will be."""
        pair, place = self._pair(address, token), self._place(address)
        if self._knows(pair):
            return 0

        def look(store: Storage) -> int:
            window = FixedWindowRateLimiter(store)
            if window.test(self._allowed, place) or store.get(pair):
                return 0
            return max(1, math.ceil(window.get_window_stats(self._allowed, place).reset_time - time.time()))

        return self._with_store(look)

    def count_wrong(self, address: str) -> None:
        """Count a wrong token."""
        place = self._place(address)
        self._with_store(lambda store: FixedWindowRateLimiter(store).hit(self._allowed, place))

    def remember_right(self, address: str, token: str) -> None:
        """Remember that this address has shown this right token."""
        pair = self._pair(address, token)
        if self._knows(pair):
            return
        with self._lock:
            self._proven[pair] = time.monotonic() + TOLD_AGAIN_SECONDS
            while len(self._proven) > MOST_PROVEN:
                self._proven.popitem(last=False)
        self._with_store(lambda store: store.incr(pair, PROVEN_SECONDS))

    def _knows(self, pair: str) -> bool:
        with self._lock:
            return self._proven.get(pair, 0.0) > time.monotonic()

    def _pair(self, address: str, token: str) -> str:
        return f"proven:{self._digest(f'{network_of(address)} {token}').hex()}"

    def _place(self, address: str) -> str:
        return str(int.from_bytes(self._digest(network_of(address))[:8]) % BUCKETS)

    def _digest(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(), "sha256")

    def _with_store(self, what: Callable[[Storage], T]) -> T:
        if time.monotonic() >= self._away_until:
            try:
                return what(self._shared)
            except StorageError as exc:
                log.warning("each process counts wrong tokens alone for %g s, the store is away: %s", AWAY_SECONDS, exc)
                self._away_until = time.monotonic() + AWAY_SECONDS
        return what(self._own)


def network_of(address: str) -> str:
    """Return what belongs to one party: an IPv4 address, or the first 64 bits of an IPv6 one."""
    with suppress(ValueError):
        ip = ip_address(address.partition("%")[0])
        if isinstance(ip, IPv6Address):
            return str(ip.ipv4_mapped or IPv6Address(int(ip) >> 64 << 64))
    return address
