"""What those who look after machines, such as a kubelet, may ask over HTTP: whether one lives, and whether it is ready.

Each worker leaves a pulse, a small file, whenever it has looked at its models; the host reads these and answers:

* ``/live``: every worker has looked lately. A machine that downloads for hours is alive all the time.
* ``/ready``: at least one model's queue, or one engine's, is consumed.

Both answer 200 or 503, with numbers and no names: whoever reaches the port may ask.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from app.parse import SettingsError
from tasks.machine.readiness import QueueGate

log = logging.getLogger(__name__)

FRESH_SECONDS = 30.0
"""A pulse so old says nothing of queues any more: a worker looks every second, and waits 8 s for the API at most."""

SILENT_SECONDS = 120.0
"""A worker that has not looked for so long hangs. A false alarm would cost minutes of loading models again."""

ASK_SECONDS = 5.0
"""How long an asker may take to say what it wants."""


def pulse_path(data_dir: Path, machine_id: str) -> Path:
    """Return where a worker leaves its pulse."""
    return data_dir / "health" / f"{machine_id}.json"


@dataclass(slots=True)
class Pulse:
    """A worker's side: it tells that it has looked, and how many queues it consumes."""

    path: Path
    gate: QueueGate
    _told: str = ""

    def beat(self) -> None:
        """Leave a pulse. A full disk does not stop it: only what has changed is written."""
        text = json.dumps({"models": len(self.gate.joined), "engines": len(self.gate.joined_engines)})
        if text == self._told and self.path.exists():
            os.utime(self.path)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(self.path)
        self._told = text


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker's pulse says."""

    silent_seconds: float
    models: int = 0
    engines: int = 0

    @property
    def lives(self) -> bool:
        """Say whether it has looked lately."""
        return self.silent_seconds < SILENT_SECONDS

    @property
    def is_ready(self) -> bool:
        """Say whether it consumes a queue that jobs come from."""
        return self.silent_seconds < FRESH_SECONDS and self.models + self.engines > 0


class Health:
    """The host's side: reads the pulses of its workers."""

    def __init__(self, pulses: Mapping[str, Path], now: Callable[[], float] = time.time) -> None:
        """`pulses` says where each worker leaves its own; what an earlier process left there is forgotten."""
        self._pulses, self._now, self._began = pulses, now, now()
        for path in pulses.values():
            path.unlink(missing_ok=True)

    def seen(self) -> dict[str, Seen]:
        """Return what each worker's pulse says; one that has left none yet is silent since we began."""
        return {name: self._read(path) for name, path in self._pulses.items()}

    def _read(self, path: Path) -> Seen:
        try:
            told, beat_at = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
        except FileNotFoundError:
            return Seen(self._now() - self._began)
        return Seen(self._now() - beat_at, told["models"], told["engines"])


@contextmanager
def answering(health: Health, host: str, port: int) -> Iterator[None]:
    """Answer for as long as this lasts, and nobody where `port` is 0. Raises SettingsError where the port is taken."""
    if not port:
        yield
        return
    try:
        server = _server_of(health, host, port)
    except OSError as exc:
        raise SettingsError(
            f"MACHINE_HEALTH_PORT {port} of {host} cannot be listened on ({exc.strerror}): choose another one, or 0"
        ) from exc
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    log.info("answering /live and /ready on %s port %s", host, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _server_of(health: Health, host: str, port: int) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    class Asked(Answer):
        asked = health

    return Server((host, port), Asked)


class Answer(BaseHTTPRequestHandler):
    """Answers one question."""

    asked: ClassVar[Health]
    timeout = ASK_SECONDS
    server_version = "imagefleet"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer it."""
        seen = self.asked.seen().values()
        if self.path == "/live":
            self._say(good=all(worker.lives for worker in seen), seen=list(seen))
        elif self.path == "/ready":
            self._say(good=any(worker.is_ready for worker in seen), seen=list(seen))
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "ask /live or /ready")

    def _say(self, *, good: bool, seen: list[Seen]) -> None:
        told = {
            "ok": good,
            "workers": [
                {"models": worker.models, "engines": worker.engines, "silent_seconds": round(worker.silent_seconds, 1)}
                for worker in seen
            ],
        }
        body = json.dumps(told).encode()
        self.send_response(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the standard library
        """Say nothing: it is asked every few seconds."""
