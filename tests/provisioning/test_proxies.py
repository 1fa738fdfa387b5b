"""The operator's proxies carry everything they should, and nothing else; their passwords are told to nobody."""

import logging
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provisioning.addresses import site_of
from provisioning.errors import SettingsError
from provisioning.proxies import Proxies
from provisioning.settings import Settings
from tests.provisioning.conftest import Fleet, Provision, environment, run_process, some_bytes
from tests.provisioning.origin import Origin
from tests.support.certificates import self_signed
from tests.support.proxy import Proxy

NAME = "models.example"
PASSWORD = "s3cr@t"
MEGABYTES = 3_000_000


@pytest.fixture
def proxy(origin: Origin) -> Iterator[Proxy]:
    with Proxy({NAME: (origin.host, origin.port)}) as running:
        yield running


@pytest.fixture
def secure(origin: Origin, tmp_path: Path) -> Path:
    """Let the origin speak TLS under its name; returns the certificate to trust."""
    certificate, key = self_signed(tmp_path, NAME)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    origin.server.socket = context.wrap_socket(origin.server.socket, server_side=True)
    return certificate


def through(proxy: Proxy, credentials: str = "", **more: str) -> Proxies:
    address = f"http://{credentials}{proxy.authority}"
    wrong: list[str] = []
    found = Proxies.from_environ({"HTTP_PROXY": address, "HTTPS_PROXY": address, **more}, wrong)
    assert not wrong
    return found


def test_a_file_comes_through_the_proxy_in_ranges(
    origin: Origin,
    fleet: Fleet,
    proxy: Proxy,
    provision: Provision,
) -> None:
    body = some_bytes(MEGABYTES)
    origin.serve("/a", body)
    fleet.add("a", f"http://{NAME}/a", body)

    run = provision("a", proxies=through(proxy))

    assert run.outcome.ready == ("a",)
    assert run.file("a.bin").read_bytes() == body
    assert {each.target for each in proxy.passed} == {f"http://{NAME}/a"}
    assert len(proxy.passed) == len(origin.requests("/a")) > 2


def test_https_goes_through_a_tunnel_and_is_checked_at_its_end(
    origin: Origin,
    fleet: Fleet,
    proxy: Proxy,
    secure: Path,
    provision: Provision,
) -> None:
    body = some_bytes(MEGABYTES)
    origin.serve("/a", body)
    fleet.add("a", f"https://{NAME}/a", body)

    trusting = provision("a", proxies=through(proxy), ca_bundle=secure)
    fleet.add("b", f"https://{NAME}/a", some_bytes(MEGABYTES, seed=1))
    doubting = provision("b", proxies=through(proxy))

    assert trusting.outcome.ready == ("a",)
    assert {(each.method, each.target) for each in proxy.passed} == {("CONNECT", f"{NAME}:443")}
    assert doubting.code("b") == "origin_broken"


def test_a_whole_process_takes_proxies_and_certificates_from_its_environment(
    origin: Origin,
    fleet: Fleet,
    proxy: Proxy,
    secure: Path,
    settings: Settings,
) -> None:
    body = some_bytes(MEGABYTES)
    origin.serve("/a", body)
    fleet.add("a", f"https://{NAME}/a", body)
    env = environment(settings, https_proxy=proxy.authority, REQUESTS_CA_BUNDLE=str(secure))

    ended = run_process("--json", "a", env=env)

    assert ended.events[-1]["ready"] == ["a"]
    assert proxy.passed


