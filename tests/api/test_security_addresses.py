"""One table of addresses for everything that asks in the fleet's name: webhooks, downloads, and what Civitai knows.

Sockets are real. Names lead where the table says: the resolver is the only part that is replaced.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest
from flask import Flask

from app.api.door import Refused
from app.api.hooks import hook_of
from provisioning.addresses import is_private_host
from provisioning.errors import ProvisioningError
from provisioning.settings import Settings
from provisioning.transport import Transport
from tasks.control.post import Poster
from tests.support.processes import free_port

HOSTS = {
    "127.0.0.1": None,
    "127.1": None,
    "2130706433": None,
    "0x7f000001": None,
    "0x7f.0.0.1": None,
    "0177.0.0.1": None,
    "017700000001": None,
    "0.0.0.0": None,
    "localhost": None,
    "LOCALHOST": None,
    "localhost.": None,
    "[::1]": None,
    "[::]": None,
    "[0:0:0:0:0:0:0:1]": None,
    "[::ffff:127.0.0.1]": None,
    "[::ffff:7f00:1]": None,
    "10.0.0.1": None,
    "172.16.0.1": None,
    "192.168.0.1": None,
    "169.254.169.254": None,
    "100.64.0.1": None,
    "198.18.0.1": None,
    "224.0.0.1": None,
    "255.255.255.255": None,
    "[fe80::1]": None,
    "[fd00::1]": None,
    "[ff02::1]": None,
    "[fec0::1]": None,
    "[64:ff9b::7f00:1]": None,
    "[64:ff9b:1::7f00:1]": None,
    "[2002:7f00:1::]": None,
    "[::127.0.0.1]": None,
    "[2001:0:0:0:0:0:80ff:fffe]": None,
    "loopback.test": ["127.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "six.test": ["::1"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "nat64.test": ["64:ff9b::7f00:1"],
    "sixtofour.test": ["2002:7f00:1::"],
    "several.test": ["10.0.0.1", "::1", "127.0.0.1"],
}
"""Hosts as they are written, and where a name leads."""


class Inner(BaseHTTPRequestHandler):
    """A service of this network that nobody is to reach."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Remember that it was asked."""
        self.asked.append(f"{self.command} {self.headers.get('Host')}")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815  # the library's own naming

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Outer(Inner):
    """A service that may be asked, and sends its callers on to the other one."""

    to: ClassVar[str] = ""

    def do_GET(self) -> None:
        """Redirect."""
        self.send_response(307)
        self.send_header("Location", self.to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815  # as above


def running(handler: type[BaseHTTPRequestHandler]) -> tuple[ThreadingHTTPServer, Callable[[], None]]:
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    return server, stop


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Run the inner service on all of loopback's addresses that this computer has."""
    server, stop = running(Inner)
    yield server.server_port
    stop()


@pytest.fixture(autouse=True)
def nobody_asked() -> None:
    """Begin anew."""
    Inner.asked.clear()


@pytest.fixture
def leads(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, list[Sequence[str]]], None]:
    """Let a name lead to addresses; with several answers the last one is given for ever."""
    resolve = socket.getaddrinfo
    known: dict[str, list[Sequence[str]]] = {}

    def lookup(host: str, port: int, *rest: Any, **named: Any) -> Any:
        if host not in known:
            return resolve(host, port, *rest, **named)
        found = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        rows = [(socket.AF_INET6 if ":" in each else socket.AF_INET, each) for each in found]
        return [
            (family, socket.SOCK_STREAM, 0, "", (each, port, 0, 0) if family == socket.AF_INET6 else (each, port))
            for family, each in rows
        ]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known.__setitem__


def by_webhook(url: str) -> str:
    """Ask as webhooks do; returns what went wrong."""
    return Poster(allow_private=False).send(url, {}, b"{}").error or ""


def by_download(url: str) -> str:
    """Ask as downloads, plans and the look-up of metadata do; returns what went wrong."""
    try:
        Transport(Settings(fleet_url="http://fleet.test:1"), connect_seconds=5).open(url).close()
    except ProvisioningError as exc:
        return f"{exc.code}: {exc}"
    return ""


