"""Which addresses may be connected to. The check is made on the very address that the socket then opens.

A catalogue entry or a redirect must not make a machine talk to its own network: metadata services, routers, other
people's loopback servers. Checking names would not help, a name may point elsewhere a moment later (DNS rebinding).
"""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from provisioning.errors import AddressRefused, BadEntry

DEFAULT_PORTS = {"http": 80, "https": 443, "s3": 443}
WEB = frozenset({"http", "https"})
NAT64 = ip_network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address."""


@dataclass(frozen=True, slots=True)
class Site:
    """Scheme, host and port: who it is that one talks to (RFC 6454 calls it an origin)."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


def site_of(url: str) -> Site:
    """Return the site of a web address; for an object in S3 its bucket stands for it. Raises `BadEntry` for others."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadEntry(f"{_presentable(url)!r} is no address; expected https://…") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        message = "cannot be downloaded; expected an address that begins with https://, http://, hf://, s3://, file:///"
        raise BadEntry(f"{_presentable(url)!r} {message}")
    return Site(parts.scheme, parts.hostname.lower().rstrip("."), port or DEFAULT_PORTS[parts.scheme])


def _presentable(url: str) -> str:
    """Leave out of an unreadable address what may be a secret."""
    return url.partition("?")[0].rpartition("@")[2]


def is_public(address: str) -> bool:
    """Tell whether an IP address belongs to the public internet; addresses that carry another are judged by it."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Everything public, and in addition what the operator named."""

    allow_private: bool = False
    exempt: frozenset[tuple[str, int]] = frozenset()

    def check(self, host: str, port: int, address: str) -> None:
        """Raise `AddressRefused` if a socket must not be opened to this address."""
        if self.allow_private or (host.lower(), port) in self.exempt or is_public(address):
            return
        raise AddressRefused(
            f"{host}:{port} is at {address}, which is not on the public internet; nothing was sent to it. If it is a "
            "mirror of yours, set ALLOW_PRIVATE_ADDRESSES=1",
        )


def open_socket(connection: HTTPConnection, policy: AddressPolicy) -> socket.socket:
    """Resolve a connection's host, and connect to the first of its addresses that is allowed and answers.

    Raises `AddressRefused` when every address is refused, else urllib3's errors for names and connections.
    """
    host, port, timeout = connection.host.strip("[]"), connection.port, connection.timeout
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        trouble = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
        raise NameResolutionError(host, connection, trouble) from error
    last: Exception | None = None
    for family, kind, protocol, _, address in found:
        try:
            policy.check(host, port, str(address[0]))
        except AddressRefused as refused:
            last = last or refused
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            if isinstance(timeout, (int, float)):
                sock.settimeout(timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address)
        except OSError as error:
            sock.close()
            last = error
        else:
            return sock
    if isinstance(last, AddressRefused):
        raise last
    if isinstance(last, TimeoutError):
        raise ConnectTimeoutError(connection, f"no answer from {host}:{port}") from last
    raise NewConnectionError(connection, f"{last}") from last
