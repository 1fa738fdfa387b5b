"""Which proxy leads to an address: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, and `NO_PROXY` for what needs none.

The names and their meaning are those of curl and requests; small letters come first, as with them.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

from provisioning.addresses import Site

EXAMPLE = "http://proxy.example:3128"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's address, and the name and password that it wants; those are in no repr, no log and no message."""

    url: str
    credentials: str | None = field(default=None, repr=False)
    """``user:password``, unquoted."""


@dataclass(frozen=True, slots=True)
class Proxies:
    """The operator's proxies by scheme, and what is reached without."""

    by_scheme: tuple[tuple[str, Proxy], ...] = ()
    without: tuple[str, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], wrong: list[str]) -> "Proxies":
        """Read the variables; what is no proxy's address is added to the complaints."""
        found = {}
        for scheme in ("http", "https"):
            name, value = _first(environ, f"{scheme}_proxy", "all_proxy")
            if not value:
                continue
            proxy = _proxy(value)
            if proxy is None:
                wrong.append(f"{name} is no address of an http or https proxy; for example {name}={EXAMPLE}")
            else:
                found[scheme] = proxy
        rules = _first(environ, "no_proxy")[1].replace(",", " ").lower().split()
        return cls(tuple(found.items()), tuple(rules))

    def of(self, site: Site) -> Proxy | None:
        """Return the proxy that leads to a site; None for what is reached directly, as this computer always is."""
        return None if is_local(site.host) or self._spared(site) else dict(self.by_scheme).get(site.scheme)

    @property
    def all(self) -> tuple[Proxy, ...]:
        """Every proxy."""
        return tuple(proxy for _, proxy in self.by_scheme)

    def _spared(self, site: Site) -> bool:
        return any(_covers(rule, site) for rule in self.without)


def is_local(host: str) -> bool:
    """Tell whether a host is this computer by its very name; a proxy could only mistake it for itself."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _covers(rule: str, site: Site) -> bool:
    """Tell whether an entry of `NO_PROXY` means a site: a name with all below it, an address, a network, or ``*``."""
    if rule == "*":
        return True
    with suppress(ValueError):
        return ip_address(site.host) in ip_network(rule.strip("[]"), strict=False)
    name, colon, port = rule.rpartition(":")
    if colon and port.isdigit():
        if int(port) != site.port:
            return False
        rule = name.strip("[]")
    domain = rule.removeprefix("*").removeprefix(".")
    return bool(domain) and (site.host == domain or site.host.endswith(f".{domain}"))


def _first(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    for name in names:
        for spelling in (name, name.upper()):
            if value := environ.get(spelling, "").strip():
                return spelling, value
    return names[0].upper(), ""


def _proxy(value: str) -> Proxy | None:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    name, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Proxy(f"{parts.scheme}://{host}:{port}", f"{name}:{password}" if name else None)
