"""A real receiver of webhooks on loopback, which answers as it is told and remembers what it got."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from app.core.webhooks import HookRequest
from tests.support.processes import WAIT_SECONDS

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "a-key-that-nobody-may-see"

Behaviour = Callable[[BaseHTTPRequestHandler, "Receiver"], None]
"""Writes an answer, well or badly."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request that came."""

    path: str
    headers: Mapping[str, str]
    """By names in small letters."""
    body: bytes

    @property
    def id(self) -> str:
        """Return its `webhook-id`."""
        return self.headers["webhook-id"]

    @property
    def said(self) -> Any:
        """Return its body, read."""
        return json.loads(self.body)


@dataclass(slots=True)
class Receiver:
    """Somebody's server. `plan` is how it treats the next requests; when it has run out, it answers 204."""

    port: int = 0
    got: list[Received] = field(default_factory=list)
    plan: list[Behaviour] = field(default_factory=list)
    sent_bytes: int = 0
    """How much of an endless answer went out."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set when an endless answer has ended."""
    open: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over: nobody hangs any longer."""

    @property
    def url(self) -> str:
        """Return an address of it, with a query that is nobody else's business."""
        return f"http://127.0.0.1:{self.port}/ready?token=a-token-in-the-query"

    def types(self) -> list[str]:
        """Return the types of the events that came."""
        return [received.said["type"] for received in self.got]

    def hook(self, **more: Any) -> HookRequest:
        """Ask for events to be sent here."""
        given = {
            "url": self.url,
            "secret": SECRET,
            "key": KEY,
            "shown": self.url.partition("?")[0],
            "host": f"127.0.0.1:{self.port}",
            "base_url": "https://fleet.example.org/",
        }
        return HookRequest(**(given | more))


def status(code: int, **headers: str) -> Behaviour:
    """Answer with a status."""

    def behave(handler: BaseHTTPRequestHandler, _: Receiver) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


def hang(_: BaseHTTPRequestHandler, receiver: Receiver) -> None:
    """Take the request, and say nothing."""
    receiver.open.wait(WAIT_SECONDS)


def drip(handler: BaseHTTPRequestHandler, receiver: Receiver) -> None:
    """Answer by one byte at a time, each of them in time."""
    with suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 10_000:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if receiver.open.wait(0.05):
                return


def flood(handler: BaseHTTPRequestHandler, receiver: Receiver) -> None:
    """Answer 200 with a body that does not end."""
    with suppress(OSError):
        handler.send_response(200)
        handler.end_headers()
        while not receiver.open.is_set():
            receiver.sent_bytes += handler.wfile.write(b"x" * 65536)
    receiver.over.set()


def hang_up(handler: BaseHTTPRequestHandler, _: Receiver) -> None:
    """Take the request, and break the connection."""
    handler.connection.close()


@contextmanager
def a_receiver() -> Iterator[Receiver]:
    """Receive on a free port of loopback as long as the block lasts."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            behave = receiver.plan.pop(0) if receiver.plan else status(204)
            receiver.got.append(Received(self.path, headers, body))
            behave(self, receiver)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class calls it so
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing of connections that broke: breaking them is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    receiver.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.open.set()
        server.shutdown()
        thread.join()
        server.server_close()


def wait_for(receiver: Receiver, count: int, seconds: float = WAIT_SECONDS) -> list[Received]:
    """Wait until so many requests have come."""
    deadline = time.monotonic() + seconds
    while len(receiver.got) < count:
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(receiver.got)} of {count} came within {seconds:g} s: {receiver.types()}")
        time.sleep(0.02)
    return list(receiver.got)
