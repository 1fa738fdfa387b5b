"""How programs on one computer find the server that runs on a data folder: `run.json`, readable by its owner only."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from app.parse import SettingsError
from app.settings import Settings

NAME = "run.json"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs now."""

    pid: int
    fleet_url: str
    broker_url: str
    machine_token: str


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data folder; raises SettingsError when another server does. The lock goes with the process."""
    data_dir.mkdir(parents=True, exist_ok=True)
    handle = os.open(data_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"a server already runs on {data_dir}; stop it, or choose another folder with --data-dir",
            ) from None
        yield
    finally:
        os.close(handle)


@contextmanager
def published(data_dir: Path, running: Running) -> Iterator[None]:
    """Let programs of the same user find this server, as long as it runs."""
    path = data_dir / NAME
    part = path.with_name(f".{NAME}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(running), file)
    part.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find(settings: Settings) -> Running | None:
    """Find the server that runs on the settings' data folder; None when there is none."""
    try:
        running = Running(**json.loads((settings.data_dir / NAME).read_text(encoding="utf-8")))
        os.kill(running.pid, 0)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, ProcessLookupError):
        return None
    return running
