"""What many machines cost the server, and what a long backlog over many models does to it.

    make bench-fleet               # or: python -m tests.bench.fleet --machines 1000 --jobs 100000 --queues 1000

Real processes on loopback: Redis, PostgreSQL, gunicorn with two workers, control worker and beat. Ten machines are
whole ones, with receipts, a worker on the broker, and the fake driver. More are light ones: threads of this process
that make the calls of a machine (check-in, claim, picture, finish) with the machine's own client. Their CPU time is
this computer's too; what is said of the server's cost is counted in the server's processes alone.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import psutil
import requests
from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from app.core.lifecycle import JobState
from app.core.protocol import CHECK_IN_SECONDS
from app.core.tables import Job, Machine, Model
from tasks.control.sweep import sweep
from tasks.machine.errors import Refused
from tests.bench.backlog import fill, forget, machine_of, put_models, ringing
from tests.bench.figures import head, p99, row, spread, timed
from tests.bench.light_machines import LightMachine, Watch, all_at_once, checking_in, machines_at
from tests.bench.provision import machine
from tests.support.processes import wait_until
from tests.support.system import System, running_system

FLEETS = (10, 100, 1000)
WHOLE = 10
"""So many machines are whole ones: more do not fit on a small computer."""

STEADY_SECONDS = 20.0
DRAWN = 400
ONE_BY_ONE = 200
FEW = 50
LEAST_CALLS = 600
MODELS = 10
CALLS = ("claim", "picture", "finish")
CATALOGUE = 10_000
TEN = 10
"""So many models of the catalogue share a file: nine need the first one."""

ORDERS_PER_SECOND = 5
"""Beside the check-ins of a hundred machines, what a lookup is measured under."""


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=FLEETS[-1], help="the most machines")
    parser.add_argument("--jobs", type=int, default=100_000, help="the backlog")
    parser.add_argument("--queues", type=int, default=1000, help="the models that the backlog is for")
    parser.add_argument("--seconds", type=float, default=STEADY_SECONDS, help="how long each steady state is watched")
    given = parser.parse_args()
    print(f"{machine()}\n")
    with (
        tempfile.TemporaryDirectory(prefix="bench-fleet-") as folder,
        running_system(Path(folder), FAKE_STEP_SECONDS="0", PREVIEW_SECONDS="0") as system,
    ):
        put_models(system.engine, MODELS)
        _whole_machines(system, min(WHOLE, given.machines), given.seconds)
        fleets = [count for count in FLEETS if count <= given.machines]
        _light_machines(system, fleets, given.seconds)
        _drawing(system, fleets)
        _lookups(system, given.seconds)
        _long_backlog(system, given.jobs, given.queues)


# Machines


def _whole_machines(system: System, count: int, seconds: float) -> None:
    """Let whole machines draw what waits for them, through the broker."""
    with ExitStack() as running:
        for number in range(count):
            running.enter_context(machine_of(system, f"bench-{number}"))
        before, began = _cpu(system), time.monotonic()
        time.sleep(seconds)
        idle = (_cpu(system) - before) / (time.monotonic() - began) / count
        before, began = _cpu(system), time.monotonic()
        all_at_once(DRAWN, lambda k: _order(system, f"bench-{k % count}"))
        wait_until(lambda: not _waiting(system), "all is drawn", 180)
        took = time.monotonic() - began
        print(
            f"{count} whole machines with the fake driver: {DRAWN / took:.0f} jobs a second from order to picture, "
            f"{1000 * (_cpu(system) - before) / DRAWN:.0f} ms of the server's CPU for each; "
            f"idle, a machine costs it {1000 * idle:.2f} ms a second\n",
            flush=True,
        )
    _forget_all(system)


def _light_machines(system: System, fleets: Sequence[int], seconds: float) -> None:
    """Let machines check in: as fast as they can, then at the pace of those that draw, then as the server says."""
    rates = "check-ins/s at most", "each comes every", "check-ins/s wanted", "came"
    head("machines", *rates, "p50 ms", "p99 ms", "late by p99 ms", "server's CPU ms/s a machine", "cores in all")
    for count in fleets:
        most = _at_most(system, count)
        row(f"{count:,}, that draw", most, *_steady(system, count, seconds, is_patient=False))
        row(f"{count:,}, idle", most, *_steady(system, count, seconds, is_patient=True))
        _forget_all(system)
    print()


def _at_most(system: System, count: int) -> str:
    """Let each check in for the first time, and some more, as fast as they come."""
    machines, turns = machines_at(system.url, count, MODELS, Watch()), count * max(1, LEAST_CALLS // count)
    return f"{turns / all_at_once(turns, lambda k: machines[k % count].check_in()):.0f}"


def _steady(system: System, count: int, seconds: float, *, is_patient: bool) -> Iterator[str]:
    watch, late = Watch(), list[float]()
    machines = machines_at(system.url, count, MODELS, watch, is_patient=is_patient)
    all_at_once(count, lambda k: machines[k].check_in())  # so each knows its pause
    watch.took.clear()
    pause = sum(each.pause for each in machines) / count
    yield f"{pause:.1f} s"
    yield f"{count / pause:.0f}"
    before, began = _cpu(system), time.monotonic()
    with checking_in(machines, late):
        time.sleep(seconds)
    passed = time.monotonic() - began
    cost, took = (_cpu(system) - before) / passed, watch.took["check-in"]
    yield f"{len(took) / passed:.0f}"
    yield from spread(took)
    yield f"{1000 * p99(late):.0f}"
    yield f"{1000 * cost / count:.2f}"
    yield f"{cost:.2f}"


def _drawing(system: System, fleets: Sequence[int]) -> None:
    """Let light machines take, deliver and end jobs as fast as they can."""
    times = [f"{call} {what}" for call in CALLS for what in ("p50 ms", "p99 ms")]
    head("machines that draw", "jobs/s", *times, "server's CPU ms a job")
    for count in fleets:
        row(f"{count:,}", *_drawn(system, count))
        _forget_all(system)
    print()


def _drawn(system: System, count: int) -> Iterator[str]:
    watch = Watch()
    machines = machines_at(system.url, count, MODELS, watch)
    all_at_once(count, lambda k: machines[k].check_in())
    ids = [_order(system, f"bench-{k % MODELS}") for k in range(DRAWN)]
    before = _cpu(system)
    took = all_at_once(DRAWN, lambda k: _draw(machines[k % count], ids[k]))
    cost = _cpu(system) - before
    yield f"{len(watch.took['finish']) / took:.0f}"
    for call in CALLS:
        yield from spread(watch.took[call])
    yield f"{1000 * cost / DRAWN:.1f}"


def _draw(light: LightMachine, rung_for: UUID) -> None:
    try:
        light.draw(rung_for)
    except Refused:
        return  # another machine has taken what this bell was for


# Looking models up


def _lookups(system: System, seconds: float) -> None:
    """Ask for ten and for a hundred of many models, alone and beside other work."""
    _fill_catalogue(system)
    head(f"lookups in a catalogue of {CATALOGUE:,}", "ids", "p50 ms", "p99 ms")
    for count in (10, 100):
        row("alone", count, *spread(_looked_up(system, count)))
    with checking_in(machines_at(system.url, 100, MODELS, Watch()), []), _ordering(system):
        time.sleep(min(seconds, CHECK_IN_SECONDS))
        for count in (10, 100):
            told = f"beside check-ins of 100 machines and {ORDERS_PER_SECOND} orders/s"
            row(told, count, *spread(_looked_up(system, count)))
    _forget_all(system)
    print()


def _fill_catalogue(system: System) -> None:
    now = datetime.now(UTC)
    rows = [
        {
            "id": f"catalogue-{k}", "name": f"Model {k}", "download_url": f"https://models.example/{k}.safetensors",
            "save_path": f"checkpoints/{k}.safetensors", "hash": "sha256:" + "0" * 64, "file_size_gb": 6.9,
            "dependencies": [f"catalogue-{k - k % TEN}"] if k % TEN else [], "created_at": now, "updated_at": now,
        }
        for k in range(CATALOGUE)
    ]  # fmt: skip
    with Session(system.engine) as session:
        session.execute(insert(Model), rows)
        session.commit()


def _looked_up(system: System, count: int) -> list[float]:
    session = requests.Session()

    def look_up(turn: int) -> None:
        ids = [f"catalogue-{(turn * count + k) % CATALOGUE}" for k in range(count)]
        found = session.post(f"{system.url}/api/models/batch", json={"model_ids": ids}, timeout=30).json()
        assert len(found["models"]) == count

    return timed(ONE_BY_ONE, look_up)


@contextmanager
def _ordering(system: System) -> Iterator[None]:
    """Order at a steady pace as long as the block lasts."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(1 / ORDERS_PER_SECOND):
            _order(system, "bench-0")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# A long backlog over many models


