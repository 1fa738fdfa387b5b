"""Webhooks as a whole: a real broker, real databases, real control workers, real signals, and a real receiver."""

import socket
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
import requests
from sqlalchemy import Engine, func, select, update

from app.broker import CeleryDispatcher, make_celery
from app.core import deliveries, images, jobs
from app.core.deliveries import LOST
from app.core.fleet import Fleet
from app.core.jobs import Terms
from app.core.lifecycle import AttemptState, DeliveryState, JobState
from app.core.tables import Delivery, Job
from app.settings import Settings
from app.vault import FernetVault
from tasks.control.lanes import IN_ALL
from tests.builders import a_job, a_machine, a_model, an_upload, claim, finish, the_job
from tests.support.broker import BrokerServer
from tests.support.fakes import MemoryImages, MemoryLive
from tests.support.processes import WAIT_SECONDS, Process, wait_until
from tests.support.receiver import KEY, SECRET, Receiver, a_receiver, hang, status, wait_for
from tests.support.servers import Up, environ_of

SECRET_KEY = "the-key-that-encrypts"


class Control:
    """Control workers of a test."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._started: list[Process] = []

    def start(self, *, beat: bool = True) -> Process:
        """Start one, and wait until it is ready."""
        number = len(self._started)
        ready = self._folder / f"ready-{number}"
        command = [sys.executable, "-m", "celery", "--quiet", "--app=tasks.control.app", "worker"]
        options = [
            "--queues=control,webhooks",
            f"--hostname=control-{number}@%h",
            "--without-gossip",
            "--without-mingle",
        ]
        schedule = ["--beat", "--scheduler=celery.beat:Scheduler"] if beat else []
        environ = {**self._environ, "CONTROL_READY_FILE": str(ready)}
        log = self._folder / f"control-{number}.log"
        process = Process([*command, *options, *schedule], log, environ=environ, dies_with_us=True)
        self._started.append(process)
        process.wait_until(ready.exists, "the control worker is ready")
        return process

    def said(self) -> str:
        """Return what all of them have written."""
        return "".join(process.said() for process in self._started)

    def kill(self) -> None:
        """End all of them at once."""
        for process in self._started:
            process.cut_off()


@pytest.fixture
def control(tmp_path: Path, database_url: str, broker_url: str) -> Iterator[Control]:
    """Return a way to start control workers."""
    environ = environ_of(
        tmp_path,
        DATABASE_URL=database_url,
        BROKER_URL=broker_url,
        SECRET_KEY=SECRET_KEY,
        WEBHOOK_ALLOW_PRIVATE="1",
        WEBHOOK_RETRY_SECONDS="1",
        WEBHOOK_ANSWER_SECONDS="30",  # a busy computer does not come to much in 10
        LOG_LEVEL="DEBUG",
    )
    control = Control(tmp_path, environ)
    try:
        yield control
    finally:
        control.kill()


@pytest.fixture
def fleet(engine: Engine, database_url: str, broker_url: str, tmp_path: Path) -> Fleet:
    """Return a fleet over a real database and a real broker, at the real time."""
    settings = Settings(data_dir=tmp_path, database_url=database_url, broker_url=broker_url).completed()
    vault = FernetVault([SECRET_KEY], tmp_path / "no-file")
    return Fleet(engine, CeleryDispatcher(make_celery(settings)), MemoryImages(), MemoryLive(), vault=vault)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Run a receiver."""
    with a_receiver() as receiver:
        yield receiver


def cancelled(fleet: Fleet, terms: Terms) -> UUID:
    job = a_job(fleet, terms=terms)
    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)
    return job.id


def drawn(fleet: Fleet, terms: Terms, state: AttemptState = AttemptState.COMPLETED) -> UUID:
    job = a_job(fleet, terms=terms)
    a_machine(fleet, ready_for=[job.model_id])
    assert claim(fleet, job.id) is not None
    if state == AttemptState.COMPLETED:
        images.receive(fleet, an_upload(job))
    finish(fleet, the_job(fleet, job.id), state, permanent=True)
    return job.id


def the_delivery(fleet: Fleet, job_id: UUID) -> Delivery:
    with fleet.reading() as session:
        (delivery,) = deliveries.of_job(session, job_id)[1]
        return delivery


def count(fleet: Fleet, *where: object) -> int:
    with fleet.reading() as session:
        return session.scalar(select(func.count()).select_from(Delivery).where(*where)) or 0  # type: ignore[arg-type]  # conditions


def test_every_ending_arrives_exactly_once_from_two_control_workers(
    fleet: Fleet, control: Control, receiver: Receiver
) -> None:
    a_model(fleet)
    control.start()
    control.start(beat=False)
    terms = Terms(hook=receiver.hook())

    expected = {
        **{str(drawn(fleet, terms)): "job.completed" for _ in range(8)},
        **{str(drawn(fleet, terms, AttemptState.ERROR)): "job.error" for _ in range(8)},
        **{str(cancelled(fleet, terms)): "job.cancelled" for _ in range(8)},
    }
    wait_until(lambda: count(fleet, Delivery.state == DeliveryState.DELIVERED) == len(expected), "all are delivered")

    assert Counter((got.said["uuid"], got.said["type"]) for got in receiver.got) == Counter(expected.items())
    assert all(len(the_delivery(fleet, UUID(job_id)).tries) == 1 for job_id in expected)
    assert not [secret for secret in (SECRET, KEY, "a-token-in-the-query", SECRET_KEY) if secret in control.said()]
    assert "deliver" in control.said()


