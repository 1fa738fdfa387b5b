"""What an origin offers for an address, and what its refusals mean.

The question is a GET for the first byte (`Range: bytes=0-0`, RFC 9110 §14): HEAD is refused by many origins, and
signed addresses are often good for GET only.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from provisioning import s3
from provisioning.access import no_access, no_object
from provisioning.digests import LENGTHS, Digest
from provisioning.errors import (
    GoneUpstream,
    OriginBroken,
    OriginBusy,
    ProvisioningError,
    WebPage,
)
from provisioning.transport import Reply, Tokens, Transport, without_query

CONTENT_RANGE = re.compile(r"^bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$")
LONGEST_PAUSE = 300.0
"""Seconds. Hugging Face counts per five minutes; who asks for more is tried again then all the same."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What an origin will send: size (None: it does not say), whether in ranges, and how it marks the content.

    `sha256` is the origin's own hash, where it tells one (Hugging Face: `X-Linked-ETag` of a LFS file).
    """

    size: int | None
    ranges: bool
    etag: str | None
    sha256: Digest | None


def content_range(reply: Reply) -> tuple[int | None, int | None]:
    """Return the first byte and the total size that a 206 or a 416 states (RFC 9110 §14.4)."""
    match = CONTENT_RANGE.match(reply.headers.get("Content-Range", ""))
    if not match:
        return None, None
    first, _, total = match.groups()
    return (int(first) if first else None), (int(total) if total and total != "*" else None)


def offer_of(reply: Reply) -> Offer:
    """Read an offer from the answer to a request for the first byte. Raises `OriginBroken`."""
    first, total = content_range(reply)
    encoded = reply.headers.get("Content-Encoding", "identity") != "identity"
    ranges = reply.status == 206 and first == 0 and total is not None and not encoded
    length = reply.headers.get("Content-Length", "")
    size = total if ranges else int(length) if length.isdigit() and reply.status == 200 and not encoded else None
    if reply.status == 416:
        if total != 0:
            reply.close()
            raise OriginBroken(f"{without_query(reply.url)} answered 416 to a request for the first byte")
        size = 0
    return Offer(size, ranges, strong_etag(reply), linked_sha256(reply))


def strong_etag(reply: Reply) -> str | None:
    """Return the entity tag if it promises the same bytes; weak ones (W/) do not (RFC 9110 §8.8.3)."""
    etag = reply.headers.get("ETag", "").strip()
    return etag if etag.startswith('"') else None


def linked_sha256(reply: Reply) -> Digest | None:
    """Return the SHA-256 that Hugging Face tells for a file in LFS or Xet storage."""
    value = reply.first_headers.get("X-Linked-ETag", "").strip().removeprefix("W/").strip('"').lower()
    is_sha256 = len(value) == LENGTHS["sha256"] and all(letter in "0123456789abcdef" for letter in value)
    return Digest("sha256", value) if is_sha256 else None


def is_web_page(reply: Reply) -> bool:
    """Tell whether the answer calls itself HTML: login pages and error pages come with status 200."""
    kind = reply.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in {"text/html", "application/xhtml+xml"}


def refusal(reply: Reply, tokens: Tokens, asked: str, provider: str | None) -> ProvisioningError:
    """Make the error for a status that brings no bytes, or for a web page in the place of bytes."""
    where, status = without_query(reply.url), reply.status
    if s3.is_object_address(asked) and (trouble := no_object(reply, asked)):
        return trouble
    if status in {401, 403} or (is_web_page(reply) and "login" in reply.url):
        return no_access(reply, tokens, asked, provider)
    if status in {408, 425, 429, 503}:
        busy = OriginBusy(f"{where} answered {status}: it asks us to come later")
        busy.retry_after = retry_after(reply)
        return busy
    if 400 <= status < 500:
        hint = "it is not there, or the token may not see it" if reply.with_token else "check download_url"
        return GoneUpstream(f"{where} answered {status}; {hint}")
    if is_web_page(reply) and status < 500:
        return WebPage(f"{where} sent a web page, expected a model; open it in a browser to see what it wants")
    return OriginBroken(f"{where} answered {status}, expected 206 or 200")


def retry_after(reply: Reply) -> float | None:
    """Return how many seconds the origin asks us to wait.

    `Retry-After` is seconds or a date (RFC 9110 §10.2.3); Hugging Face says `RateLimit: "api";r=0;t=55`.
    """
    value = reply.headers.get("Retry-After", "").strip()
    seconds: float | None = None
    if value.isdigit():
        seconds = float(value)
    elif value:
        try:
            seconds = (parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            seconds = None
    elif match := re.search(r"\bt=(\d+)", reply.headers.get("RateLimit", "")):
        seconds = float(match[1])
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_PAUSE)


class Route:
    """The way to one file's bytes: through the given address, or straight to where it redirected before.

    Going straight saves a request for each range and spares the resolver's rate limit. Some signatures are good
    for one range or a short time only (huggingface/xet-core#897): a refused shortcut is asked for again, and given
    up when that happens twice.
    """

    def __init__(self, transport: Transport, url: str, provider: str | None) -> None:
        self.transport = transport
        self.url = url
        self.provider = provider
        self._shortcut: str | None = None
        self._refused = 0

    def open(self, headers: dict[str, str]) -> Reply:
        """Ask for bytes. Returns an answer of status 200, 206 or 416 that is no web page; raises what refuses it."""
        shortcut = self._shortcut
        if shortcut is not None:
            reply = self.transport.open(shortcut, headers, with_token=False)
            if reply.status in {200, 206, 416} and not is_web_page(reply):
                return reply
            if reply.status in {408, 425, 429} or reply.status >= 500:
                return self._checked(reply)
            # A signature that has expired, or that is good for another range: ask for a new one.
            reply.close()
            self._shortcut = None
            self._refused += 1
        reply = self._checked(self.transport.open(self.url, headers))
        if reply.moved and self._refused < 2:
            self._shortcut = reply.url
        return reply

    def _checked(self, reply: Reply) -> Reply:
        if reply.status in {200, 206, 416} and not is_web_page(reply):
            return reply
        trouble = refusal(reply, self.transport.tokens, self.url, self.provider)
        reply.close()
        raise trouble
