"""What is the same for everybody: the page, its files, the descriptions. Squeezed, and sent again only if it changed.

Nothing else is squeezed. An answer that holds both a secret and a stranger's words tells the secret by its length
(BREACH, CVE-2013-3587); here is neither, so there is nothing to weigh in each view. Streams are never squeezed either.
docs/security.md says it to operators.
"""

import gzip
from functools import lru_cache
from hashlib import sha256

from flask import Response, make_response, request

FOR_EVER = "public, max-age=31536000, immutable"
"""Of an address that names its content's version: RFC 9111, RFC 8246."""

ASK_AGAIN = "no-cache"

GZIP = "gzip"


def answer(data: bytes, media_type: str, *, is_versioned: bool = False) -> Response:
    """Answer with bytes that anybody may have, squeezed for who can take them; 304 for who has them already."""
    tag, small = _squeezed(data)
    squeeze = len(small) < len(data) and request.accept_encodings.quality(GZIP) > 0
    response = make_response(small if squeeze else data)
    response.headers["Content-Type"] = f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
    response.headers["Cache-Control"] = FOR_EVER if is_versioned else ASK_AGAIN
    response.headers["Vary"] = "Accept-Encoding"
    # Two forms of one thing are two things to a cache that compares by bytes.
    response.set_etag(f"{tag}-{GZIP}" if squeeze else tag)
    if squeeze:
        response.headers["Content-Encoding"] = GZIP
    response.make_conditional(request)
    return response


@lru_cache(maxsize=128)
def _squeezed(data: bytes) -> tuple[str, bytes]:
    """Return a name for the bytes, and the bytes made small: once in a process, so the best level costs nothing."""
    return sha256(data).hexdigest()[:32], gzip.compress(data, 9, mtime=0)
