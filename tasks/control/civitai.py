"""Asking Civitai what it knows of a file, by its hash: one bounded GET.

Source: `GET /api/v1/model-versions/by-hash/{hash}`, https://developer.civitai.com/docs/api/public-rest.
"""

import json

from app.core.enrichments import Finding
from provisioning.errors import AddressRefused, ProvisioningError
from provisioning.settings import Settings
from provisioning.transport import Reply, Transport
from tasks.control.bounds import bounded, whole
from tasks.control.civitai_answer import Unreadable, read
from tasks.control.post import retry_after_of

MOST_BYTES = 4 << 20
"""A version with a hundred example pictures and their prompts has a tenth of it."""

TOTAL_SECONDS = 30.0
"""One answer may take this long; then the connection is cut, whatever the other side is doing."""

KNOWS_NOT = frozenset({400, 404, 410})
"""It does not know the hash, does not take it for one, or has taken the model down."""

NOT_LET_IN = frozenset({401, 403})
BUSY = 429


class Civitai:
    """Asks CIVITAI_ENDPOINT; one for a whole process.

    Tokens, proxies, certificates and the check of addresses are those of downloads. The token travels in a header, and
    to that site only.
    """

    def __init__(self, settings: Settings, total_seconds: float = TOTAL_SECONDS) -> None:
        self._site = settings.civitai_endpoint.rstrip("/")
        self._transport = Transport(settings)
        self._total = total_seconds

    def ask(self, wanted: str) -> Finding:
        """Ask for one hash; whatever goes wrong becomes a finding with its trouble."""
        url = f"{self._site}/api/v1/model-versions/by-hash/{wanted.upper()}"
        try:
            reply = self._transport.open(url, {"Accept": "application/json"})
        except AddressRefused:
            return _away("CIVITAI_ENDPOINT is not on the public internet; ALLOW_PRIVATE_ADDRESSES=1 allows it")
        except ProvisioningError as exc:
            return _away(str(exc))
        with bounded(reply, self._total) as is_over:
            try:
                finding = self._judge(reply)
            except ProvisioningError as exc:
                finding = _away(str(exc))
        # What was cut off looks like an answer that has ended.
        return _away(f"Civitai took more than {self._total:g} s to answer") if is_over.is_set() else finding

    def _judge(self, reply: Reply) -> Finding:
        if reply.status in KNOWS_NOT:
            return Finding()
        if reply.status in NOT_LET_IN:
            return _away(f"Civitai answered {reply.status}: it wants a token, or another CIVITAI_TOKEN")
        if reply.status != 200:
            busy = reply.status == BUSY or reply.status >= 500
            retry_after = retry_after_of(reply.headers.get("Retry-After"))
            return Finding(trouble=f"Civitai answered {reply.status}", retry_after=retry_after, is_everybodys=busy)
        data = whole(reply, MOST_BYTES)
        if data is None:
            return Finding(trouble=f"Civitai's answer has more than {MOST_BYTES} bytes")
        try:
            return Finding(read(json.loads(data), self._site))
        except (ValueError, RecursionError, Unreadable):
            return Finding(trouble="Civitai's answer cannot be read")


def _away(why: str) -> Finding:
    return Finding(trouble=why, is_everybodys=True)