ASKING = {"webhook": (by_webhook, "not on the public internet"), "download": (by_download, "address_refused")}


@pytest.mark.parametrize("who", ASKING)
@pytest.mark.parametrize("host", HOSTS)
def test_nobody_is_led_into_our_own_network(host: str, who: str, port: int, leads: Any) -> None:
    ask, words = ASKING[who]
    if HOSTS[host] is not None:
        leads(host, [HOSTS[host]])

    told = ask(f"http://{host}:{port}/")

    # A number that this computer's resolver does not take for an address leads nowhere, which is as good.
    assert words in told or "resolve" in told or "no_route" in told, told
    assert Inner.asked == []


@pytest.mark.parametrize("who", ASKING)
def test_the_table_would_be_empty_talk_if_the_service_could_not_be_reached(who: str, port: int) -> None:
    url = f"http://127.0.0.1:{port}/"

    if who == "webhook":
        assert Poster(allow_private=True).send(url, {}, b"{}").status == 200
    else:
        Transport(Settings(allow_private_addresses=True)).open(url).close()

    assert len(Inner.asked) == 1


@pytest.mark.parametrize("who", ASKING)
def test_a_name_that_changes_its_mind_gains_nothing(who: str, port: int, leads: Any) -> None:
    """Looked up for the check and again for the socket is how DNS rebinding gets in; here it is looked up once."""
    ask, words = ASKING[who]
    answers = [["127.0.0.1"], ["192.0.2.1"], ["127.0.0.1"]]
    leads("rebinding.test", answers)

    assert words in ask(f"http://rebinding.test:{port}/")
    assert answers == [["192.0.2.1"], ["127.0.0.1"]]
    assert Inner.asked == []


@pytest.mark.parametrize("who", ASKING)
def test_a_redirect_leads_nowhere_that_the_address_itself_may_not(
    who: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, stop = running(Outer)
    monkeypatch.setattr(Outer, "to", f"http://127.0.0.1:{port}/")
    ours = f"http://127.0.0.1:{server.server_port}"
    try:
        if who == "webhook":
            told = Poster(allow_private=True).send(ours, {}, b"{}").error or ""
            assert "redirects are not followed" in told
        else:
            with pytest.raises(ProvisioningError) as refused:
                Transport(Settings(fleet_url=ours)).open(f"{ours}/x")
            assert refused.value.code == "address_refused"
    finally:
        stop()
    assert Inner.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "unix:///var/run/docker.sock",
        "javascript:alert(1)",
        "//127.0.0.1/x",
        "http://",
        "http:///x",
        "http://exa mple.org/",
        "http://example.org:99999/",
    ],
)
@pytest.mark.parametrize("who", ASKING)
def test_nothing_but_the_web_is_asked(who: str, url: str) -> None:
    assert ASKING[who][0](url) != ""


@pytest.mark.parametrize(
    "url",
    [
        "http://user:password@127.0.0.1:1/",
        "http://example.org@127.0.0.1:1/",
        "http://127.0.0.1:1\\@example.org/",
        "http://127.0.0.1:1#@example.org/",
        "http://127.0.0.1:1?@example.org/",
    ],
)
@pytest.mark.parametrize("who", ASKING)
def test_what_stands_before_or_behind_a_host_hides_it_from_nobody(who: str, url: str, port: int) -> None:
    ASKING[who][0](url.replace(":1", f":{port}"))

    assert Inner.asked == []


def test_a_host_that_is_private_by_its_name_is_refused_with_the_order(application: Flask) -> None:
    written = [host for host, leading in HOSTS.items() if leading is None]

    with application.test_request_context("/"):
        for host in written:
            with pytest.raises(Refused, match="WEBHOOK_ALLOW_PRIVATE"):
                hook_of({"webhook_url": f"http://{host}/hook"})

    assert all(map(is_private_host, written))
    assert not any(map(is_private_host, ("example.org", "8.8.8.8", "134744072", "[2606:4700::1111]", "localhost.org")))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url
