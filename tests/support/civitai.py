"""A Civitai on loopback, which answers as it is told and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.processes import WAIT_SECONDS

BY_HASH = "/api/v1/model-versions/by-hash/"

Behaviour = Callable[[BaseHTTPRequestHandler, "CivitaiServer"], None]
"""Writes an answer, well or badly."""


def a_version(**more: Any) -> dict[str, Any]:
    """Make the answer for a file that is known, with the fields that the real one has."""
    return {
        "id": 128713,
        "modelId": 112902,
        "name": "8",
        "description": "<p>Better <b>eyes</b>.</p><script>alert(1)</script><p>And hands &amp; feet.</p>",
        "baseModel": "SD 1.5",
        "baseModelType": "Standard",
        "air": "urn:air:sd1:checkpoint:civitai:112902@128713",
        "status": "Published",
        "publishedAt": "2023-07-29T05:58:30.116Z",
        "updatedAt": "2024-01-02T03:04:05.678Z",
        "trainedWords": ["dreamy", 7, "dream shaper"],
        "stats": {"downloadCount": 123456, "thumbsUpCount": 789, "ratingCount": 0},
        "model": {"name": "DreamShaper", "type": "Checkpoint", "nsfw": False, "poi": False},
        "files": [{"id": 1, "name": "dreamshaper_8.safetensors", "sizeKB": 2082642.47}],
        "images": [
            {"url": "https://image.civitai.com/a.jpeg", "width": 512, "height": 768, "nsfwLevel": 1, "meta": {}},
            {"url": "javascript:alert(1)", "width": 1, "height": 1},
        ],
        "downloadUrl": "https://civitai.com/api/download/models/128713",
    } | more


@dataclass(slots=True)
class CivitaiServer:
    """The site. `plan` is how it treats the next requests; when it has run out, it tells what is in `known`."""

    port: int = 0
    known: dict[str, Any] = field(default_factory=dict)
    """By hash, in capitals."""
    plan: list[Behaviour] = field(default_factory=list)
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    """Path and headers of every request."""
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def hashes(self) -> list[str]:
        """Return the hashes it was asked for."""
        return [path.removeprefix(BY_HASH) for path, _ in self.asked]


def status(code: int, body: Any = None, **headers: str) -> Behaviour:
    """Answer with a status and JSON."""

    def behave(handler: BaseHTTPRequestHandler, _: CivitaiServer) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return behave


def hang(_: BaseHTTPRequestHandler, server: CivitaiServer) -> None:
    """Take the request, and say nothing."""
    server.over.wait(WAIT_SECONDS)


def drip(handler: BaseHTTPRequestHandler, server: CivitaiServer) -> None:
    """Answer 200 with a body that comes byte by byte, and never ends."""
    with suppress(OSError):
        handler.send_response(200)
        handler.end_headers()
        while not server.over.wait(0.01):
            handler.wfile.write(b" ")
            handler.wfile.flush()


def flood(handler: BaseHTTPRequestHandler, server: CivitaiServer) -> None:
    """Answer 200 with a body that does not end."""
    with suppress(OSError):
        handler.send_response(200)
        handler.end_headers()
        while not server.over.is_set():
            handler.wfile.write(b" " * 65536)


def hang_up(handler: BaseHTTPRequestHandler, _: CivitaiServer) -> None:
    """Take the request, and break the connection."""
    handler.connection.close()


@contextmanager
def a_civitai() -> Iterator[CivitaiServer]:
    """Run one as long as the block lasts."""
    site = CivitaiServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            if site.plan:
                site.plan.pop(0)(self, site)
                return
            found = site.known.get(self.path.removeprefix(BY_HASH))
            status(404, {"error": "Model not found"})(self, site) if found is None else status(200, found)(self, site)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class calls it so
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
