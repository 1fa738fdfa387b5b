"""HTTP as we need it: redirects followed by hand, tokens only where they belong, addresses checked, errors named.

urllib3 carries it (measured: 1.5 CPU seconds per GB against 5 for httpx). Nothing is retried here; who asks decides.
"""

import logging
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse

from provisioning import s3
from provisioning.addresses import WEB, AddressPolicy, Site, site_of
from provisioning.errors import (
    BadEntry,
    NoRoute,
    OriginBroken,
    OriginError,
    ProvisioningError,
    Redirected,
    TooSlow,
    Truncated,
)
from provisioning.pools import Pools
from provisioning.settings import Settings

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
REDIRECTS = frozenset({301, 302, 303, 307, 308})
REDIRECT_LIMIT = 10
PROXY_WANTS_PASSWORD = 407
AGENT = "imagefleet-provisioning/1 (+urllib3)"


@dataclass(slots=True)
class Reply:
    """An answer whose body has not been read yet.

    `first_headers` are those of the first site asked, before any redirect to another one: Hugging Face tells a file's
    SHA-256 there. `url` is the address that answered at last.
    """

    url: str
    response: BaseHTTPResponse
    first_headers: Mapping[str, str]
    with_token: bool
    moved: bool
    _plug: Any = field(default=None, repr=False)
    _over: bool = False

    @property
    def status(self) -> int:
        """The status code."""
        return self.response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the site that answered at last; names in any case."""
        return self.response.headers

    def read(self, amount: int, *, decode: bool = False) -> bytes:
        """Read so many bytes, fewer only at the end. Raises `Truncated`, `TooSlow` or `OriginBroken`."""
        try:
            return self.response.read(amount, decode_content=decode)
        except Exception as error:
            raise named(error, self.url) from error

    def sever(self) -> None:
        """End a read that another thread hangs in."""
        if not self._over and self._plug is not None:
            with suppress(OSError, ValueError):
                self._plug.shutdown(SHUT_RDWR)

    def close(self, *, keep: bool = False) -> None:
        """Be done with the answer; `keep` gives the connection back for another request if the body has been read."""
        self._over = True
        if keep and self.response.closed:
            self.response.release_conn()
            return
        with suppress(HTTPError, OSError, HTTPException):
            self.response.close()


class Tokens:
    """Which token goes where: to its provider's configured host, and nowhere else."""

    def __init__(self, settings: Settings) -> None:
        self.by_site: dict[Site, tuple[str, str | None]] = {
            site_of(settings.hf_endpoint): ("HF_TOKEN", settings.hf_token),
            site_of(settings.civitai_endpoint): ("CIVITAI_TOKEN", settings.civitai_token),
        }

    def of(self, url: str) -> str | None:
        """Return the token that an address may be sent, whatever a catalogue entry claims about it."""
        return self.by_site.get(site_of(url), ("", None))[1]

    def knows(self, url: str) -> bool:
        """Tell whether an address belongs to a provider's configured host."""
        return site_of(url) in self.by_site

    def variable(self, url: str, provider: str | None) -> str:
        """Name the variable that an operator would have to set."""
        known = self.by_site.get(site_of(url))
        if known:
            return known[0]
        return {"huggingface": "HF_TOKEN", "civitai": "CIVITAI_TOKEN"}.get((provider or "").lower(), "HF_TOKEN")


