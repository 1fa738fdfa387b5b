"""A loopback origin that models are downloaded from: small files at once, and one that takes its time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SMALL = b"\x01" * 5000
SLOW = b"\x02" * 40_000_000

PACE_SECONDS = 0.8
PACE_BYTES = 20_000
"""25 KB in a second: most of the slow one is on its way for 20 minutes, longer than all tests of the page take."""

MOST = 0.75
END_BYTES = 2_000
"""What is left then takes more than an hour: it comes to its end on no computer."""

_over = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a file."""
        if "no-such" in self.path:
            self.send_error(404)
            return
        slow = "slow" in self.path
        body = SLOW if slow else SMALL
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            sent = 0
            while sent < len(body) and not (slow and sent and _over.wait(PACE_SECONDS)):
                pace = PACE_BYTES if sent < MOST * len(body) else END_BYTES
                self.wfile.write(body[sent : sent + pace])
                sent += pace
        except OSError:
            self.close_connection = True  # whoever asked has gone

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Say nothing."""


def digest_of(body: bytes) -> str:
    """Return a SHA-256 as the catalogue writes it."""
    return f"sha256:{sha256(body).hexdigest()}"


@contextmanager
def running_origin() -> Iterator[str]:
    """Serve until left; gives the address."""
    _over.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        _over.set()
        server.shutdown()
        thread.join()
        server.server_close()
