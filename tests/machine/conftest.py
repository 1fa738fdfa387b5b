"""A real worker process of a machine, beside a real server and a real broker."""

import hashlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from celery import Celery
from flask import Flask
from pytest_celery import CeleryBrokerCluster, CeleryTestSetup, CeleryTestWorker, CeleryWorkerCluster, RedisTestBroker

from app.broker import make_celery
from app.core.dispatch import model_queue
from app.core.fleet import Fleet
from app.settings import Settings
from provisioning import receipts
from provisioning.receipts import ProvenFile, Receipt
from tasks.machine.client import FleetClient
from tasks.machine.spool import Spool
from tasks.machine.work import Worker
from tests.builders import BOOT, MACHINE, MODEL, a_machine
from tests.support.broker import BrokerServer
from tests.support.celery_nodes import BrokerContainer, MachineContainer
from tests.support.drivers import ScriptedDriver, files_of
from tests.support.processes import Process, wait_until
from tests.support.servers import Web, environ_of
from tests.support.web import serving

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo


A_FEW = 3
"""Pictures that take long enough for what is to happen meanwhile, on a busy computer as well."""


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> "Zoo":
    """Return tiny pipelines of every family, each made when it is asked for."""
    from tests.support.zoo_files import Zoo  # noqa: PLC0415  # imports torch: seconds that other tests need not wait for

    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def url(application: Flask) -> Iterator[str]:
    """Serve the real application on loopback."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with serving(application) as address:
        yield address


@pytest.fixture
def scripted() -> ScriptedDriver:
    """Return a driver that does as the test says."""
    return ScriptedDriver()


@pytest.fixture
def drawing_worker(url: str, fleet: Fleet, scripted: ScriptedDriver, tmp_path: Path) -> Worker:
    """Return a worker that has checked in with the real API, and draws with the scripted driver."""
    a_machine(fleet, ready_for=[MODEL])
    client = FleetClient(url, "", MACHINE, BOOT)
    return Worker(client, fleet.live, Spool(tmp_path / "spool"), lambda: scripted, files_of)


@pytest.fixture(scope="session")
def web(broker_server: BrokerServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """Run one server for all machines; each test has a model and a machine of its own."""
    server = Web(tmp_path_factory.mktemp("web"), broker_server.url)
    server.migrate()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def machine_id() -> str:
    """Return a name that no other test's machine has."""
    return f"gpu-{uuid4().hex[:8]}"


@pytest.fixture
def model_id(web: Web) -> str:
    """Put a model of this test's own into the catalogue."""
    name = f"model-{uuid4().hex[:8]}"
    entry = {"id": name, "name": f"{name}.bin", "download_url": f"https://models.example.org/{name}.bin"}
    web.post("v1/models", entry)
    return name


@pytest.fixture
def default_worker_container(
    web: Web, broker_server: BrokerServer, tmp_path: Path, machine_id: str, model_id: str
) -> MachineContainer:
    """Start a worker as `imagefleet machine` does, with the driver that needs no model."""
    environ = environ_of(
        tmp_path,
        MACHINE_ID=machine_id,
        MACHINE_MODELS_NEEDED=model_id,
        MODELS_DIR=str(tmp_path / "models"),
        FLEET_URL=web.url,
        BROKER_URL=broker_server.url,
        DRIVER="fake",
        DRAIN_SECONDS="3",
    )
    command = [sys.executable, "-m", "tasks.machine"]
    return MachineContainer(machine_id, lambda: Process(command, tmp_path / "worker.log", environ=environ))


@pytest.fixture
def celery_worker_cluster(celery_setup_worker: CeleryTestWorker) -> Iterator[CeleryWorkerCluster]:
    """Have one worker: ours."""
    cluster = CeleryWorkerCluster(celery_setup_worker)
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_broker_cluster(broker_server: BrokerServer) -> Iterator[CeleryBrokerCluster]:
    """Have one broker: the one of the test run."""
    cluster = CeleryBrokerCluster(RedisTestBroker(BrokerContainer(broker_server)))
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster() -> None:
    """Have no result backend, as in production."""


