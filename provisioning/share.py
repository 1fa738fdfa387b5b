"""Handing files to neighbours: what is proven here, and what is arriving, by ranges, to machines of the same fleet.

Who asks for a range that has not arrived yet waits for it: that is how machines that boot together each fetch a part
from the origin and the rest from each other. What is handed out is checked by who takes it, as from any origin.
"""

import hmac
import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from provisioning import digests, receipts
from provisioning.errors import BadHash
from provisioning.segments import Segments

log = logging.getLogger(__name__)

FOLDER = "/files/"
WAIT_HEADER = "X-Wait-Seconds"
LONGEST_WAIT = 30.0
AT_ONCE = 64
"""Ranges handed out at the same time. Who comes on top is told to ask the origin or somebody else."""
IDLE_SECONDS = 60.0
RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Item:
    """A file that can be handed out: whole, or as far as its segments have arrived."""

    path: Path
    size: int
    segments: Segments | None = None

    def await_range(self, start: int, end: int, seconds: float) -> bool:
        """Wait until bytes start to end (exclusive) are there; False when they did not come in time."""
        return self.segments is None or self.segments.await_range(start, end, seconds)


class Shelf:
    """What this machine can hand out, by the expected hash."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._arriving: dict[str, Item] = {}
        self._proven: dict[str, Item] = {}

    def arriving(self, key: str, part: Path, segments: Segments) -> Callable[[], None]:
        """Hand out a file while it arrives; the returned function ends that."""
        item = Item(part, segments.total, segments)
        self._arriving[key] = item

        def end() -> None:
            if self._arriving.get(key) is item:
                del self._arriving[key]

        return end

    def look(self) -> None:
        """Find again what is proven here: a file whose receipt no longer fits is handed out no more."""
        proven: dict[str, Item] = {}
        for receipt in receipts.load_all(self._models_dir).values():
            for file in receipt.files:
                if receipts.file_is_intact(self._models_dir, file):
                    item = Item(self._models_dir / file.path, file.size)
                    for key in {file.hash, *_parsed(receipt.catalogue_hash)}:
                        proven[key] = item
        self._proven = proven

    def find(self, key: str) -> Item | None:
        """Return what is known under a key."""
        return self._proven.get(key) or self._arriving.get(key)

    def contents(self) -> dict[str, bool]:
        """Return all keys, and for each whether the file is whole."""
        return {**dict.fromkeys(self._arriving, False), **dict.fromkeys(self._proven, True)}


def _parsed(text: str | None) -> list[str]:
    with suppress(BadHash):
        return [str(digests.parse(text))] if text else []
    return []


def address(base: str, key: str) -> str:
    """Return where a neighbour hands out a file."""
    return f"{base}{FOLDER}{quote(key, safe='')}"


class ShareServer:
    """The HTTP server of one machine's shelf."""

    def __init__(self, shelf: Shelf, token: str, host: str, port: int) -> None:
        places = threading.BoundedSemaphore(AT_ONCE)

        class Handler(_Handler):
            pass

        Handler.shelf, Handler.token, Handler.places = shelf, token, places
        self._server = _Server((host, port), Handler)
        self.port = int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="share", daemon=True).start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The system's queue of five is full at once where machines boot together, each with several connections; who finds
    # no place in it waits for a second, takes us for dead, and asks the origin.
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    shelf: Shelf
    token: str
    places: threading.BoundedSemaphore
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer a request for a range."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode(), self.token.encode()):
            self._refuse(401)
            return
        path = urlsplit(self.path).path
        item = self.shelf.find(unquote(path.removeprefix(FOLDER))) if path.startswith(FOLDER) else None
        wanted = RANGE.fullmatch(self.headers.get("Range", ""))
        if item is None or wanted is None:
            self._refuse(404 if item is None else 416)
            return
        start, end = int(wanted[1]), int(wanted[2]) + 1
        if not 0 <= start < end <= item.size:
            self._refuse(416)
            return
        if not self.places.acquire(blocking=False):
            self._refuse(503)
            return
        try:
            if item.await_range(start, end, self._patience()):
                self._hand_out(item, start, end)
            else:
                self._refuse(503)
        finally:
            self.places.release()

    def _patience(self) -> float:
        with suppress(ValueError):
            return max(0.0, min(LONGEST_WAIT, float(self.headers.get(WAIT_HEADER, "0"))))
        return 0.0

    def _hand_out(self, item: Item, start: int, end: int) -> None:
        try:
            file = item.path.open("rb")
        except OSError:
            self._refuse(404)  # it was moved to its final path a moment ago, or away
            return
        with file:
            self.send_response(206)
            self.send_header("Content-Length", str(end - start))
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{item.size}")
            self.end_headers()
            self.wfile.flush()
            # Not os.sendfile: the timeout makes the socket non-blocking, and who reads slowly would be cut off.
            if self.connection.sendfile(file, start, end - start) < end - start:
                self.close_connection = True

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if status == 503:
            self.send_header("Retry-After", "1")
        self.end_headers()

    def handle_one_request(self) -> None:
        """Answer one request; a neighbour that goes away in the middle is no news."""
        try:
            super().handle_one_request()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log at DEBUG only: neighbours ask for thousands of ranges."""
        log.debug("%s %s", self.address_string(), format % args)
