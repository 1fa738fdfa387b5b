"""pytest-celery's nodes as local processes: its own containers need Docker. See docs/decisions/0003-worker-tests.md."""

import signal
from collections.abc import Callable
from typing import Any

from pytest_celery import CeleryTestContainer, CeleryWorkerContainer

from tests.support.broker import BrokerServer
from tests.support.processes import Process

ID_LENGTH = 12
"""pytest-celery takes so many characters of a container's id for its host name."""


class ProcessContainer(CeleryTestContainer):  # type: ignore[misc]  # pytest-celery has no types
    """What pytest-celery asks of a container, answered by a process."""

    def __init__(self, name: str, start: Callable[[], Process]) -> None:
        # The parent's own __init__ wants a container of the Docker engine.
        assert len(name) <= ID_LENGTH
        self._name = name
        self._start = start
        self._process = start()

    @property
    def id(self) -> str:
        """Return the name, which stands in the worker's host name too."""
        return self._name

    @property
    def name(self) -> str:
        """Return the name."""
        return self._name

    @property
    def status(self) -> str:
        """Say whether it runs, in Docker's words."""
        return "running" if self._process.status is None else "exited"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """Have nothing to configure."""
        return {}

    def ready(self) -> bool:
        """Say whether it runs."""
        return self.status == "running"

    def logs(self) -> str:
        """Return what it has said."""
        return self._process.said()

    def kill(self, signal: str = "SIGKILL") -> None:
        """Send a signal; SIGKILL ends the process at once."""
        number = _number(signal)
        self._process.send(number)
        if number == _number("SIGKILL"):
            self._process.wait()

    def wait(self) -> int:
        """Wait for the end of the process."""
        return self._process.wait()

    def restart(self, timeout: float = 10.0) -> None:
        """Stop what still runs, and start it again."""
        self._process.stop(seconds=timeout)
        self._process = self._start()

    def reload(self) -> None:
        """Have nothing to read again: a process tells its state when asked."""

    def teardown(self) -> None:
        """End it."""
        self._process.stop()


class MachineContainer(ProcessContainer, CeleryWorkerContainer):  # type: ignore[misc]  # as above
    """A worker process of a machine."""

    @classmethod
    def worker_name(cls) -> str:
        """Return what stands before the @ of its host name."""
        return "machine"


class BrokerContainer(ProcessContainer):
    """The broker of the test run."""

    def __init__(self, server: BrokerServer) -> None:
        self._name = "broker"
        self._server = server

    @property
    def status(self) -> str:
        """Say that it runs; who takes it away brings it back."""
        return "running"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        """Say where it is."""
        return {"url": self._server.url, "host_url": self._server.url}

    def restart(self, timeout: float = 10.0) -> None:
        """Take it away and bring it back."""
        self._server.stop()
        self._server.start()

    def teardown(self) -> None:
        """Leave it to the fixture that started it."""


def _number(name: str) -> signal.Signals:
    return signal.Signals[name]