def _long_backlog(system: System, jobs: int, queues: int) -> None:
    """Do what the server does all day beside a long backlog, and beside none."""
    put_models(system.engine, queues)
    found: dict[str, list[str]] = {}
    for backlog in (0, jobs):
        fill(system, system.engine, backlog, queues)
        for name, took in _all_day(system, [f"bench-{k}" for k in range(queues)]):
            found.setdefault(name, []).extend(spread(took))
        forget(system)
    head(f"over {queues:,} models", "none queued: p50 ms", "p99 ms", f"{jobs:,} jobs queued: p50 ms", "p99 ms")
    for name, cells in found.items():
        row(name, *cells)


def _all_day(system: System, ids: Sequence[str]) -> Iterator[tuple[str, list[float]]]:
    """Do each thing some times; returns what it is called, and the seconds it took."""
    watch = Watch()
    machine_of_all = LightMachine(system.url, 0, ids, watch)
    yield "check-in of a machine with every model", timed(FEW, lambda _: machine_of_all.check_in())
    yield "POST /v1/jobs", timed(FEW, lambda k: _order(system, ids[k % len(ids)]))
    for path in ("v1/jobs?limit=50", "v1/capacity", "metrics"):
        yield f"GET /{path}", timed(FEW, partial(_ask, system, path))
    for job_id in [_order(system, ids[k % len(ids)]) for k in range(ONE_BY_ONE)]:
        _draw(machine_of_all, job_id)
    for call in CALLS:
        yield call, watch.took[call]
    with ringing(system, system.engine) as fleet:
        yield "a round of the sweeper", timed(10, lambda _: sweep(fleet))


