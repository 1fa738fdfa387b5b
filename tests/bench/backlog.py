"""What a benchmark of dispatching stands on: long backlogs, many models, and machines that hold them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import redis
from celery import Celery
from kombu.transport.redis import Channel
from sqlalchemy import Engine, delete, insert, select, text
from sqlalchemy.orm import Session

from app.broker import CeleryDispatcher, make_celery
from app.core import attempts, check_in, jobs
from app.core.dispatch import model_queue
from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState, JobState
from app.core.machines import HoldingReport, Report
from app.core.spec import GenerationSpec
from app.core.tables import Job, Model
from app.settings import Settings
from provisioning import receipts
from tests.support.fakes import MemoryImages, MemoryLive
from tests.support.processes import wait_until
from tests.support.system import System
from tests.support.web import Client

MODEL = "bench-0"
HERE, BOOT = "bench-here", "bench"
"""The machine that claims out of the benchmark's own process."""

BATCH = 5000

SEPARATOR = Channel.sep
"""Stands between the name of a queue and the priority in the name of its list."""


def fill(system: System, engine: Engine, count: int, models: int = 1) -> None:
    """Let so many jobs of one client wait, spread over so many models, each with its bell."""
    if not count:
        return
    ids = [f"bench-{k}" for k in range(models)]
    specs = [GenerationSpec(model_id=each, prompt="a red circle", steps=1, seed=1).to_json() for each in ids]
    now = datetime.now(UTC) - timedelta(hours=1)
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        for start in range(0, count, BATCH):
            rows = [
                {
                    "id": uuid4(),
                    "model_id": ids[k % models],
                    "state": JobState.QUEUED,
                    "spec": specs[k % models],
                    "priority": 0,
                    "rank": 9,
                    "created_at": now + timedelta(milliseconds=start + k),
                    "queued_at": now + timedelta(milliseconds=start + k),
                    "rung_at": now,
                    "max_attempts": 3,
                }
                for k in range(min(BATCH, count - start))
            ]
            connection.execute(insert(Job), rows)
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(text("ANALYZE"))  # PostgreSQL does so by itself within a minute
    settings = Settings.load(system.environ)
    celery = make_celery(settings, "bench")
    with redis.Redis.from_url(settings.broker_url) as connection:
        for model_id in ids:
            _ring(celery, connection, model_queue(model_id), count // models)
    celery.close()


def _ring(celery: Celery, connection: redis.Redis, queue: str, count: int) -> None:
    """Put as many bells into a queue, copies of one."""
    celery.send_task("imagefleet.generate", args=[str(uuid4())], queue=queue, priority=9)
    (name,) = [queue] if connection.exists(queue) else connection.keys(f"{queue}{SEPARATOR}*")
    bell = connection.lindex(name, 0)
    assert isinstance(bell, bytes)
    for start in range(0, count, BATCH):
        connection.lpush(name, *[bell] * min(BATCH, count - start))


def put_models(engine: Engine, count: int) -> None:
    """Bring so many models into the catalogue."""
    now = datetime.now(UTC)
    with Session(engine) as session:
        session.connection(execution_options={"writes": True})
        known = set(session.scalars(select(Model.id)))
        session.add_all(
            Model(
                id=f"bench-{k}", name="m", download_url="https://m", save_path=f"m{k}", created_at=now, updated_at=now
            )
            for k in range(count)
            if f"bench-{k}" not in known
        )
        session.commit()


@contextmanager
def ringing(system: System, engine: Engine) -> Iterator[Fleet]:
    """Ring on the real broker out of this process."""
    celery = make_celery(Settings.load(system.environ), "bench")
    yield Fleet(engine, CeleryDispatcher(celery), MemoryImages(), MemoryLive())
    celery.close()


@contextmanager
def machine_of(system: System, *ids: str) -> Iterator[None]:
    """Run one machine that holds these models as proven: a byte each, downloaded by nobody."""
    name = f"machine-{ids[-1]}"
    folder = system.folder / name / "models"
    folder.mkdir(parents=True, exist_ok=True)
    for model_id in ids:
        (folder / model_id).write_bytes(b"0")
        file = receipts.ProvenFile.of(folder, Path(model_id), "sha256:0")
        receipts.save(folder, receipts.Receipt(model_id, "https://m", (file,), (), datetime.now(UTC).isoformat()))
    known = {"DATA_DIR": str(folder.parent), "MACHINE_ID": name, "MACHINE_MODELS_NEEDED": ",".join(ids)}
    part = system.add(name, "tasks.machine", DATABASE_URL="", HOST="127.0.0.1", **known)
    try:
        wait_until(lambda: name in system.ready_machines(ids[-1]), f"{name} is ready", 60)
        yield
    finally:
        part.kill()
        del system.parts[name]


def submit(fleet: Fleet, model_id: str) -> None:
    """Order a picture."""
    with fleet.transaction() as tx:
        jobs.submit(tx, GenerationSpec(model_id=model_id, prompt="a red circle", steps=1, width=64, height=64))


def check_in_here(fleet: Fleet) -> None:
    """Let a machine check in that claims out of this process."""
    with fleet.transaction() as tx:
        running = frozenset((a.job_id, a.number) for a in attempts.running_on(tx.session, HERE))
        held = (HoldingReport(model_id=MODEL, state=HoldingState.READY),)
        check_in.check_in(tx, Report(machine_id=HERE, boot_id=BOOT, holdings=held, attempts=running))


def claim(fleet: Fleet) -> None:
    """Let the machine in this process hear a bell."""
    with fleet.reading() as session:
        rung_for = session.scalars(select(Job.id).where(Job.state == JobState.QUEUED).limit(1)).one()
    with fleet.transaction() as tx:
        attempts.claim(tx, rung_for, HERE, BOOT)


def look(client: Client) -> None:
    """Ask as a client does that waits: with place in the queue, forecast and all."""
    (job,) = client.get("/v1/jobs?status=queued&limit=1").json["jobs"]
    assert client.get(f"/v1/jobs/{job['job_id']}").status_code == 200


def forget(system: System, engine: Engine | None = None) -> None:
    """Drop all jobs and all bells."""
    with Session(engine or system.engine) as session:
        session.connection(execution_options={"writes": True})
        session.execute(delete(Job))
        session.commit()
    redis.Redis.from_url(Settings.load(system.environ).broker_url).flushall()
