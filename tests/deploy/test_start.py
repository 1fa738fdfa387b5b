"""deploy/start as a container runs it: each part takes the shell's place, gets healthy, hears SIGTERM and ends well.

All tests share one small fleet; the last one stops it.
"""

import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from app import healthy
from tests.deploy.start import PARTS, START
from tests.support.broker import BrokerServer
from tests.support.processes import Process, free_port, wait_until
from tests.support.servers import ANSWER_SECONDS, LOOK_SECONDS, environ_of

STAYING = ("web", "control", "beat", "machine")


@dataclass(frozen=True, slots=True)
class Started:
    """The parts that run."""

    parts: Mapping[str, Process]
    environ: Mapping[str, str]

    def health(self, path: str) -> int:
        """Ask the machine as a kubelet does; returns the status of the answer, 0 where there is none."""
        port = self.environ["MACHINE_HEALTH_PORT"]
        try:
            return requests.get(f"http://127.0.0.1:{port}{path}", timeout=LOOK_SECONDS).status_code
        except requests.RequestException:
            return 0


@pytest.fixture(scope="module")
def started(broker_server: BrokerServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Start every part that stays, as a container does."""
    folder = tmp_path_factory.mktemp("started")
    port = free_port()
    more = {
        "BROKER_URL": broker_server.url,
        "PORT": str(port),
        "FLEET_URL": f"http://127.0.0.1:{port}",
        "WEB_WORKERS": "1",
        "BEAT_FILE": str(folder / "beat"),
        "DRIVER": "fake",
        "MACHINE_ID": "started",
        "MACHINE_MODELS_NEEDED": "demo-shapes",
        "MACHINE_HEALTH_PORT": str(free_port()),
        "CIVITAI_METADATA": "0",
    }
    environ = environ_of(folder, **more)
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    assert Process([START, "migrate"], folder / "migrate.log", environ=environ).wait() == 0
    parts = {}
    try:
        for name in STAYING:
            parts[name] = Process([START, name], folder / f"{name}.log", environ=environ)
        yield Started(parts, environ)
    finally:
        for process in parts.values():
            process.kill()


@pytest.mark.parametrize("part", STAYING)
def test_each_part_gets_healthy_and_has_taken_the_shells_place(part: str, started: Started) -> None:
    process = started.parts[part]

    process.wait_until(lambda: not healthy.PARTS[part](started.environ), f"{part} is healthy")

    words = psutil.Process(process.pid).cmdline()
    assert any(word.endswith(f"/{PARTS[part][0]}") for word in words), words
    assert not any("deploy/start" in word for word in words)


def test_a_machine_that_is_drained_lives_and_is_not_ready(started: Started) -> None:
    machine = f"{started.environ['FLEET_URL']}/v1/machines/started"
    wait_until(lambda: started.health("/ready") == requests.codes.ok, "the machine is ready")

    assert requests.post(f"{machine}/drain", timeout=ANSWER_SECONDS).ok
    wait_until(lambda: started.health("/ready") == requests.codes.service_unavailable, "it is ready no more")

    assert started.health("/live") == requests.codes.ok
    assert healthy.machine(started.environ)


def test_each_part_hears_sigterm_and_ends_with_nothing_to_complain_about(started: Started) -> None:
    for process in started.parts.values():
        process.send(signal.SIGTERM)

    assert {name: process.wait() for name, process in started.parts.items()} == dict.fromkeys(STAYING, 0)
    assert healthy.web(started.environ)
    assert healthy.machine(started.environ)
