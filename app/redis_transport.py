"""kombu's Redis transport, for connections that break while something is not settled yet."""

from typing import Any

import redis
from kombu.transport import redis as kombu_redis


class Channel(kombu_redis.Channel):
    """A channel that says of a closed connection that it is closed.

    kombu gives unsettled messages back when a channel closes, and asks the connection for the broker's address then.
    Where the connection was closed before, that failed with an AttributeError, which nobody there expects: a worker
    that lost its broker in such a moment ended, instead of connecting again.
    """

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002  # as kombu has it
        if self.connection.client is None:
            raise redis.ConnectionError("the connection to the broker is closed")
        known: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]  # kombu has no types
        return known


class Transport(kombu_redis.Transport):
    """kombu's transport with such channels."""

    Channel = Channel
