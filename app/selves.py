"""Under which addresses this server asks itself for the files that it hands out."""

from urllib.parse import urlsplit

from app.settings import Settings, is_loopback
from provisioning.addresses import Site, site_of
from provisioning.errors import BadEntry


def own_address(settings: Settings, asked_under: str) -> str:
    """Return the address by which a request reached us if it is one of ours, and else the one that is configured.

    A client writes `Host` itself. What it names is let through the check of addresses as the fleet's own, and so it
    must not be a way into this server's network.
    """
    asked = asked_under.rstrip("/")
    ours = {_site(url) for url in (settings.fleet_url, settings.public_url) if url}
    site = _site(asked)
    is_ours = site in ours or (site is not None and site.port == settings.port and is_loopback(site.host))
    return asked if is_ours else settings.fleet_url


def _site(url: str) -> Site | None:
    try:
        return site_of(url) if urlsplit(url).hostname else None
    except (BadEntry, ValueError):
        return None
