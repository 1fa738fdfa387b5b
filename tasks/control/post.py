"""One guarded POST to an address that a stranger chose.

The address of each socket is checked as it is opened, redirects and the environment's proxies are not followed, the
answer's body is not read, and after `total` seconds the connection is cut, whatever the other side is doing.
"""

import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection as PlainConnection
from http.client import HTTPException
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.exceptions import SSLError as TlsError
from urllib3.util import parse_url

from provisioning.addresses import AddressPolicy, open_socket
from provisioning.errors import AddressRefused

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a receiver may take, in seconds."""

    connect: float = 5.0
    read: float = 10.0
    """Between two pieces of an answer."""
    total: float = 15.0

    @classmethod
    def of(cls, answer_seconds: float) -> "Patience":
        """Give a receiver so long between two pieces of its answer, and half as long again in all."""
        return cls(read=answer_seconds, total=1.5 * answer_seconds)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None
    """Seconds, as the receiver asked in `Retry-After`."""


class _CutOff(Exception):
    """The time for this request is over."""


@dataclass(frozen=True, slots=True)
class _Policy(AddressPolicy):
    """Also refuses to begin with another address of the same host once the time is over."""

    cut: "_Cut | None" = None

    def check(self, host: str, port: int, address: str) -> None:
        if self.cut is not None and self.cut.is_over:
            raise _CutOff
        AddressPolicy.check(self, host, port, address)


@dataclass(slots=True)
class _Cut:
    """Ends a connection when its time is over, also in the middle of a TLS handshake or of a header."""

    is_over: bool = False
    wire: socket.socket | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, sock: socket.socket) -> None:
        # A twin: the TLS handshake takes the first one's descriptor away before it begins.
        with self._lock:
            self.wire = sock.dup()
        if self.is_over:
            self.now()

    def now(self) -> None:
        with self._lock:
            self.is_over = True
            if self.wire is not None:
                with suppress(OSError):
                    self.wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            if self.wire is not None:
                self.wire.close()
                self.wire = None


class Poster:
    """Sends bodies to addresses; one for a whole process."""

    def __init__(self, *, allow_private: bool, patience: Patience | None = None) -> None:
        self._allow_private = allow_private
        self._patience = patience or Patience()
        self._tls = ssl.create_default_context()

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """POST a body and return the answer's head; whatever goes wrong becomes a reply with an error."""
        cut = _Cut()
        timer = threading.Timer(self._patience.total, cut.now)
        timer.daemon = True
        timer.start()
        try:
            return self._exchange(url, headers, body, cut)
        except (HTTPError, HTTPException, AddressRefused, OSError, ValueError, AttributeError, _CutOff) as exc:
            # urllib3 turns into AttributeError and ValueError what the cut does to a read in another thread.
            return Reply(error=self._in_words(exc, cut))
        finally:
            timer.cancel()
            cut.close()

    def _exchange(self, url: str, headers: Mapping[str, str], body: bytes, cut: _Cut) -> Reply:
        parts = parse_url(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.host:
            return Reply(error="it is no address of the web")
        connection = self._connection(parts.scheme, parts.host, parts.port, cut)
        try:
            connection.connect()
            sent = {**headers, "Connection": "close"}
            connection.request("POST", parts.request_uri, body=body, headers=sent, preload_content=False)
            if connection.sock is not None:  # not before: `request` sets the bound of connecting once more
                connection.sock.settimeout(self._patience.read)
            # The standard library's own: urllib3's writes the whole address to the log when a header is no header.
            response = PlainConnection.getresponse(connection)
            if cut.is_over:  # what the cut left of a header reads like one that has ended
                raise _CutOff
            return Reply(response.status, _refusal(response.status), retry_after_of(response.getheader("Retry-After")))
        finally:
            connection.close()

    def _connection(self, scheme: str, host: str, port: int | None, cut: _Cut) -> HTTPConnection:
        policy = _Policy(self._allow_private, cut=cut)

        def open_one(connection: HTTPConnection) -> socket.socket:
            sock = open_socket(connection, policy)
            cut.watch(sock)
            return sock

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return open_one(self)

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return open_one(self)

        given: dict[str, Any] = {"port": port or DEFAULT_PORTS[scheme], "timeout": self._patience.connect}
        if scheme == "https":
            return Secure(host, ssl_context=self._tls, **given)
        return Plain(host, **given)

    def _in_words(self, exc: Exception, cut: _Cut) -> str:
        """Say what went wrong, and nothing about the network of this server."""
        if isinstance(exc, AddressRefused):
            return (
                "its address is not on the public internet, and nothing was sent to it; the server's operator can "
                "allow it with WEBHOOK_ALLOW_PRIVATE=1"
            )
        if cut.is_over or isinstance(exc, _CutOff):
            return f"no answer within {self._patience.total:g} s"
        for kinds, words in _WORDS:
            if isinstance(exc, kinds):
                return words
        return f"the connection broke ({type(exc).__name__})"


_WORDS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((NameResolutionError,), "its name cannot be resolved"),
    ((ConnectTimeoutError,), "it cannot be connected to: no answer"),
    ((NewConnectionError,), "it cannot be connected to"),
    ((TlsError, ssl.SSLError), "it has no TLS that we can trust"),
    ((TimeoutError,), "it took the request and sent no answer"),
)
"""The first row that fits; subclasses stand before their parents."""


def _refusal(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"it answered {status}; redirects are not followed, order with the address that it leads to"
    return f"it answered {status}"


def retry_after_of(text: str | None) -> float | None:
    """Read `Retry-After`, RFC 9110 section 10.2.3: seconds or a date; None for anything else."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