@pytest.fixture
def celery_setup_app(broker_server: BrokerServer) -> Iterator[Celery]:
    """Ask the workers with an app that is configured as ours are."""
    app = make_celery(Settings(broker_url=broker_server.url))
    yield app
    app.close()


@dataclass
class Machine:
    """A worker under test, its disk, and the server it works for."""

    setup: CeleryTestSetup
    web: Web
    machine_id: str
    model_id: str
    models_dir: Path

    @property
    def worker(self) -> Any:
        """Return pytest-celery's node."""
        return self.setup.worker

    @property
    def file(self) -> Path:
        """Return where the model's file lies."""
        return self.models_dir / "checkpoints" / f"{self.model_id}.bin"

    def prove(self, content: bytes = b"the weights") -> None:
        """Do what provisioning does at the end: the file at its place, then the receipt."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(content)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        proven = ProvenFile.of(self.models_dir, self.file.relative_to(self.models_dir), digest)
        receipt = Receipt(self.model_id, "https://models.example.org", (proven,), (), "2026-01-05T12:00:00+00:00")
        receipts.save(self.models_dir, receipt)

    def queues(self) -> set[str]:
        """Return what the worker consumes, as it says itself."""
        found = self.setup.app.control.inspect([self.worker.hostname()], timeout=2).active_queues() or {}
        return {queue["name"] for queues in found.values() for queue in queues}

    def consumes(self, *queues: str) -> bool:
        """Say whether the worker consumes exactly these queues."""
        return self.queues() == set(queues)

    @property
    def own_queue(self) -> str:
        """Return the queue a machine always consumes."""
        return f"machine.{self.machine_id}"

    @property
    def queue(self) -> str:
        """Return the queue of the model."""
        return model_queue(self.model_id)

    def get_ready(self) -> "Machine":
        """Prove the model, and wait until the server says that the machine is ready for it."""
        self.prove()
        self.wait_for_state("ready")
        return self

    def wait_for_state(self, state: str) -> None:
        """Wait until the server says how far the machine is with its model."""
        wait_until(lambda: self.state() == state, f"the machine is {state} for {self.model_id}")

    def state(self) -> str | None:
        """Return how far this machine is with its model, as the server knows."""
        machines = self.web.get("v1/machines")["machines"]
        mine = [m for machine in machines if machine["machine_id"] == self.machine_id for m in machine["models"]]
        return next((model["state"] for model in mine if model["model_id"] == self.model_id), None)

    def order(self, **more: Any) -> UUID:
        """Order pictures of the model."""
        body = {"model_id": self.model_id, "prompt": "a red circle", "seed": 7, "steps": 1}
        return UUID(self.web.post("v1/jobs", body | more)["job_id"])

    def order_long(self) -> UUID:
        """Order what takes the better part of a minute, and wait until it is being drawn."""
        return self.order_for_a_while(16)

    def order_for_a_while(self, n: int = A_FEW) -> UUID:
        """Order what takes three seconds a picture, and wait until it is being drawn: there is time to disturb it."""
        job_id = self.order(steps=150, n=n)
        wait_until(lambda: self.job(job_id)["progress"] > 0, "the job is being drawn")
        return job_id

    def job(self, job_id: UUID) -> Any:
        """Return a job as its client sees it."""
        return self.web.get(f"v1/jobs/{job_id}")

    def wait_for_end(self, job_id: UUID, status: str = "completed") -> Any:
        """Wait for the end of a job."""
        job = self.web.ended(str(job_id))
        assert job["status"] == status, job
        return job

    def wait_for_log(self, text: str) -> None:
        """Wait until the worker has said something."""
        wait_until(lambda: text in self.worker.logs(), f"the worker says {text!r}")


@pytest.fixture
def machine(celery_setup: CeleryTestSetup, web: Web, machine_id: str, model_id: str, tmp_path: Path) -> Machine:
    """Return a worker that has checked in and holds no model yet."""
    found = Machine(celery_setup, web, machine_id, model_id, tmp_path / "models")
    found.wait_for_state("wanted")
    return found


@pytest.fixture
def ready_machine(machine: Machine) -> Machine:
    """Return a worker that is ready for its model."""
    return machine.get_ready()
