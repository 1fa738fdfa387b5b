"""A real Redis or Valkey for the tests, started as `imagefleet up` starts its own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from app.embedded import plan_broker
from tests.support.processes import Process


class BrokerServer:
    """A broker that can be taken away and brought back."""

    def __init__(self, folder: Path) -> None:
        self._plan = plan_broker(folder)
        self._log = folder / "log"
        self._process: Process | None = None
        self.url = self._plan.url

    def start(self) -> None:
        """Start it, or bring it back under the same address with what it had kept."""
        self._process = Process(self._plan.part.command, self._log, stdin=self._plan.part.stdin)
        self._process.wait_until(self._plan.is_ready, "the broker starts")

    def stop(self) -> None:
        """Take it away."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def clear(self) -> None:
        """Forget every message."""
        with redis.Redis.from_url(self.url) as connection:
            connection.flushall()


@contextmanager
def running_broker() -> Iterator[BrokerServer]:
    """Run a broker as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="imagefleet-broker-") as folder:
        server = BrokerServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
