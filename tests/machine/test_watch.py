"""When a machine consumes the queues of its models, and when it leaves them all."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from app.core import explain, machines, presence
from app.core.explain import Reason
from app.core.fleet import Fleet, Limits
from app.core.lifecycle import HoldingState
from app.core.protocol import CHECK_IN_SECONDS
from app.core.tables import Machine
from provisioning import receipts
from provisioning.receipts import ProvenFile, Receipt
from tasks.machine.proofs import Receipts
from tasks.machine.readiness import QueueGate
from tasks.machine.watch import Watch
from tasks.machine.work import Worker
from tests.builders import MACHINE, MODEL, a_job, a_model, the_job
from tests.support.processes import free_port


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


def test_a_machine_that_is_stopped_says_that_it_leaves_and_its_next_start_that_it_is_back(
    fleet: Fleet, watch: Watch
) -> None:
    def has_left() -> tuple[bool, int]:
        with fleet.reading() as session:
            machine = machines.get(session, MACHINE)
            return presence.has_left(machine.device), len(machine.holdings)

    look(watch)
    before = has_left()
    watch.say_goodbye()
    after = has_left()
    look(watch)  # as its next start would

    assert (before, after, has_left()) == ((False, 1), (True, 0), (False, 1))


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


@pytest.fixture
def in_a_crowd(fleet: Fleet, watch: Watch) -> Watch:
    """Return the eyes of a machine whose server likes to hear of idle ones every twenty seconds."""
    object.__setattr__(fleet, "limits", Limits(idle_check_ins_per_second=0.05))  # the server has this very fleet
    return watch


def test_an_idle_machine_is_quiet_for_as_long_as_the_server_says(in_a_crowd: Watch) -> None:
    at_first = in_a_crowd.patience()
    look(in_a_crowd)
    before_its_model_was_told = in_a_crowd.patience()

    look(in_a_crowd)

    assert (at_first, before_its_model_was_told) == (CHECK_IN_SECONDS, CHECK_IN_SECONDS)
    assert 16 <= in_a_crowd.patience() <= 20


def test_a_machine_that_has_something_to_do_is_not_quiet(in_a_crowd: Watch, drawing_worker: Worker) -> None:
    look(in_a_crowd)
    look(in_a_crowd)
    quiet = in_a_crowd.patience()
    parcel = drawing_worker.spool.put((uuid4(), 1), {0: ({}, b"a picture")}, {"state": "completed"})
    while_delivering = in_a_crowd.patience()
    parcel.drop()
    in_a_crowd.leave()

    assert quiet > while_delivering == in_a_crowd.patience() == CHECK_IN_SECONDS


def test_a_machine_that_has_drawn_tells_of_itself_before_it_is_quiet_again(
    fleet: Fleet, in_a_crowd: Watch, drawing_worker: Worker
) -> None:
    look(in_a_crowd)
    look(in_a_crowd)
    quiet = in_a_crowd.patience()

    drawing_worker.run(a_job(fleet).id)  # over before anybody looked: but the claim has taken the permission back
    has_drawn = in_a_crowd.patience()
    look(in_a_crowd)

    assert has_drawn == CHECK_IN_SECONDS < min(quiet, in_a_crowd.patience())


def test_a_machine_that_cannot_reach_its_server_tries_again_soon(
    in_a_crowd: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(in_a_crowd)
    look(in_a_crowd)
    quiet = in_a_crowd.patience()
    monkeypatch.setattr(in_a_crowd.client, "_url", f"http://127.0.0.1:{free_port()}")

    in_a_crowd.check_in()

    assert quiet > in_a_crowd.patience() == CHECK_IN_SECONDS


def test_a_machine_whose_broker_is_away_says_so_and_a_waiting_job_is_told(
    fleet: Fleet, watch: Watch, consumer: Consumer
) -> None:
    job = a_job(fleet)
    watch.gate.detach()
    look(watch)
    watch.check_in()

    with fleet.reading() as session:
        told = explain.explain(explain.gather(fleet, session, job.id))
    watch.gate.attach(consumer)
    look(watch)
    watch.check_in()

    assert [(each.reason, "reaches its broker" in each.told) for each in told.verdicts] == [(Reason.VERIFYING, True)]
    assert "reaches its broker" in told.summary
    with fleet.reading() as session:
        (holding,) = machines.get(session, MACHINE).holdings
    assert (holding.state, holding.error) == (HoldingState.READY, None)


def test_a_machine_that_is_not_heard_says_so_now_and_then(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch.client, "_url", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("tasks.machine.watch.SAY_AGAIN_SECONDS", 3600.0)
    watch.check_in()
    watch.check_in()
    at_first = caplog.text.count("could not check in")
    watch._say_again_at = 0.0  # an hour later

    watch.check_in()

    assert (at_first, caplog.text.count("could not check in")) == (1, 2)
    assert "no connection; is the address right" in caplog.text