def test_a_receiver_that_fails_is_tried_again_until_it_is_well(
    fleet: Fleet, control: Control, receiver: Receiver
) -> None:
    receiver.plan = [status(500), status(503), status(302, Location="/elsewhere")]
    control.start()

    job_id = cancelled(fleet, Terms(hook=receiver.hook()))

    wait_for(receiver, 4)
    wait_until(lambda: the_delivery(fleet, job_id).state == DeliveryState.DELIVERED, "it is delivered")
    assert len({got.id for got in receiver.got}) == 1
    assert [each.status for each in the_delivery(fleet, job_id).tries] == [500, 503, 302, 204]


def test_what_a_killed_control_worker_was_sending_is_sent_again_under_the_same_id(
    fleet: Fleet, control: Control, receiver: Receiver
) -> None:
    receiver.plan = [hang]
    first = control.start()
    job_id = cancelled(fleet, Terms(hook=receiver.hook()))
    wait_for(receiver, 1)

    first.cut_off()
    with fleet.transaction() as tx:  # a minute passes
        ended = datetime.now(UTC) - timedelta(seconds=1)
        tx.session.execute(update(Delivery).values(held_until=ended))
    control.start()

    wait_for(receiver, 2)
    wait_until(lambda: the_delivery(fleet, job_id).state == DeliveryState.DELIVERED, "it is delivered")
    assert len({got.id for got in receiver.got}) == 1
    delivery = the_delivery(fleet, job_id)
    assert [(each.status, each.error) for each in delivery.tries] == [(None, LOST), (204, None)]


def test_bells_that_were_lost_are_rung_again(
    fleet: Fleet, control: Control, receiver: Receiver, broker_server: BrokerServer
) -> None:
    job_ids = {str(cancelled(fleet, Terms(hook=receiver.hook()))) for _ in range(5)}
    broker_server.clear()

    control.start()

    assert {got.said["uuid"] for got in wait_for(receiver, 5)} == job_ids


def test_many_silent_receivers_delay_neither_the_sweeper_nor_other_receivers(
    fleet: Fleet, control: Control, receiver: Receiver
) -> None:
    control.start()

    # Each silent one is given up after a while, in which a very busy computer may not come to the others.
    assert any(arrives_before_silence_ends(fleet, receiver) for _ in range(6))
    assert set(receiver.types()) == {"job.cancelled"}


def arrives_before_silence_ends(fleet: Fleet, receiver: Receiver) -> bool:
    """Say whether the end of an overdue job is told while many receivers are being waited for that say nothing."""
    told, hosts = len(receiver.got), list[str]()
    with ExitStack() as stack:
        for _ in range(IN_ALL - 4):
            mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # the kernel connects, nobody answers
            hosts.append(f"127.0.0.1:{mute.getsockname()[1]}")
            cancelled(fleet, Terms(hook=receiver.hook(url=f"http://{hosts[-1]}/", host=hosts[-1])))
        held, given_up = Delivery.held_until.is_not(None), Delivery.failures > 0
        silent = Delivery.host.in_(hosts)
        wait_until(
            lambda: count(fleet, held, silent) == len(hosts) or count(fleet, given_up, silent), "they are waited for"
        )

        soon = datetime.now(UTC) + timedelta(seconds=1)
        overdue = a_job(fleet, terms=Terms(deadline_at=soon, hook=receiver.hook()))

        wait_for(receiver, told + 1)
        is_early = count(fleet, given_up, silent) == 0
    with fleet.reading() as session:
        assert session.get_one(Job, overdue.id).state == JobState.CANCELLED
    return is_early


def test_on_one_computer_a_picture_is_announced_where_its_client_asked(tmp_path: Path, receiver: Receiver) -> None:
    up = Up(tmp_path, environ={"WEBHOOK_ALLOW_PRIVATE": "1", "DRIVER": "fake", "LOG_LEVEL": "DEBUG"})
    try:
        up.wait_until_serving()
        wait_until(lambda: up.holding("demo-shapes")["state"] == "ready", "the demo model is ready")

        order = {"model_id": "demo-shapes", "prompt": "a red circle", "steps": 2}
        job = up.post("v1/jobs", order | {"webhookUrl": receiver.url, "webhookKey": KEY})

        (got,) = wait_for(receiver, 1, seconds=WAIT_SECONDS)
        assert (got.said["type"], got.said["uuid"], got.headers["x-webhook-key"]) == (
            "job.completed",
            job["job_id"],
            KEY,
        )
        (picture,) = got.said["data"]["images"]
        assert requests.get(picture["url"], timeout=WAIT_SECONDS).content.startswith(b"\x89PNG")
        shown = up.get(f"v1/jobs/{job['job_id']}")
        assert got.said["data"]["images"] == shown["images"]
        path = f"v1/jobs/{job['job_id']}/deliveries"
        wait_until(lambda: up.get(path)["deliveries"][0]["state"] == "delivered", "the delivery is written down")
        said = up.process.said() + str(up.get(path)) + str(shown)
        assert not [secret for secret in (KEY, "a-token-in-the-query") if secret in said]
    finally:
        up.process.stop()
    assert stat.S_IMODE((tmp_path / "db" / "secret.key").stat().st_mode) == 0o600
    database = b"".join(path.read_bytes() for path in (tmp_path / "db").glob("imagefleet.db*"))
    assert receiver.hook().shown.encode() in database
    assert not [secret for secret in (KEY, "a-token-in-the-query") if secret.encode() in database]
