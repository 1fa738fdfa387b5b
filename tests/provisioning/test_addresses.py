"""Private addresses are refused where the socket opens, unless the operator allows them."""

import socket
from pathlib import Path

import pytest

from provisioning.addresses import AddressPolicy, is_public, site_of
from provisioning.errors import BadEntry
from tests.provisioning.conftest import Fleet, Provision, some_bytes
from tests.provisioning.origin import Origin

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
    "2002:7f00:1::", "192.0.2.1", "::127.0.0.1", "::ffff:0:10.0.0.1", "64:ff9b:1::7f00:1", "fec0::1", "5f00::1",
    "3fff::1", "fe80::5efe:10.0.0.1", "2001::1", "198.18.0.1", "240.0.0.1", "239.1.2.3",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_of_private_networks_are_not_public_however_they_are_written(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


def test_a_loopback_origin_is_refused_and_nothing_is_sent_to_it(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(10)
    fleet.add("a", origin.serve("/a", body), body)
    fleet.add("named", f"http://localhost:{origin.port}/a", body)

    run = provision("a", "named", allow_private_addresses=False)

    assert run.code("a") == run.code("named") == "address_refused"
    assert "ALLOW_PRIVATE_ADDRESSES" in run.message("a")
    assert origin.asked == []


def test_the_fleets_own_address_is_allowed(fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(10)
    fleet.origin.serve("/a", body)
    fleet.add("a", "/a", body)

    run = provision("a", allow_private_addresses=False)

    assert run.outcome.ready == ("a",)


def test_a_redirect_into_the_private_network_is_refused(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
) -> None:
    body = some_bytes(10)
    fleet.origin.serve("/a", b"", redirect=origin.serve("/a", body))
    fleet.add("a", "/a", body)

    run = provision("a", allow_private_addresses=False)

    assert run.code("a") == "address_refused"
    assert origin.asked == []


def test_a_name_that_points_elsewhere_a_moment_later_does_not_help(
    origin: Origin,
    fleet: Fleet,
    provision: Provision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = some_bytes(10)
    fleet.add("a", f"http://rebinding.example:{origin.port}/a", body)
    origin.serve("/a", body)
    answers = iter([("192.0.2.1", origin.port)])
    resolve = socket.getaddrinfo

    def rebinding(host: str, port: int, *rest: int, **named: int) -> object:
        if host != "rebinding.example":
            return resolve(host, port, *rest, **named)
        address = next(answers, ("127.0.0.1", origin.port))
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address)]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)

    run = provision("a", allow_private_addresses=False)

    assert run.code("a") == "address_refused"
    assert origin.asked == []


def test_the_exempt_host_is_exempt_on_its_own_port_only() -> None:
    policy = AddressPolicy(exempt=frozenset({("fleet.internal", 8000)}))

    policy.check("fleet.internal", 8000, "10.0.0.1")
    with pytest.raises(Exception, match=r"10\.0\.0\.1"):
        policy.check("fleet.internal", 22, "10.0.0.1")


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "file:///etc/passwd", "//x/y", "http://", "http://x:99999/", str(Path("/x"))]
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(BadEntry):
        site_of(url)
