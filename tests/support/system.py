"""A whole fleet as real processes on loopback: Redis, PostgreSQL, web, control worker, beat, and machines.

What dies is started anew, as systemd, Compose or Kubernetes do it: see `tend`.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
from sqlalchemy import Engine, create_engine

from app.broker import make_celery
from app.settings import Settings
from tests.support.broker import BrokerServer
from tests.support.hurry import hurried
from tests.support.postgres import SAFE, PostgresServer, running_postgres
from tests.support.processes import WAIT_SECONDS, Process, free_port, wait_until
from tests.support.servers import LOOK_SECONDS, Api, environ_of

ARTIFACT = {
    "download_url": "/artifacts/demo-shapes.dduf",
    "hash": "sha256:de357c82f7df86640b09d04a24ffaf9811c23f73f5c348e1a5f05e9ffdd323bd",
}
"""A small file that the server itself hands out: every machine really downloads and proves it."""


@dataclass(slots=True)
class Part:
    """A process of the system that may be killed, paused and started anew."""

    name: str
    command: list[str]
    environ: Mapping[str, str]
    log: Path
    process: Process | None = None
    rests: bool = False
    """It was taken away on purpose, and stays away until it is started again."""

    def start(self) -> None:
        """Start it; from the main thread, or it would end with the thread."""
        self.rests = False
        self.process = Process(self.command, self.log, environ=self.environ, dies_with_us=True)

    def tend(self) -> bool:
        """Start it anew if it has died; says whether it had."""
        if self.rests or (self.process is not None and self.process.status is None):
            return False
        self.start()
        return True

    def kill(self) -> None:
        """Kill it with all that it has started, at once; it rests."""
        self.rests = True
        if self.process is not None:
            self.process.cut_off()

    def tree(self) -> list[psutil.Process]:
        """Return its process and everything below, parents first."""
        if self.process is None or self.process.status is not None:
            return []
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def child(self, word: str) -> psutil.Process | None:
        """Find the process below it that has this word on its command line."""
        for process in self.tree()[1:]:
            try:
                if word in process.cmdline():
                    return process
            except psutil.NoSuchProcess:
                continue
        return None


@dataclass(slots=True)
class System(Api):
    """A running fleet."""

    folder: Path
    broker: BrokerServer
    postgres: PostgresServer
    engine: Engine
    url: str
    environ: Mapping[str, str]
    token: str = ""
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def machines(self) -> list[Part]:
        """Return the machines: each is `imagefleet machine` with its provisioning and its worker."""
        return [part for name, part in self.parts.items() if name.startswith("machine-")]

    def add(self, name: str, *command: str, **more: str) -> Part:
        """Start a part."""
        environ = {**self.environ, **more}
        part = Part(name, [sys.executable, "-m", *command], environ, self.folder / f"{name}.log")
        self.parts[name] = part
        part.start()
        return part

    def add_machine(self, name: str, *models: str, **more: str) -> Part:
        """Start a machine with a disk of its own."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        hidden = {"DATABASE_URL": "", "API_TOKENS": "", "HOST": "127.0.0.1"}
        known = {"DATA_DIR": str(folder), "MACHINE_ID": name, "MACHINE_MODELS_NEEDED": ",".join(models)}
        return self.add(name, "app.cli", "machine", **hidden, **known, **more)

    def spool_of(self, machine: str) -> Path:
        """Return where a machine keeps finished work."""
        return self.folder / machine / "spool" / machine

    def images(self) -> Path:
        """Return the folder of the image store."""
        return self.folder / "server" / "images"

    def answers(self) -> bool:
        """Say whether the web part answers and has its database."""
        try:
            return requests.get(f"{self.url}/ready", timeout=LOOK_SECONDS).ok
        except requests.RequestException:
            return False

    def ready_machines(self, model_id: str) -> list[str]:
        """Name the live machines that serve a model."""
        return [
            machine["machine_id"]
            for machine in self.get("v1/machines")["machines"]
            if machine["alive"] and any(m["model_id"] == model_id and m["state"] == "ready" for m in machine["models"])
        ]

    def consumed(self, machine_id: str) -> set[str]:
        """Return the queues that a machine's worker consumes, as it says itself; waits until it says something."""
        celery, name = make_celery(Settings(broker_url=self.broker.url)), f"machine@{machine_id}"

        def told() -> Mapping[str, list[dict[str, Any]]] | None:
            return celery.control.inspect([name], timeout=LOOK_SECONDS).active_queues() or None

        try:
            found = wait_until(told, f"{name} says what it consumes")
        finally:
            celery.close()
        return {str(queue["name"]) for queue in found[name]}

    def hurry(self, job_id: str) -> Any:
        """Have a job end soon, with less of each picture drawn; returns it."""
        return hurried(self.broker.url, job_id, lambda: self.get(f"v1/jobs/{job_id}"))

    def wait_for_machines(self, model_id: str, count: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait until so many machines serve a model."""
        wait_until(
            lambda: len(self.ready_machines(model_id)) >= count,
            f"{count} machines are ready for {model_id}; the logs are in {self.folder}",
            seconds,
        )

    def tend(self) -> list[str]:
        """Start anew what has died; returns the names."""
        return [part.name for part in list(self.parts.values()) if part.tend()]

    def start_server(self) -> None:
        """Start web, control worker and beat, and wait until the web part answers."""
        self.add("web", "gunicorn", "-c", "python:app.server", "app.wsgi:application")
        celery = ("celery", "--quiet", "--app=tasks.control.app")
        lean = ("--hostname=control@%h", "--without-gossip", "--without-mingle")
        self.add("control", *celery, "worker", "--queues=control,webhooks", *lean)
        self.add("beat", *celery, "beat", "--scheduler=celery.beat:Scheduler", "--pidfile=")
        web = self.parts["web"].process
        assert web is not None
        web.wait_until(self.answers, "the web part answers")

    def put_model(self, model_id: str, **more: Any) -> None:
        """Bring a model into the catalogue whose file the server itself hands out."""
        entry = {"id": model_id, "name": model_id, "save_path": f"checkpoints/{model_id}.dduf", **ARTIFACT, **more}
        self.post("v1/models", entry)

    def stop(self) -> None:
        """End every part, and everything that any of them has started."""
        for part in reversed(self.parts.values()):
            part.kill()


@contextmanager
def running_system(folder: Path, **more: str) -> Iterator[System]:
    """Run broker, database and server parts as long as the block lasts; machines are added by the caller."""
    with ExitStack() as stack:
        broker = BrokerServer(folder / "broker", dies_with_us=True)
        broker.start()
        stack.callback(broker.stop)
        postgres = stack.enter_context(running_postgres(SAFE, dies_with_us=True))
        database_url = postgres.create("fleet").render_as_string(hide_password=False)
        port = free_port()
        data = folder / "server"
        data.mkdir()
        environ = environ_of(
            data,
            BROKER_URL=broker.url,
            DATABASE_URL=database_url,
            FLEET_URL=f"http://127.0.0.1:{port}",
            PORT=str(port),
            ALLOW_PRIVATE_ADDRESSES="1",
            DRIVER="fake",
            DEVICE="cpu",
            **more,
        )
        engine = create_engine(database_url, pool_pre_ping=True)
        stack.callback(engine.dispose)
        token = environ.get("API_TOKENS", "").partition(",")[0]
        system = System(folder, broker, postgres, engine, f"http://127.0.0.1:{port}", environ, token)
        stack.callback(system.stop)
        upgrade = Process([sys.executable, "-m", "app.cli", "db", "upgrade"], folder / "upgrade.log", environ=environ)
        assert upgrade.wait() == 0, upgrade.said()
        system.start_server()
        yield system


@contextmanager
def borrowed(server: System) -> Iterator[System]:
    """Lend a running server; machines that are added meanwhile are taken away in the end."""
    known = set(server.parts)
    try:
        yield server
    finally:
        for name in set(server.parts) - known:
            server.parts.pop(name).kill()
