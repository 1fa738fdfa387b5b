"""When a machine consumes the queues of its models, and when it leaves them all."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from app.core.fleet import Fleet
from app.core.tables import Machine
from provisioning import receipts
from provisioning.receipts import ProvenFile, Receipt
from tasks.machine.proofs import Receipts
from tasks.machine.readiness import QueueGate
from tasks.machine.watch import Watch
from tasks.machine.work import Worker
from tests.builders import MACHINE, MODEL, a_job, a_model, the_job


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@dataclass
class Consumer:
    """Celery's consumer, as far as the gate speaks with it; does at once what it is asked to do soon."""

    queues: set[str] = field(default_factory=set)
    task_consumer: object = True

    def call_soon(self, what: Callable[[], None]) -> None:
        """Do it."""
        what()

    def add_task_queue(self, queue: str) -> None:
        """Consume a queue."""
        self.queues.add(queue)

    def cancel_task_queue(self, queue: str) -> None:
        """Leave a queue."""
        self.queues.discard(queue)


@pytest.fixture
def consumer() -> Consumer:
    """Return a consumer."""
    return Consumer()


@pytest.fixture
def watch(fleet: Fleet, drawing_worker: Worker, consumer: Consumer, tmp_path: Path) -> Watch:
    """Return the eyes of a machine that holds a proven model."""
    a_model(fleet)
    file = tmp_path / "models" / "model.bin"
    file.parent.mkdir()
    file.write_bytes(b"the weights")
    digest = f"sha256:{hashlib.sha256(b'the weights').hexdigest()}"
    proven = ProvenFile.of(tmp_path / "models", Path("model.bin"), digest)
    receipts.save(tmp_path / "models", Receipt(MODEL, "https://models.example.org", (proven,), (), "2026-01-05"))
    gate = QueueGate()
    gate.attach(consumer)
    found = Watch(Receipts(tmp_path / "models", (MODEL,)), drawing_worker.client, drawing_worker, gate, "1", dict)
    drawing_worker.on_turned_away = found.turned_away
    return found


def look(watch: Watch) -> None:
    """Check in and look, as a machine does every few seconds."""
    watch.check_in()
    watch.look()


def drain(fleet: Fleet, *, drained: bool) -> None:
    with fleet.transaction() as tx:
        tx.session.get_one(Machine, MACHINE).drained = drained


def test_no_queue_is_joined_before_the_fleet_knows_the_machine(watch: Watch, consumer: Consumer) -> None:
    watch.look()
    before = set(consumer.queues)

    look(watch)

    assert (before, consumer.queues) == (set(), {f"model.{MODEL}"})


def test_a_drained_machine_leaves_with_its_next_check_in_and_comes_back_with_another(
    fleet: Fleet, watch: Watch, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    look(watch)
    drain(fleet, drained=True)
    look(watch)
    while_drained = set(consumer.queues)
    drain(fleet, drained=False)

    look(watch)

    assert (while_drained, consumer.queues) == (set(), {f"model.{MODEL}"})
    assert "drained: " in caplog.text


def test_a_claim_that_is_turned_away_empties_the_queues_at_once(
    fleet: Fleet, drawing_worker: Worker, watch: Watch, consumer: Consumer
) -> None:
    job = a_job(fleet)
    look(watch)
    drain(fleet, drained=True)

    drawing_worker.run(job.id)
    at_once = set(consumer.queues)
    watch.look()

    assert (at_once, consumer.queues) == (set(), set())
    assert the_job(fleet, job.id).attempts == []


def test_a_machine_whose_spool_is_full_takes_no_more_until_there_is_room(
    drawing_worker: Worker, watch: Watch, consumer: Consumer, caplog: pytest.LogCaptureFixture
) -> None:
    look(watch)
    drawing_worker.spool._most_bytes = 10
    parcel = drawing_worker.spool.put((uuid4(), 1), {0: ({}, bytes(100))}, {"state": "completed"})
    look(watch)
    while_full = set(consumer.queues)
    parcel.drop()

    look(watch)

    assert (while_full, consumer.queues) == (set(), {f"model.{MODEL}"})
    assert "the spool is full" in caplog.text


def test_what_has_happened_is_reported_with_the_device(fleet: Fleet, drawing_worker: Worker, watch: Watch) -> None:
    drawing_worker.swaps, drawing_worker.spool.refused = 3, 2

    watch.check_in()

    with fleet.reading() as session:
        device = session.get_one(Machine, MACHINE).device
    assert (device["swaps"], device["refused"]) == (3, 2)
