"""A real Redis or Valkey for the tests, started as `imagefleet up` starts its own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from app.embedded import plan_broker
from tests.support.processes import WAIT_SECONDS, Process, free_port


def patient(url: str) -> str:
    """Return a broker's address for clients that are to wait for its answers also where the computer is busy."""
    return f"{url}?socket_timeout={WAIT_SECONDS:g}&socket_connect_timeout={WAIT_SECONDS:g}"


class BrokerServer:
    """A broker that can be taken away and brought back."""

    def __init__(self, folder: Path, *, dies_with_us: bool = False) -> None:
        self._plan = plan_broker(folder, free_port())
        self._folder = folder
        self._log = folder / "log"
        self._dies_with_us = dies_with_us
        self._process: Process | None = None
        self.url = self._plan.url

    def start(self) -> None:
        """Start it, or bring it back under the same address with what it had kept."""
        plan = self._plan.part
        self._process = Process(plan.command, self._log, stdin=plan.stdin, dies_with_us=self._dies_with_us)
        self._process.wait_until(self._plan.is_ready, "the broker starts")

    def stop(self) -> None:
        """Take it away."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self, *, lose_everything: bool = False) -> None:
        """Kill it, and perhaps its disk too."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if lose_everything:
            for folder in self._folder.glob("appendonly*"):
                shutil.rmtree(folder)

    @property
    def process(self) -> Process | None:
        """Return its process while it runs."""
        return self._process

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