class Transport:
    """Opens addresses."""

    def __init__(self, settings: Settings, connect_seconds: float = CONNECT_SECONDS) -> None:
        # At DEBUG it writes every address with its query, and there ride signatures and tokens.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
        by_operator = (settings.fleet_url, settings.s3.endpoint, *(proxy.url for proxy in settings.proxies.all))
        exempt = frozenset((site.host, site.port) for site in (site_of(each) for each in by_operator if each))
        self.tokens = Tokens(settings)
        self.s3 = s3.Signer(settings.s3)
        self.pools = Pools(settings, AddressPolicy(settings.allow_private_addresses, exempt), connect_seconds)

    def post_json(self, url: str, payload: object, token: str | None, timeout: float) -> BaseHTTPResponse:
        """Send JSON and return the whole answer; redirects are not followed. Raises what `named` makes of failures."""
        headers = {"User-Agent": AGENT, "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            pool = self.pools.leading_to(url)
            return pool.request("POST", url, json=payload, headers=headers, redirect=False, timeout=timeout)
        except Exception as error:
            raise named(error, url) from error

    def open(self, url: str, headers: Mapping[str, str] | None = None, *, with_token: bool = True) -> Reply:
        """Get an address, following redirects.

        The token of the first site is sent there, and never again once a redirect has led to another host, port or
        scheme, not even back. Raises `OriginError` and `AccessError`; a status of 400 and above is no exception here.
        """
        if s3.is_object_address(url):
            address, signature = self.s3.request(url)
            return replace(self.open_once(address, {**(headers or {}), **signature}), with_token=bool(signature))
        url = _plain(url)
        token = self.tokens.of(url) if with_token else None
        home, away = site_of(url), False
        first_headers: Mapping[str, str] = {}
        for _ in range(REDIRECT_LIMIT):
            sent = token if not away else None
            response = self._get(url, headers or {}, sent)
            if not away:
                first_headers = response.headers
            location = response.headers.get("Location")
            if response.status not in REDIRECTS or not location:
                return Reply(url, response, first_headers, bool(sent), away, _plug_of(response))
            _discard(response)
            url = _next(url, location)
            away = away or site_of(url) != home
        raise Redirected(f"{without_query(url)} redirects more than {REDIRECT_LIMIT} times")

    def open_once(self, url: str, headers: Mapping[str, str], *, direct: bool = False) -> Reply:
        """Get an address with exactly these headers; a redirect is an answer like any other, nothing follows it.

        `direct` leaves proxies out, for machines of the same network.
        """
        response = self._get(url, headers, None, direct=direct)
        return Reply(url, response, response.headers, with_token=False, moved=False, _plug=_plug_of(response))

    def _get(
        self,
        url: str,
        headers: Mapping[str, str],
        token: str | None,
        *,
        direct: bool = False,
    ) -> BaseHTTPResponse:
        sent = {"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **headers}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        try:
            pool = self.pools.leading_to(url, direct=direct)
            response = pool.request("GET", url, headers=sent, preload_content=False, redirect=False)
        except Exception as error:
            raise named(error, url) from error
        if response.status == PROXY_WANTS_PASSWORD:
            response.close()
            raise NoRoute(
                f"the proxy to {without_query(url)} wants a password: HTTP_PROXY=http://user:password@host:port"
            )
        return response


def _plug_of(response: BaseHTTPResponse) -> Any:
    return getattr(getattr(response, "connection", None), "plug", None)


def named(error: Exception, url: str) -> ProvisioningError:
    """Give a failure of urllib3 or of a socket its name in our tree."""
    if isinstance(error, ProvisioningError):
        return error
    where = without_query(url)
    if isinstance(error, SSLError | ssl.SSLError) and any(word in str(error) for word in PLAIN):
        return OriginBroken(f"{where} does not speak TLS; is it http:// there, in place of https://?")
    for kinds, name, words in FAILURES:
        if isinstance(error, kinds):
            return name(f"{where} {words}: {_last_words(error)}")
    return OriginError(f"{where}: {type(error).__name__}")


PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""OpenSSL's names for words that are no TLS; which of them depends on its version."""

FAILURES: tuple[tuple[tuple[type[Exception], ...], type[OriginError], str], ...] = (
    ((ProxyError,), NoRoute, "cannot be reached through the proxy; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"),
    ((NameResolutionError,), NoRoute, "has a name that cannot be resolved; check DNS and the address"),
    ((NewConnectionError,), NoRoute, "cannot be connected to"),
    ((ConnectTimeoutError,), NoRoute, "does not answer; check the network and firewalls"),
    ((ReadTimeoutError, TimeoutError), TooSlow, "sent nothing for a while"),
    ((IncompleteRead,), Truncated, "ended too early"),
    ((SSLError, ssl.SSLError), OriginBroken, "has no TLS that we can trust"),
    # urllib3 turns into AttributeError and ValueError what another thread's shutdown does to a read.
    ((HTTPError, HTTPException, OSError, ValueError, AttributeError), Truncated, "broke the connection"),
)
"""The first row that fits; subclasses stand before their parents."""


def _last_words(error: Exception) -> str:
    reason = error.args[-1] if isinstance(error, IncompleteRead) and error.args else error
    return str(reason).rpartition(": ")[2] or type(error).__name__


def _discard(response: BaseHTTPResponse) -> None:
    """Read a redirect's short body, so that the connection can be used again."""
    with suppress(HTTPError, OSError, HTTPException):
        response.read(65536)
    response.close() if not response.closed else response.release_conn()


def _next(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        known = site_of(target).scheme in WEB
    except (ValueError, BadEntry):
        known = False
    if not known:
        raise Redirected(f"{without_query(url)} redirects to {without_query(location)!r}, no web address")
    return _plain(target)


def _plain(url: str) -> str:
    """Drop the fragment and what stands before an @: a user name in an address is for nobody."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def without_query(url: str) -> str:
    """Return an address fit for logs and receipts: signatures and tokens ride in the query or before the @."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an unreadable address"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
