"""Where a request comes from and under which name it asks for us: headers are believed from trusted proxies only."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from flask import g, request

from app.api.refusals import Problem
from app.settings import Settings

WITH_PORT = re.compile(r"\[(?P<v6>[^\]]+)\](?::\d+)?|(?P<v4>[\d.]+):\d+")
"""Some proxies write the port behind the address."""

LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain"})
UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def address(trusted: Sequence[str]) -> str:
    """Return the address of this request's client.

    It is the socket's, and where that is a trusted proxy's, the last one of `X-Forwarded-For` that is not: what stands
    before it the client may have written itself. A hop that is no address ends the search at the proxy that wrote it.
    """
    found: str | None = g.get("client_address")
    if found is None:
        named = ",".join(request.headers.getlist("X-Forwarded-For")).split(",")
        found = g.client_address = _behind(request.remote_addr or "", named, trusted)
    return found


def _behind(peer: str, hops: Sequence[str], trusted: Sequence[str]) -> str:
    for hop in reversed(hops):
        if not _is_in(peer, trusted):
            break
        written = WITH_PORT.fullmatch(hop.strip())
        before = (written["v6"] or written["v4"]) if written else hop.strip()
        if not _is_address(before):
            break
        peer = before
    return peer


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(text: str, networks: Iterable[str]) -> bool:
    if not networks or not _is_address(text):
        return False
    ip = ip_address(text)
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    return any(mapped in ip_network(network) for network in networks)


def is_here(trusted: Sequence[str]) -> bool:
    """Say whether a request comes from this computer, and from no proxy on it."""
    forwarded = {"X-Forwarded-For", "Forwarded", "X-Real-Ip"} & {name.title() for name in request.headers.keys()}  # noqa: SIM118  # werkzeug's headers iterate over pairs
    peer = request.remote_addr or ""
    return not forwarded and not trusted and _is_address(peer) and ip_address(peer).is_loopback


def wrong_host(known: Settings, *, is_open: bool) -> Problem | None:
    """Refuse a name that is not ours, where that matters.

    A server without tokens trusts everybody who reaches loopback. A page from elsewhere does: its name may lead to
    127.0.0.1 a moment later (DNS rebinding), and the browser then takes our answers for its own.
    """
    if not is_open and not known.allowed_hosts:
        return None
    host = _asked_host()
    ours = {*known.allowed_hosts, *map(_host_of, (known.public_url, known.fleet_url))} - {""}
    is_ours = host in ours or host in LOCAL_NAMES or host.endswith(".localhost")
    # An address is nobody's name: nothing can be made to lead elsewhere.
    if is_ours or host == known.host or (_is_address(host) and not known.allowed_hosts):
        return None
    told = "this server is not asked under that name; the operator can allow it with ALLOWED_HOSTS or PUBLIC_URL"
    return Problem(421, "wrong_host", told)


def _asked_host() -> str:
    """Return the name under which this request asks, without a port; nothing for what is no name."""
    try:
        return (urlsplit(f"//{request.headers.get('Host', '')}").hostname or "").rstrip(".")
    except ValueError:  # such as half of a pair of brackets
        return ""


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets that do not fit
        return ""


def foreign_page(known: Settings, *, is_open: bool) -> Problem | None:
    """Refuse what a page of another site makes a visitor's browser send to a server without tokens.

    Fetch Metadata tells where a request comes from (Sec-Fetch-Site); programs do not send it.
    """
    if not is_open or request.method not in UNSAFE or request.headers.get("Sec-Fetch-Site") != "cross-site":
        return None
    if {request.headers.get("Origin"), "*"} & set(known.cors_origins):
        return None
    return Problem(403, "foreign_page", "a page of another site sent this; the operator can allow it with CORS_ORIGINS")
