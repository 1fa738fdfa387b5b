"""Which addresses may be connected to. The check is made on the very address that the socket then opens.

A catalogue entry or a redirect must not make a machine talk to its own network: metadata services, routers, other
people's loopback servers. Checking names would not help, a name may point elsewhere a moment later (DNS rebinding).
"""

import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from provisioning.errors import AddressRefused, BadEntry

DEFAULT_PORTS = {"http": 80, "https": 443, "s3": 443}
WEB = frozenset({"http", "https"})
CARRIERS = tuple(ip_network(text) for text in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96"))
"""IPv6 addresses whose last 32 bits are an IPv4 address: NAT64 (RFC 6052), IPv4-compatible (RFC 4291 section 2.5.5.1),
IPv4-translated (RFC 2765)."""

NOT_FOR_ALL = tuple(ip_network(text) for text in ("64:ff9b:1::/48", "fec0::/10", "5f00::/16", "3fff::/20"))
"""What the standard library of some Python versions takes for public: NAT64 of a network's own (RFC 8215), site-local
addresses (RFC 3879), SRv6 (RFC 9602), documentation (RFC 9637)."""


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
        if any(ip in network for network in CARRIERS):
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if any(ip in network for network in NOT_FOR_ALL):
            return False
    return ip.is_global and not ip.is_multicast


def is_private_host(host: str) -> bool:
    """Judge a host by its name alone: a private address however it is written, or this computer's own name.

    Where other names lead is looked at when the socket is opened.
    """
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761
        return True
    with suppress(ValueError):
        return not is_public(name.replace("%25", "%"))
    with suppress(OSError):
        # The C library reads more as an address than RFC 3986 does: 127.1, 0x7f000001, 2130706433.
        return not is_public(str(ip_address(socket.inet_aton(name))))
    return False


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
