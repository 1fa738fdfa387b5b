"""An engine's life with real parts: PostgreSQL, Redis, a web server, and a machine process with the demo model."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from app.core.dispatch import engine_queue
from tests.support.processes import wait_until
from tests.support.servers import ANSWER_SECONDS
from tests.support.system import System, borrowed

MODEL = "shapes"
MACHINE = "machine-engines"
PROMPT = "a red circle on a blue background"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def system(server: System) -> Iterator[System]:
    """Start a machine that really draws."""
    with borrowed(server) as running:
        running.put_model(MODEL)
        running.add_machine(MACHINE, MODEL, DRIVER="diffusers", DEVICE="cpu", OMP_NUM_THREADS="1")
        running.wait_for_machines(MODEL, 1)
        yield running


def ask(system: System, method: str, path: str) -> requests.Response:
    return requests.request(method, f"{system.url}/v1/engines/{path}", timeout=ANSWER_SECONDS)


def engine(system: System, engine_id: str) -> Any:
    return ask(system, "GET", engine_id).json()


def wait_for(system: System, engine_id: str, status: str) -> Any:
    wait_until(lambda: engine(system, engine_id)["status"] == status, f"the engine is {status}")
    return engine(system, engine_id)


def started(system: System, **more: Any) -> Any:
    """Make an engine and wait until it is ready."""

    def start() -> bool:
        return ask(system, "PATCH", f"{made['engine_id']}/start").ok

    made = system.post("v1/engines", {"checkpoint": MODEL, **more})
    wait_until(start, "a machine takes the engine")  # after a restart its driver may still be on its way
    return wait_for(system, made["engine_id"], "Ready")


def order(system: System, engine_id: str, **more: Any) -> str:
    return str(system.post("v1/jobs", {"engine_id": engine_id, "prompt": PROMPT, "seed": 1} | more)["job_id"])


def loaded(system: System) -> list[str]:
    """Return what the machine has in memory, as it says itself."""
    found: list[str] = system.get(f"v1/machines/{MACHINE}")["device"]["loaded"]
    return found


def test_an_engine_is_started_draws_is_stopped_and_deleted(system: System) -> None:
    ready = started(system, default_steps=4, default_width=64, default_height=64)
    engine_id = ready["engine_id"]
    wait_until(lambda: engine_queue(engine_id) in system.consumed(MACHINE), "the machine listens for its jobs")
    assert abs(ready["bytes_estimated"] - ready["bytes_measured"]) <= 0.15 * ready["bytes_measured"]

    done = system.ended(order(system, engine_id))
    drawn = (done["status"], done["engine_id"], done["parameters"]["steps"], done["images"][0]["width"])
    long = order(system, engine_id, steps=150, n=16, width=256, height=256)
    wait_for(system, engine_id, "Working")
    refused = ask(system, "DELETE", engine_id)
    stopping = ask(system, "PATCH", f"{engine_id}/stop").json()
    system.post(f"v1/jobs/{long}/cancel", {})
    wait_for(system, engine_id, "Closed")
    wait_until(lambda: loaded(system) == [], "its memory is free")

    assert drawn == ("completed", engine_id, 4, 64)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "engine_running")
    assert (stopping["status"], stopping["stopping"]) == ("Working", True)
    wait_until(lambda: engine_queue(engine_id) not in system.consumed(MACHINE), "nobody listens for its jobs")
    assert ask(system, "DELETE", engine_id).status_code == 204
    assert requests.get(f"{system.url}/v1/jobs/{done['job_id']}", timeout=ANSWER_SECONDS).status_code == 404


def test_jobs_that_wait_for_a_closed_engine_are_drawn_once_it_is_started(system: System) -> None:
    made = system.post("v1/engines", {"checkpoint": MODEL, "default_steps": 2})
    job_id = order(system, made["engine_id"])
    waiting_for = system.get(f"v1/jobs/{job_id}")["waiting_for"]

    ask(system, "POST", f"{made['engine_id']}/start")
    done = system.ended(job_id)

    assert "it must be started" in waiting_for
    assert (done["status"], done["attempts"][0]["machine_id"]) == ("completed", MACHINE)
    ask(system, "POST", f"{made['engine_id']}/stop")
    wait_for(system, made["engine_id"], "Closed")


def test_killing_the_worker_closes_its_engine_and_the_job_waits(system: System) -> None:
    engine_id = started(system)["engine_id"]
    job_id = order(system, engine_id, steps=50, n=16, width=256, height=256)
    wait_for(system, engine_id, "Working")
    worker = system.parts[MACHINE].child("tasks.machine")
    assert worker is not None

    worker.kill()

    closed = wait_for(system, engine_id, "Closed")
    assert closed["error"]["code"] == "machine_lost"
    wait_until(lambda: system.get(f"v1/jobs/{job_id}")["status"] == "queued", "the job waits again")
    assert engine_id in system.get(f"v1/jobs/{job_id}")["waiting_for"]
    wait_until(lambda: ask(system, "DELETE", engine_id).status_code == 204, "it can be deleted")


def test_a_machine_that_is_gone_for_good_closes_its_engine(system: System) -> None:
    system.wait_for_machines(MODEL, 1)
    engine_id = started(system)["engine_id"]

    system.parts[MACHINE].kill()

    closed = wait_for(system, engine_id, "Closed")
    assert "has been silent" in closed["error"]["message"]