def _ask(system: System, path: str, _: int) -> None:
    requests.get(f"{system.url}/{path}", timeout=60).raise_for_status()


# What all of them need


def _order(system: System, model_id: str) -> UUID:
    body = {"model_id": model_id, "prompt": "a red circle", "steps": 1, "width": 64, "height": 64, "seed": 1}
    answer = requests.post(f"{system.url}/v1/jobs", json=body, timeout=30)
    answer.raise_for_status()
    return UUID(answer.json()["job_id"])


def _waiting(system: System) -> bool:
    open_ones = (JobState.QUEUED, JobState.PROCESSING)
    with Session(system.engine) as session:
        return session.scalar(select(Job.id).where(Job.state.in_(open_ones)).limit(1)) is not None


def _forget_all(system: System) -> None:
    """Drop jobs, bells and machines."""
    forget(system)
    with Session(system.engine) as session:
        session.execute(delete(Machine))
        session.commit()


def _cpu(system: System) -> float:
    """Return the CPU seconds that the server has used: web, control worker, beat, database and broker."""
    tops = [system.parts[name].process for name in ("web", "control", "beat")]
    tops += [system.postgres.process, system.broker.process]
    total = 0.0
    for top in tops:
        assert top is not None
        process = psutil.Process(top.pid)
        for each in (process, *process.children(recursive=True)):
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
    return total


if __name__ == "__main__":
    main()
