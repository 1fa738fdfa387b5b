"""What dispatching costs: raw Celery against our submit and claim, on the same broker, in one run.

    make bench-dispatch            # or: python -m tests.bench.dispatch --jobs 100000 --queues 1000

Real processes on loopback: Redis, PostgreSQL, gunicorn with two workers, control worker, beat, and a machine with the
fake driver whose steps take no time. Then the same verbs in this process, on PostgreSQL and on SQLite, with backlogs.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from uuid import UUID

import redis
import requests
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

from app import database
from app.api.application import make_application
from app.broker import make_celery
from app.core.fleet import Fleet, prepare_engine
from app.core.lifecycle import ENDED, JobState
from app.core.tables import Job
from app.settings import Settings
from tasks.control.sweep import sweep
from tests.bench.backlog import (
    MODEL,
    check_in_here,
    claim,
    fill,
    forget,
    look,
    machine_of,
    put_models,
    ringing,
    submit,
)
from tests.bench.figures import p99, timed
from tests.bench.noop import QUEUE, STARTED
from tests.bench.provision import machine
from tests.support.processes import wait_until
from tests.support.system import System, running_system
from tests.support.web import client_of

AT_ONCE = 2000
ONE_BY_ONE = 200
DRAWN = 300
"""How many are sent as fast as possible, sent one after the other has begun, and drawn."""

PAUSE = 0.03
BACKLOGS = (0, 10_000, 100_000)
QUEUES = (1, 100, 1000)
CLIENTS = 8


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=BACKLOGS[-1], help="the largest backlog")
    parser.add_argument("--queues", type=int, default=QUEUES[-1], help="the most model queues")
    given = parser.parse_args()
    print(f"{machine()}\n")
    with (
        tempfile.TemporaryDirectory(prefix="bench-dispatch-") as folder,
        running_system(Path(folder), FAKE_STEP_SECONDS="0", PREVIEW_SECONDS="0") as system,
    ):
        _celery_against_ours(system)
        _by_queues(system, [count for count in QUEUES if count <= given.queues])
        system.parts["beat"].kill()  # the rounds of the sweeper are measured here, alone
        backlogs = [count for count in BACKLOGS if count <= given.jobs]
        _beside_a_backlog(system, backlogs)
        _by_backlog("PostgreSQL", system, system.engine, backlogs)
        sqlite = prepare_engine(create_engine(f"sqlite:///{folder}/bench.db"))
        database.upgrade(sqlite)
        _by_backlog("SQLite", system, sqlite, backlogs)
        sqlite.dispose()


# Celery alone, and our own


def _celery_against_ours(system: System) -> None:
    print("| | per second | p50 ms | p99 ms |\n|---|---|---|---|")
    _raw_celery(system)
    put_models(system.engine, 1)
    with ringing(system, system.engine) as fleet:
        took = timed(AT_ONCE // 2, lambda _: submit(fleet, MODEL))
        _row("our submit in one process: row, commit, bell", took)
        forget(system)
    for clients in (1, CLIENTS):
        took, rate = _posted(system, clients)
        _row(f"POST /v1/jobs through gunicorn, {clients} at a time", took, rate)
    forget(system)
    ids = [_post(system)[0] for _ in range(DRAWN)]
    with machine_of(system, MODEL):
        rate = _drawn_rate(system, ids)
        _row(f"claimed, drawn in one step, delivered and finished by one machine, {DRAWN} waiting", [], rate)
        _row("POST until the machine has claimed the job, idle", _until_claimed(system)[1])
    forget(system)
    print(flush=True)


def _raw_celery(system: System) -> None:
    settings = Settings.load(system.environ)
    celery = make_celery(settings, "bench")
    took = timed(AT_ONCE, lambda _: celery.send_task("bench.noop", queue=QUEUE))
    _row("Celery: publish", took)
    queue = redis.Redis.from_url(settings.broker_url)
    options = ("--pool=threads", "--concurrency=1", "--without-gossip", "--without-mingle", f"--queues={QUEUE}")
    worker = system.add("noop", "celery", "--quiet", "--app=tests.bench.noop", "worker", *options, "--loglevel=ERROR")
    wait_until(lambda: queue.llen(QUEUE) < AT_ONCE - 100, "the no-op worker has begun", 60)
    first, began = queue.llen(QUEUE), time.monotonic()
    wait_until(lambda: not queue.llen(QUEUE), "the no-op worker is done", 60)
    _row("Celery: a no-op, one worker, 2,000 waiting", [], first / (time.monotonic() - began))
    for _ in range(ONE_BY_ONE):
        celery.send_task("bench.tell", args=[time.time()], queue=QUEUE)
        time.sleep(PAUSE)
    wait_until(lambda: queue.llen(STARTED) >= ONE_BY_ONE, "all were told", 60)
    _row("Celery: publish until a no-op starts, idle", [float(seconds) for seconds in queue.lrange(STARTED, 0, -1)])
    worker.kill()
    del system.parts["noop"]
    celery.close()


def _post(system: System, session: requests.Session | None = None, model_id: str = MODEL) -> tuple[str, float]:
    began = time.perf_counter()
    body = {"model_id": model_id, "prompt": "a red circle", "steps": 1, "width": 64, "height": 64, "seed": 1}
    answer = (session or requests).post(f"{system.url}/v1/jobs", json=body, timeout=30)
    answer.raise_for_status()
    return str(answer.json()["job_id"]), time.perf_counter() - began


def _posted(system: System, clients: int) -> tuple[list[float], float]:
    """Order from several threads, each with a connection of its own; returns seconds of each, and orders a second."""
    sessions = [requests.Session() for _ in range(clients)]
    with ThreadPoolExecutor(clients) as crowd:
        began = time.monotonic()
        took = list(crowd.map(lambda k: _post(system, sessions[k % clients])[1], range(AT_ONCE // 4)))
        return took, len(took) / (time.monotonic() - began)


def _drawn_rate(system: System, ids: Sequence[str]) -> float:
    def ended() -> list[datetime] | None:
        with Session(system.engine) as session:
            query = select(Job.ended_at).where(Job.id.in_([UUID(i) for i in ids]), Job.state == JobState.COMPLETED)
            found = [moment for moment in session.scalars(query.order_by(Job.ended_at)) if moment]
        return found if len(found) == len(ids) else None

    moments = wait_until(ended, "all are drawn", 120)
    half = moments[len(moments) // 2 :]  # the first ones find the driver cold
    return (len(half) - 1) / (half[-1] - half[0]).total_seconds()


def _until_claimed(system: System, model_id: str = MODEL) -> tuple[list[float], list[float]]:
    """Order one after the other has been drawn.

    Returns the seconds of each request, and the seconds from before each request until the claim was kept.
    """
    posted, claimed = [], []
    session = requests.Session()
    for _ in range(ONE_BY_ONE):
        at = time.time()
        job_id, seconds = _post(system, session, model_id)
        begun = wait_until(partial(_begun, system, UUID(job_id)), "the job is drawn")
        posted.append(seconds)
        claimed.append(begun.timestamp() - at)
    return posted, claimed


def _begun(system: System, job_id: UUID) -> datetime | None:
    """Return when a job that has ended was begun; None before its end."""
    with Session(system.engine) as session:
        return session.scalar(select(Job.started_at).where(Job.id == job_id, Job.ended_at.is_not(None)))


# By the number of queues


def _by_queues(system: System, counts: Sequence[int]) -> None:
    print("| model queues that one machine consumes | submit p50 ms | POST until claimed p50 ms | p99 ms | sweep ms |")
    print("|---|---|---|---|---|")
    for count in counts:
        cells = _with_queues(system, [f"bench-{number}" for number in range(count)])
        print(f"| {count:,} | " + " | ".join(f"{1000 * cell:.1f}" for cell in cells) + " |", flush=True)
        forget(system)
    print()


def _with_queues(system: System, ids: Sequence[str]) -> list[float]:
    put_models(system.engine, len(ids))
    with machine_of(system, *ids), ringing(system, system.engine) as fleet:
        ordered = timed(ONE_BY_ONE, lambda k: submit(fleet, ids[k % len(ids)]))
        _wait_until_ended(system)
        _, claimed = _until_claimed(system, ids[-1])
        _spread(fleet, ids)
        swept = timed(5, lambda _: sweep(fleet))
        _wait_until_ended(system)
    return [median(ordered), median(claimed), p99(claimed), median(swept)]


def _spread(fleet: Fleet, ids: Sequence[str]) -> None:
    """Let one job wait in every queue."""
    for model_id in ids:
        submit(fleet, model_id)


def _wait_until_ended(system: System) -> None:
    """Wait until no job waits or is drawn."""

    def is_idle() -> bool:
        with Session(system.engine) as session:
            return session.scalar(select(Job.id).where(Job.state.not_in(ENDED)).limit(1)) is None

    wait_until(is_idle, "every job has ended", 180)


# By the length of the backlog


def _by_backlog(name: str, system: System, engine: Engine, backlogs: Sequence[int]) -> None:
    columns = ("submit p50 ms", "p99 ms", "claim p50 ms", "p99 ms", "status p50 ms", "sweep ms")
    print(f"| {name}: jobs queued for one model | {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|")
    put_models(engine, 1)
    with ringing(system, engine) as fleet:
        client = client_of(make_application(fleet, Settings.load(system.environ)))
        check_in_here(fleet)
        for count in backlogs:
            fill(system, engine, count)
            ordered = timed(ONE_BY_ONE, lambda _: submit(fleet, MODEL))
            claimed = timed(ONE_BY_ONE, lambda _: claim(fleet))
            submit(fleet, MODEL)
            shown = timed(50, lambda _: look(client))
            check_in_here(fleet)
            swept = timed(10, lambda _: sweep(fleet))
            cells = [median(ordered), p99(ordered), median(claimed), p99(claimed), median(shown), median(swept)]
            print(f"| {count:,} | " + " | ".join(f"{1000 * cell:.2f}" for cell in cells) + " |", flush=True)
            forget(system, engine)
    print()


def _beside_a_backlog(system: System, backlogs: Sequence[int]) -> None:
    """Order through HTTP for a model that a machine draws, while another model's jobs wait."""
    print("| PostgreSQL: jobs queued for another model | POST p50 ms | p99 ms | POST until claimed p50 ms | p99 ms |")
    print("|---|---|---|---|---|")
    put_models(system.engine, 2)
    for count in backlogs:
        fill(system, system.engine, count)
        with machine_of(system, "bench-1"):
            posted, claimed = _until_claimed(system, "bench-1")
        cells = [median(posted), p99(posted), median(claimed), p99(claimed)]
        print(f"| {count:,} | " + " | ".join(f"{1000 * cell:.1f}" for cell in cells) + " |", flush=True)
        forget(system)
    print()


# Numbers


def _row(name: str, took: Sequence[float], rate: float | None = None) -> None:
    per_second = rate if rate is not None else len(took) / sum(took)
    cells = [f"{1000 * median(took):.1f}", f"{1000 * p99(took):.1f}"] if took else ["", ""]
    shown = "" if "idle" in name else f"{per_second:,.0f}"
    print(f"| {name} | {shown} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
