"""A loopback origin of our own that serves files, keeps a record of every request, and misbehaves on demand."""

import json
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

TRICKLE = 20_000
"""Bytes in a second."""

RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")


@dataclass
class Served:
    """What lies at a path, and how it is served."""

    body: bytes
    etag: str | None = None
    ranges: bool = True
    type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    redirect: str | None = None
    token: str | None = None
    bytes_per_second: float | None = None
    slow_after: int | None = None
    """Behind so many bytes of each answer it only trickles: no computer is too slow to come before the end."""
    stop_after: int | None = None
    """No more than so many bytes of each answer come before the origin closes."""
    chunked: bool = False


@dataclass(frozen=True)
class Asked:
    """One request as the origin saw it."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> tuple[int, int | None] | None:
        match = RANGE.match(self.headers.get("range", ""))
        return (int(match[1]), int(match[2]) if match[2] else None) if match else None


Fault = Callable[["Handler", Served], bool]
"""A misbehaviour: does what it likes with a request, and returns whether it has answered it."""


class Handler(BaseHTTPRequestHandler):
    """Answers like a plain file server, unless a fault was ordered."""

    protocol_version = "HTTP/1.1"
    origin: "Origin"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._note("HEAD")
        self._plain(405)

    def do_POST(self) -> None:
        self._note("POST")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        path = self.path.partition("?")[0]
        answer = self.origin.posts.get(path)
        if answer is None:
            return self._plain(404)
        status, content = answer(json.loads(body), {k.lower(): v for k, v in self.headers.items()})
        self._plain(status, json.dumps(content).encode(), "application/json")
        return None

    def _note(self, method: str) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.origin.asked.append(Asked(method, self.path, headers))

    def _plain(self, status: int, body: bytes = b"", type_: str = "text/plain", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", type_)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, method: str) -> None:
        self._note(method)
        path = self.path.partition("?")[0]
        served = self.origin.files.get(path)
        if served is None:
            return self._plain(404)
        try:
            fault = self.origin.next_fault(path)
            if fault is not None and fault(self, served):
                return None
            self.serve(served)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        return None

    def serve(self, served: Served, *, body: bytes | None = None, etag: str | None = None) -> None:
        """Answer as a good origin does."""
        if served.token and self.headers.get("Authorization") != f"Bearer {served.token}":
            self._plain(401)
            return
        if served.redirect:
            self.send_response(302)
            self.send_header("Location", served.redirect)
            self.send_header("Content-Length", "0")
            for name, value in served.headers.items():
                self.send_header(name, value)
            self.end_headers()
            return
        body = served.body if body is None else body
        etag = served.etag if etag is None else etag
        asked = RANGE.match(self.headers.get("Range", "")) if served.ranges else None
        if asked and self.headers.get("If-Range") not in {None, etag}:
            asked = None
        first, last = 0, len(body) - 1
        if asked:
            first = int(asked[1])
            last = min(int(asked[2]) if asked[2] else last, last)
            if first > last:
                self._plain(416, Content_Range=f"bytes */{len(body)}")
                return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        self._send_head(served, etag, None if served.chunked else last - first + 1)
        self._pour(body[first : last + 1], served)

    def _send_head(self, served: Served, etag: str | None, length: int | None) -> None:
        self.send_header("Content-Type", served.type)
        if length is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(length))
        if etag:
            self.send_header("ETag", etag)
        for name, value in served.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _pour(self, data: bytes, served: Served) -> None:
        rate = served.bytes_per_second
        size = 1 << 20 if rate is None else max(1024, int(rate / 50))
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if served.stop_after is not None and start + len(piece) > served.stop_after:
                self.origin.over.wait()
                return
            with self.origin.lock:
                self.origin.sent += len(piece)  # before: whoever has the bytes finds them counted
            self.wfile.write(piece)
            if rate is not None:
                is_slow = served.slow_after is not None and start + size >= served.slow_after
                time.sleep(len(piece) / (TRICKLE if is_slow else rate))

    def hang_up(self) -> None:
        """Reset the connection, as a machine that loses power does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: clients that go away are what these tests are about."""


class Origin:
    """A server on a loopback port of its own."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.files: dict[str, Served] = {}
        self.posts: dict[str, Callable[[Any, dict[str, str]], tuple[int, Any]]] = {}
        self.asked: list[Asked] = []
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.sent = 0
        self.over = threading.Event()
        self.lock = threading.Lock()
        handler = type("BoundHandler", (Handler,), {"origin": self})
        self.server = _Server((host, 0), handler)
        self.host, self.port = host, self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def serve(self, path: str, body: bytes, **how: Any) -> str:
        """Put a file at a path and return its address."""
        how.setdefault("etag", f'"{sha256(body).hexdigest()[:16]}"')
        self.files[path] = Served(body, **how)
        return self.url + path

    def fail(self, path: str, *faults: Fault) -> None:
        """Order misbehaviours for the next requests of a path, one each."""
        self.faults[path].extend(faults)

    def next_fault(self, path: str) -> Fault | None:
        with self.lock:
            waiting = self.faults.get(path)
            return waiting.pop(0) if waiting else self.always.get(path)

    def requests(self, path: str) -> list[Asked]:
        return [each for each in self.asked if each.path.partition("?")[0] == path]


# Misbehaviours


def status(code: int, body: bytes = b"no", **headers: str) -> Fault:
    """Answer with a status and nothing else."""

    def fault(handler: Handler, served: Served) -> bool:
        handler._plain(code, body, **headers)
        return True

    return fault


def web_page(code: int = 200) -> Fault:
    """Answer with a page for people."""

    def fault(handler: Handler, served: Served) -> bool:
        handler._plain(code, b"<!DOCTYPE html><html>Please log in</html>", "text/html; charset=utf-8")
        return True

    return fault


def reset(handler: Handler, served: Served) -> bool:
    """Break the connection before a word is said."""
    handler.hang_up()
    return True


def cut_after(count: int) -> Fault:
    """Promise everything, send so many bytes, break the connection."""

    def fault(handler: Handler, served: Served) -> bool:
        asked = RANGE.match(handler.headers.get("Range", "")) if served.ranges else None
        first = int(asked[1]) if asked else 0
        last = int(asked[2]) if asked and asked[2] else len(served.body) - 1
        last = min(last, len(served.body) - 1)
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {first}-{last}/{len(served.body)}")
        handler._send_head(served, served.etag, last - first + 1)
        handler.wfile.write(served.body[first : min(first + count, last + 1)])
        handler.wfile.flush()
        handler.hang_up()
        return True

    return fault


def stall(seconds: float) -> Fault:
    """Send the head and a few bytes, then nothing for a while."""

    def fault(handler: Handler, served: Served) -> bool:
        handler.send_response(200)
        handler._send_head(served, served.etag, len(served.body))
        handler.wfile.write(served.body[:10])
        handler.wfile.flush()
        time.sleep(seconds)
        handler.close_connection = True
        return True

    return fault


def other_bytes(body: bytes, etag: str | None = None) -> Fault:
    """Serve something else under the same promises."""

    def fault(handler: Handler, served: Served) -> bool:
        handler.serve(served, body=body, etag=etag)
        return True

    return fault
