"""What the tests of provisioning share: an origin, a fleet that looks models up, and ways to run provisioning."""

import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

from provisioning import layout
from provisioning.events import Event
from provisioning.journal import RECORD
from provisioning.outcome import Outcome
from provisioning.provisioner import Provisioner
from provisioning.settings import Settings
from tests.provisioning.origin import Origin
from tests.support.processes import WAIT_SECONDS

MIB = 1 << 20
ROOT = Path(__file__).parents[2]


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Return bytes that no compression and no accident makes."""
    return Random(seed).randbytes(size)


def digest_of(body: bytes) -> str:
    """Return a SHA-256 as receipts write it."""
    return f"sha256:{sha256(body).hexdigest()}"


@dataclass
class Fleet:
    """The fleet's API, as far as provisioning asks it."""

    origin: Origin
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    limit: int = 1000

    def __post_init__(self) -> None:
        self.origin.posts["/api/models/batch"] = self.answer

    def answer(self, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        ids = body["model_ids"]
        self.asked.append(ids)
        self.headers.append(headers)
        if len(ids) > self.limit:
            return 400, {"error": f"at most {self.limit} ids"}
        found = [self.entries[each] for each in ids if each in self.entries]
        return 200, {"models": found, "not_found": [each for each in ids if each not in self.entries]}

    def add(self, model_id: str, url: str, body: bytes | None, **other: Any) -> dict[str, Any]:
        """Put a model into the catalogue; its hash is that of `body`."""
        entry = {
            "id": model_id,
            "name": f"{model_id}.bin",
            "download_url": url,
            "file_size_gb": 0.001,
            "hash": sha256(body).hexdigest() if body is not None else None,
            "auth_required": False,
            "auth_provider": None,
            "save_path": f"checkpoints/{model_id}.bin",
            "dependencies": [],
            "description": "a model of these tests",
            **other,
        }
        self.entries[model_id] = entry
        return entry

    @property
    def url(self) -> str:
        return self.origin.url


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with Origin() as running:
        yield Fleet(running)


@pytest.fixture
def settings(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings with which nothing is asked for twice because the computer of the tests is slow."""
    monkeypatch.setattr("provisioning.passage.STRAGGLER_SECONDS", WAIT_SECONDS)
    return Settings(
        fleet_url=fleet.url,
        models_dir=tmp_path / "models",
        allow_private_addresses=True,
        stall_seconds=WAIT_SECONDS,
        retry_seconds=0.1,
        pause_seconds=0.01,
    )


@dataclass
class Run:
    """A finished run in this process."""

    outcome: Outcome
    events: list[Event]
    models_dir: Path

    def file(self, name: str) -> Path:
        return self.models_dir / "checkpoints" / name

    def code(self, model_id: str) -> str:
        return self.outcome.failed[model_id].code

    def message(self, model_id: str) -> str:
        return str(self.outcome.failed[model_id])

    def states(self, model_id: str) -> list[str]:
        return [str(e.fields["state"]) for e in self.events if e.name == "state" and e.model_id == model_id]


Provision = Callable[..., Run]


@pytest.fixture
def provision(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Provision:
    """Run provisioning once in this process: ``provision("a", "b", hf_token="x")``."""
    # Where all is here the fleet's answer is waited for only shortly; on a busy computer it would come too late.
    monkeypatch.setattr("provisioning.provisioner.WARM_LOOKUP_SECONDS", WAIT_SECONDS)

    def run(*model_ids: str, verify: bool = False, **changed: Any) -> Run:
        events: list[Event] = []
        mine = replace(settings, **changed)
        outcome = Provisioner(mine, events.append).run(model_ids, verify=verify)
        return Run(outcome, events, mine.models_dir)

    return run


@pytest.fixture
def watched(settings: Settings) -> Iterator[Callable[..., Provisioner]]:
    """Keep provisioning running in a thread until the test ends."""
    running: list[tuple[Provisioner, threading.Thread]] = []

    def start(*model_ids: str, **changed: Any) -> Provisioner:
        provisioner = Provisioner(replace(settings, **changed), lambda event: None)
        thread = threading.Thread(target=provisioner.run, args=(model_ids,), kwargs={"watch": True}, daemon=True)
        thread.start()
        running.append((provisioner, thread))
        return provisioner

    yield start
    for provisioner, thread in running:
        provisioner.stop.set()
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """Return the environment that a process of its own needs for these settings."""
    return {
        "PATH": os.environ["PATH"],
        "FLEET_URL": settings.fleet_url,
        "MODELS_DIR": str(settings.models_dir),
        "ALLOW_PRIVATE_ADDRESSES": "1",
        "PROVISION_STALL_SECONDS": f"{WAIT_SECONDS:g}",
        "PROVISION_RETRY_SECONDS": "0.2",
        "PROVISION_PAUSE_SECONDS": "0.02",
        **more,
    }


def start_process(*words: str, env: dict[str, str], cwd: Path = ROOT) -> subprocess.Popen[str]:
    """Start ``python -m provisioning`` as users do."""
    return subprocess.Popen(
        [sys.executable, "-m", "provisioning", *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )


@dataclass(frozen=True)
class Ended:
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def run_process(*words: str, env: dict[str, str], cwd: Path = ROOT, timeout: float = WAIT_SECONDS) -> Ended:
    """Run ``python -m provisioning`` to its end."""
    with start_process(*words, env=env, cwd=cwd) as process:
        out, err = process.communicate(timeout=timeout)
    return Ended(process.returncode, out, err)


def recorded(file: Path) -> int:
    """Return how many bytes of a file on its way are proved to be on the disk."""
    try:
        _, _, body = layout.journal_of(layout.part_of(file)).read_bytes().partition(b"\n")
    except FileNotFoundError:
        return 0
    whole = body[: len(body) - len(body) % RECORD.size]
    return sum({segment: length for segment, length, _, _ in RECORD.iter_unpack(whole)}.values())


def bytes_read() -> int:
    """Return how many bytes were read by this process and its children that have ended (proc(5): `rchar`)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def crc32_of(body: bytes) -> str:
    """Return a CRC32 as catalogues write it."""
    return f"{zlib.crc32(body):08x}"