def test_the_lookup_goes_through_the_proxy_too(origin: Origin, fleet: Fleet, provision: Provision) -> None:
    body = some_bytes(10)
    fleet.add("a", origin.serve("/a", body), body)
    with Proxy({"fleet.example": (fleet.origin.host, fleet.origin.port)}) as proxy:
        run = provision("a", fleet_url="http://fleet.example", proxies=through(proxy), machine_token="mt-1")

    assert run.outcome.ready == ("a",)
    assert [each.target for each in proxy.passed] == ["http://fleet.example/api/models/batch"]
    assert fleet.headers[0]["authorization"] == "Bearer mt-1"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxys_password_is_sent_to_it_and_told_to_nobody(  # noqa: PLR0917 - fixtures
    origin: Origin,
    fleet: Fleet,
    proxy: Proxy,
    provision: Provision,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    scheme: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    trusted = request.getfixturevalue("secure") if scheme == "https" else None
    proxy.credentials = f"user:{PASSWORD}"
    for seed, name in enumerate("ab"):
        body = some_bytes(10, seed)
        origin.serve(f"/{name}", body)
        fleet.add(name, f"{scheme}://{NAME}/{name}", body)

    with_it = provision("a", proxies=through(proxy, "user:s3cr%40t@"), ca_bundle=trusted)
    without = provision("b", proxies=through(proxy, "user:wr%40ng@"), ca_bundle=trusted)

    assert with_it.outcome.ready == ("a",)
    assert without.code("b") == "no_route"
    assert "proxy" in without.message("b")
    told = f"{caplog.text}{without.message('b')}{through(proxy, 'user:s3cr%40t@')!r}"
    for secret in ("s3cr", "wr@ng", "wr%40ng"):
        assert secret not in told
    assert all("proxy-authorization" not in each.headers for each in origin.asked)


def test_a_proxy_that_is_away_is_told_as_such(fleet: Fleet, proxy: Proxy, provision: Provision) -> None:
    body = some_bytes(10)
    fleet.add("a", f"http://{NAME}/a", body)
    gone = through(proxy)
    proxy.server.server_close()

    run = provision("a", proxies=gone)

    assert run.code("a") == "no_route"
    assert "proxy" in run.message("a")


def test_a_private_address_is_not_asked_for_through_a_proxy_either(
    origin: Origin,
    fleet: Fleet,
    proxy: Proxy,
    provision: Provision,
) -> None:
    body = some_bytes(10)
    origin.serve("/a", body)
    # Each of other bytes: what one of them brings would serve the others, without a look at their addresses.
    fleet.add("metadata", "http://169.254.169.254/latest", some_bytes(10, seed=1))
    fleet.add("loopback", f"{origin.url}/a", some_bytes(10, seed=2))
    fleet.add("named", f"http://{NAME}/a", body)

    run = provision("metadata", "loopback", "named", proxies=through(proxy), allow_private_addresses=False)

    assert run.code("metadata") == run.code("loopback") == "address_refused"
    assert run.outcome.ready == ("named",)
    assert {each.target for each in proxy.passed} == {f"http://{NAME}/a"}


@pytest.mark.parametrize(
    ("rules", "url", "spared"),
    [
        ("", "https://a.example/x", False),
        ("*", "https://a.example/x", True),
        ("a.example", "https://a.example/x", True),
        ("A.Example", "https://a.example/x", True),
        ("example", "https://a.example/x", True),
        (".a.example", "https://b.a.example/x", True),
        ("a.example", "https://not-a.example/x", False),
        ("b.example, a.example", "https://a.example/x", True),
        ("a.example:8443", "https://a.example/x", False),
        ("a.example:8443", "https://a.example:8443/x", True),
        ("10.0.0.0/8", "https://10.1.2.3/x", True),
        ("10.0.0.0/8", "https://11.1.2.3/x", False),
        ("10.1.2.3", "https://10.1.2.3:8443/x", True),
        ("fd00::/8", "https://[fd00::1]/x", True),
        ("", "https://127.0.0.1/x", True),
        ("", "https://[::1]:9/x", True),
        ("", "https://localhost/x", True),
    ],
)
def test_what_no_proxy_names_is_reached_directly(rules: str, url: str, spared: bool) -> None:
    proxies = Proxies.from_environ({"https_proxy": "proxy.example:3128", "no_proxy": rules}, [])

    proxy = proxies.of(site_of(url))

    assert (proxy is None) == spared
    assert spared or (proxy is not None and proxy.url == "http://proxy.example:3128")


def test_each_scheme_has_its_proxy_and_all_proxy_serves_both() -> None:
    def of(url: str, **environ: str) -> str | None:
        proxy = Proxies.from_environ(environ, []).of(site_of(url))
        return proxy.url if proxy else None

    assert of("http://a.example", HTTPS_PROXY="http://p.example:1") is None
    assert of("https://a.example", HTTPS_PROXY="http://p.example:1") == "http://p.example:1"
    assert of("http://a.example", ALL_PROXY="https://p.example") == "https://p.example:443"
    assert (
        of("http://a.example", ALL_PROXY="http://p.example:1", http_proxy="http://q.example:2") == "http://q.example:2"
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HTTPS_PROXY", "socks5://u:secret@p.example:1080"), ("HTTP_PROXY", "http://p.example:no")],
)
def test_what_is_no_proxy_is_refused_without_its_password(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environ({variable: value})

    assert variable in str(refused.value)
    assert "secret" not in str(refused.value)


def test_certificates_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    make: Callable[[str, Path], Settings] = lambda name, path: Settings.from_environ({name: str(path)})  # noqa: E731

    assert make("SSL_CERT_FILE", tmp_path).ca_bundle == tmp_path
    for name, path in (("SSL_CERT_FILE", empty), ("REQUESTS_CA_BUNDLE", tmp_path / "absent.pem")):
        with pytest.raises(SettingsError, match=name):
            make(name, path)
