"""A browser's session: the token in a cookie that no script can read, so that a page asks for it once.

The cookie is sent with requests of our own pages only: `SameSite=Strict` tells the browser so, and what would change
something is looked at once more here, by what the browser says about where it comes from.
"""

import base64
import binascii
from urllib.parse import urlsplit

from flask import Response, request

from app.api.visitors import UNSAFE
from app.settings import Settings

COOKIE = "imagefleet"
SECONDS = 30 * 24 * 3600
"""How long a browser remembers it."""


def begin(response: Response, token: str, known: Settings) -> None:
    """Let the browser remember a token that was found to be right."""
    is_secure = request.is_secure or known.public_url.startswith("https://")
    text = base64.urlsafe_b64encode(token.encode()).decode()
    response.set_cookie(COOKIE, text, max_age=SECONDS, httponly=True, samesite="Strict", secure=is_secure)


def end(response: Response) -> None:
    """Let the browser forget it."""
    response.delete_cookie(COOKIE, httponly=True, samesite="Strict")


def token(known: Settings) -> str:
    """Return the token that the request brings in its cookie; nothing where another site may have had it sent."""
    text = request.cookies.get(COOKIE, "")
    if not text or _is_foreign(known):
        return ""
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _is_foreign(known: Settings) -> bool:
    """Say whether a request that changes something may come from elsewhere.

    Sources: Fetch Metadata (https://www.w3.org/TR/fetch-metadata/), which browsers send over HTTPS and to loopback, and
    the Origin header (RFC 6454), which they send with every such request.
    """
    if request.method not in UNSAFE:
        return False
    if site := request.headers.get("Sec-Fetch-Site"):
        return site != "same-origin"
    ours = {request.host, urlsplit(known.public_url).netloc}
    return urlsplit(request.headers.get("Origin", "")).netloc not in ours - {""}
