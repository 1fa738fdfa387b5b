"""Thumbnails: pictures made small for galleries."""

import io

from PIL import Image

from app.pictures import AT_ONCE

SIDE = 384
"""Most pixels of a thumbnail's side: enough for a gallery's tile on a sharp screen."""

MEDIA_TYPE = "image/webp"
QUALITY = 82


def is_small(width: int, height: int) -> bool:
    """Say whether a picture is its own thumbnail."""
    return max(width, height) <= SIDE


def make(data: bytes) -> bytes:
    """Make a thumbnail of a picture that a machine has drawn; raises OSError for what is none."""
    with AT_ONCE, Image.open(io.BytesIO(data)) as picture:
        picture.draft("RGB", (2 * SIDE, 2 * SIDE))  # a JPEG is read smaller than it is
        picture.thumbnail((SIDE, SIDE), reducing_gap=2.0)
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=QUALITY, method=2)
    return file.getvalue()
