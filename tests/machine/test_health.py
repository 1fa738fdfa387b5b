"""Whether a machine lives and is ready, as a kubelet asks it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from app.parse import SettingsError
from tasks.machine.health import FRESH_SECONDS, SILENT_SECONDS, Health, Pulse, answering
from tasks.machine.readiness import Joined, QueueGate
from tests.support.processes import WAIT_SECONDS, free_port


class Case:
    """A machine of two workers, asked over HTTP."""

    def __init__(self, folder: Path, port: int) -> None:
        self.now = 1_000_000.0
        self.port = port
        self.gates = {"gpu-0": QueueGate(), "gpu-1": QueueGate()}
        self.paths = {name: folder / "health" / f"{name}.json" for name in self.gates}
        self.pulses = {name: Pulse(self.paths[name], gate) for name, gate in self.gates.items()}
        self.health = Health(self.paths, lambda: self.now)

    def beat(self, name: str, *models: str, engines: tuple[str, ...] = ()) -> None:
        """Let a worker look, with these queues consumed."""
        self.gates[name]._joined = Joined(frozenset(models), frozenset(engines))
        self.pulses[name].beat()
        os.utime(self.paths[name], (self.now, self.now))

    def ask(self, path: str) -> tuple[int, Any]:
        """Ask; returns the status and what is told."""
        answer = requests.get(f"http://127.0.0.1:{self.port}{path}", timeout=WAIT_SECONDS)
        return answer.status_code, answer.json() if answer.headers["Content-Type"] == "application/json" else None


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """Let a machine answer."""
    found = Case(tmp_path, free_port())
    with answering(found.health, "127.0.0.1", found.port):
        yield found


def test_a_machine_that_has_just_begun_lives_and_is_not_ready(case: Case) -> None:
    assert case.ask("/live")[0] == 200
    assert case.ask("/ready")[0] == 503


def test_one_models_queue_is_enough_to_be_ready(case: Case) -> None:
    case.beat("gpu-0")
    case.beat("gpu-1", "flux-dev")

    status, told = case.ask("/ready")

    assert status == 200
    assert [worker["models"] for worker in told["workers"]] == [0, 1]
    assert "flux-dev" not in json.dumps(told)


def test_an_engines_queue_is_enough_too(case: Case) -> None:
    case.beat("gpu-0", engines=("engine",))

    assert case.ask("/ready")[0] == 200


def test_a_machine_that_downloads_for_a_day_lives_all_the_time(case: Case) -> None:
    for _ in range(24):
        case.now += 3600
        case.beat("gpu-0")
        case.beat("gpu-1")

        assert (case.ask("/live")[0], case.ask("/ready")[0]) == (200, 503)


def test_a_worker_that_does_not_look_any_more_is_first_not_ready_and_then_not_alive(case: Case) -> None:
    case.beat("gpu-0", "flux-dev")
    case.beat("gpu-1")

    case.now += FRESH_SECONDS + 1
    assert (case.ask("/live")[0], case.ask("/ready")[0]) == (200, 503)
    case.now += SILENT_SECONDS - FRESH_SECONDS
    case.beat("gpu-1")
    assert case.ask("/live")[0] == 503


def test_a_worker_that_never_looks_is_not_alive_in_the_end(case: Case) -> None:
    case.now += SILENT_SECONDS + 1

    assert case.ask("/live")[0] == 503


def test_what_an_earlier_process_left_says_nothing(case: Case) -> None:
    case.beat("gpu-0", "flux-dev")

    assert not any(worker.is_ready for worker in Health(case.paths, lambda: case.now).seen().values())


def test_leaving_the_queue_is_seen_at_the_next_look(case: Case) -> None:
    case.beat("gpu-0", "flux-dev")
    case.beat("gpu-0")

    assert case.ask("/ready")[0] == 503


def test_other_paths_are_not_there(case: Case) -> None:
    assert case.ask("/")[0] == 404


def test_a_port_that_is_taken_is_said_with_what_to_do(case: Case) -> None:
    with pytest.raises(SettingsError, match="MACHINE_HEALTH_PORT"), answering(case.health, "127.0.0.1", case.port):
        pass


def test_nobody_is_answered_unless_a_port_is_set(case: Case) -> None:
    with answering(case.health, "no address", 0):
        pass
