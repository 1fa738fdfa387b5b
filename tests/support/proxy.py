"""A real proxy on a loopback port: forwards plain requests, tunnels CONNECT, and may want a password."""

import socket
import threading
from base64 import b64encode
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "proxy-authorization", "proxy-connection", "keep-alive", "transfer-encoding"}
BLOCK = 1 << 16


@dataclass(frozen=True)
class Passed:
    """One request as the proxy saw it."""

    method: str
    target: str
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    """Passes on what it is asked for, to where the proxy's own table of names says."""

    protocol_version = "HTTP/1.1"
    proxy: "Proxy"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        pass

    def do_CONNECT(self) -> None:
        """Open a tunnel and move bytes both ways until one side ends."""
        if not self._welcome():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection(self.proxy.address_of(host, int(port))) as far:
            self.send_response(200, "Connection established")
            self.end_headers()
            back = threading.Thread(target=_pump, args=(far, self.connection), daemon=True)
            back.start()
            _pump(self.connection, far)
            back.join()
        self.close_connection = True

    def do_GET(self) -> None:
        """Ask for an absolute address, and hand back the answer."""
        self._forward()

    def do_POST(self) -> None:
        """Pass on a body, and hand back the answer."""
        self._forward()

    def _forward(self) -> None:
        if not self._welcome():
            return
        parts = urlsplit(self.path)
        assert parts.hostname is not None
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        host, port = self.proxy.address_of(parts.hostname, parts.port or 80)
        far = HTTPConnection(host, port)
        sent = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        far.request(self.command, f"{parts.path}?{parts.query}" if parts.query else parts.path, body or None, sent)
        reply = far.getresponse()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.end_headers()
        while block := reply.read(BLOCK):
            self.wfile.write(block)
        far.close()

    def _welcome(self) -> bool:
        """Note the request; refuse it if it lacks the password."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.proxy.passed.append(Passed(self.command, self.path, headers))
        if self.proxy.credentials is None:
            return True
        wanted = f"Basic {b64encode(self.proxy.credentials.encode()).decode()}"
        if headers.get("proxy-authorization") == wanted:
            return True
        self.send_response(407)
        self.send_header("Proxy-Authenticate", "Basic")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False


class Proxy:
    """Runs while it is entered. It resolves names by its own table, so that only what goes through it arrives."""

    def __init__(self, names: dict[str, tuple[str, int]], credentials: str | None = None) -> None:
        self.names = names
        self.credentials = credentials
        self.passed: list[Passed] = []
        handler = type("BoundHandler", (Handler,), {"proxy": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def authority(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server.server_address[1]}"

    def address_of(self, host: str, port: int) -> tuple[str, int]:
        """Return where a name leads: what the table says, else the address itself."""
        return self.names.get(host, (host, port))


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while block := source.recv(BLOCK):
            sink.sendall(block)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        sink.close()
