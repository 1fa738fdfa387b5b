"""What knowing costs and how good it is: a stream of events, a promise, and promises against what came true.

    make bench-knowing            # or: python -m tests.bench.knowing --streams 50

Real processes on loopback: Redis, PostgreSQL, gunicorn, control worker, beat, machines with the fake driver.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from statistics import median
from uuid import UUID

import requests
from sqlalchemy import insert

from app.core import forecasts, jobs
from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState, JobState
from app.core.live import Progress
from app.core.machines import HoldingReport
from app.core.paces import percentile
from app.core.spec import GenerationSpec
from app.core.tables import Job, Pace
from app.live import RedisLive
from tests.builders import MODEL, a_machine, a_model, a_running_job
from tests.support.fakes import MemoryImages, RecordingDispatcher
from tests.support.system import System, running_system

WATCHED_SECONDS = 20.0
REPORTS_PER_SECOND = 4
BACKLOGS = (0, 900, 100_000)
ORDERS = 200
STEPS = (10, 20, 40, 20)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=50, help="streams that are open at once")
    parser.add_argument("--jobs", type=int, default=20, help="jobs of known length whose promises are held against it")
    wanted = parser.parse_args()
    # A stream takes a seat, and half of the threads are seats.
    with _system(WEB_WORKERS="1", WEB_THREADS=str(2 * wanted.streams + 4)) as system:
        fleet = Fleet(system.engine, RecordingDispatcher(), MemoryImages(), RedisLive(system.broker.url))
        print(_streams(system, fleet, wanted.streams))
        print(_promises_cost(fleet))
    for machines in (1, 2):
        with _system(FAKE_STEP_SECONDS="0.05", FAKE_LOAD_SECONDS="1") as system:
            print(_promises_kept(system, machines, wanted.jobs))


@contextmanager
def _system(**more: str) -> Iterator[System]:
    folder = tempfile.TemporaryDirectory(prefix="imagefleet-bench-")
    with folder as path, running_system(Path(path), **more) as system:
        yield system


def _streams(system: System, fleet: Fleet, count: int) -> str:
    """Measure the CPU time of the web process with and without open streams of a job that moves."""
    job = a_running_job(fleet)
    with _moving(fleet, job.id):
        idle = _web_cpu(system)
        with _watching(system, job.id, count):
            busy = _web_cpu(system)
    each = (busy - idle) / count
    return (
        f"{count} streams of a job with {REPORTS_PER_SECOND} reports a second: {1000 * each:.2f} ms CPU a second each "
        f"({100 * each:.2f} % of a core); the web process without any: {1000 * idle:.1f} ms a second"
    )


def _web_cpu(system: System) -> float:
    """Return the CPU seconds a second of gunicorn and its worker."""
    process = system.parts["web"].tree()

    def used() -> float:
        return sum(p.cpu_times().user + p.cpu_times().system for p in process)

    began, before = time.monotonic(), used()
    time.sleep(WATCHED_SECONDS)
    return (used() - before) / (time.monotonic() - began)


@contextmanager
def _moving(fleet: Fleet, job_id: UUID) -> Iterator[None]:
    over = threading.Event()

    def report() -> None:
        step = 0
        while not over.wait(1 / REPORTS_PER_SECOND):
            step += 1
            fleet.live.report(job_id, Progress(1, "denoising", step, 10_000))
            a_machine(fleet, ready_for=[MODEL], attempts=frozenset({(job_id, 1)}))

    thread = threading.Thread(target=report)
    thread.start()
    yield
    over.set()
    thread.join()


@contextmanager
def _watching(system: System, job_id: UUID, count: int) -> Iterator[None]:
    url = f"{system.url}/v1/jobs/{job_id}/events"
    answers = [requests.get(url, stream=True, timeout=60) for _ in range(count)]
    refused = [answer.text for answer in answers if answer.status_code != 200]
    assert not refused, refused[0]

    def read(answer: requests.Response) -> None:
        with suppress(requests.RequestException, AttributeError, ValueError):  # it is closed while it is read
            for _ in answer.iter_content(None):
                pass

    for answer in answers:
        threading.Thread(target=read, args=(answer,), daemon=True).start()
    yield
    for answer in answers:
        answer.close()


def _promises_cost(fleet: Fleet) -> str:
    """Measure the CPU time of a promise, with backlogs of several lengths, on PostgreSQL."""
    model_id = "bench-promises"
    a_model(fleet, model_id)
    for k in range(8):
        holding = HoldingReport(model_id=model_id, state=HoldingState.READY)
        a_machine(fleet, f"bench-{k}", holdings=[holding], device={"name": "H200", "loaded": [model_id]})
    with fleet.transaction() as tx:
        pace = Pace(model_id=model_id, device="H200", samples=9, updated_at=tx.now, job_seconds=3.0)
        tx.session.add(pace)
    lines, waiting = [], 0
    for backlog in BACKLOGS:
        _fill(fleet, model_id, backlog - waiting)
        waiting = backlog
        with fleet.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE jobs")
        promised, whole = [], []
        for _ in range(ORDERS):
            began = time.thread_time()
            with fleet.transaction() as tx:
                job = jobs.submit(tx, GenerationSpec(model_id=model_id, prompt="a", steps=20))
                tx.session.info.clear()
                inside = time.thread_time()
                forecasts.promise(tx, job)
                promised.append(time.thread_time() - inside)
                tx.session.rollback()
            whole.append(time.thread_time() - began)
        lines.append(
            f"{backlog:>7} queued: {1000 * median(promised):.2f} ms p50, {1000 * percentile(sorted(promised), 0.9):.2f}"
            f" ms p90 of {1000 * (median(whole) - median(promised)):.2f} ms for submitting"
        )
    return "a promise, 8 machines, CPU time of the web process:\n  " + "\n  ".join(lines)


def _fill(fleet: Fleet, model_id: str, count: int) -> None:
    spec = GenerationSpec(model_id=model_id, prompt="a").to_json()
    with fleet.transaction() as tx:
        moments = {"created_at": tx.now, "queued_at": tx.now, "rung_at": tx.now}
        row = {
            "model_id": model_id,
            "state": JobState.QUEUED,
            "spec": spec,
            "priority": 0,
            "rank": 9,
            "max_attempts": 3,
        }
        for first in range(0, count, 5000):
            tx.session.execute(insert(Job), [row | moments for _ in range(min(5000, count - first))])


def _promises_kept(system: System, machines: int, count: int) -> str:
    """Order jobs of known length, and hold what was promised against what came true."""
    system.put_model(MODEL)
    for k in range(machines):
        system.add_machine(f"machine-{k + 1}", MODEL)
    system.wait_for_machines(MODEL, machines)
    for k in range(3 * machines):
        _draw(system, [20], first=k)
    done = _draw(system, [STEPS[k % len(STEPS)] for k in range(count)], first=100)
    off = sorted(abs((job["ended_at"] - job["promised_at"]).total_seconds()) for job in done)
    whole = max((job["ended_at"] - job["created_at"]).total_seconds() for job in done)
    return (
        f"{count} jobs on {machines} machine(s), the last one done after {whole:.1f} s: promises off by "
        f"{percentile(off, 0.5):.2f} s p50, {percentile(off, 0.9):.2f} s p90, {off[-1]:.2f} s at most"
    )


def _draw(system: System, steps: list[int], first: int) -> list[dict[str, datetime]]:
    """Order jobs with so many steps each, and wait for them; returns the moments of those that had a promise."""
    size = {"width": 512, "height": 512}
    orders = [{"model_id": MODEL, "prompt": f"{first + k}", "steps": n, **size} for k, n in enumerate(steps)]
    ids = [system.post("v1/jobs", order)["job_id"] for order in orders]
    done = [system.ended(job_id, 120) for job_id in ids]
    names = ("created_at", "promised_at", "ended_at")
    return [{name: datetime.fromisoformat(job[name]) for name in names} for job in done if job["promised_at"]]


if __name__ == "__main__":
    main()
