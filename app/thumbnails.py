"""Thumbnails: pictures made small for galleries."""

import io

from PIL import Image

from app import pictures
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
        return _small(picture)


def of_strangers(data: bytes, most_pixels: int) -> bytes:
    """Make a thumbnail of a picture from outside, of its pixels alone; raises UnusablePicture."""
    kind = pictures.kind_to_open(data, most_pixels)
    try:
        with AT_ONCE, Image.open(io.BytesIO(data), formats=[kind]) as picture:
            return _small(picture)
    except pictures.BROKEN as exc:
        raise pictures.UnusablePicture(f"the picture cannot be read, it is broken or incomplete ({kind})") from exc


def _small(picture: Image.Image) -> bytes:
    picture.draft("RGB", (2 * SIDE, 2 * SIDE))  # a JPEG is read smaller than it is
    picture.thumbnail((SIDE, SIDE), reducing_gap=2.0)
    bare = picture if picture.mode in pictures.AS_THEY_ARE else picture.convert("RGBA")
    file = io.BytesIO()
    bare.save(file, "WEBP", quality=QUALITY, method=2, exif=b"", icc_profile=None)
    return file.getvalue()
