"""A client's webhook receiver: it writes down everything that comes, and does not always behave."""

import base64
import hmac
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REFUSED_SHARE = 0.08
"""How often it answers with an error of its own: it must be asked again."""


@dataclass(frozen=True, slots=True)
class Received:
    """One event as it came in."""

    at: float
    path: str
    headers: dict[str, str]
    body: bytes
    accepted: bool
    """Whether it was answered with 200; what was refused has to come again."""

    @property
    def job_id(self) -> str:
        """Return the job it speaks of."""
        return str(self._data()["job_id"])

    @property
    def state(self) -> str:
        """Return the state of the job that it tells."""
        return str(self._data()["status"])

    @property
    def webhook_id(self) -> str:
        """Return what makes a repeated delivery recognisable."""
        return self.headers.get("webhook-id", "")

    def is_signed_with(self, secret: str) -> bool:
        """Check the signature as Standard Webhooks 1.0.0 has it, with a plain text as the secret."""
        signed = f"{self.webhook_id}.{self.headers.get('webhook-timestamp', '')}.".encode() + self.body
        found = base64.b64encode(hmac.digest(secret.encode(), signed, "sha256")).decode()
        return self.headers.get("webhook-signature") == f"v1,{found}"

    def _data(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        data: dict[str, Any] = told.get("data", told)
        return data


@dataclass(slots=True)
class Receiver:
    """Everything that was received."""

    url: str = ""
    received: list[Received] = field(default_factory=list)

    def accepted(self) -> list[Received]:
        """Return what was taken."""
        return [one for one in self.received if one.accepted]


@contextmanager
def receiving(seed: int, refused_share: float = REFUSED_SHARE) -> Iterator[Receiver]:
    """Receive on a free port of loopback as long as the block lasts."""
    receiver, dice = Receiver(), random.Random(seed)  # a run that can be repeated, not a secret

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            accepted = dice.random() >= refused_share
            receiver.received.append(Received(time.time(), self.path, headers, body, accepted))
            self.send_response(200 if accepted else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
