"""PNG files, fast: one filter for all rows, and a deflate that is made for speed.

Pillow tries every filter on every row and deflates with zlib. On drawn pictures of 1024 x 1024 pixels the difference to
the row above, deflated by ISA-L, takes a tenth of that time and gives a file as small (docs/performance.md).

Source: PNG specification, third edition (W3C), chapters 5 "Datastream structure", 9 "Filtering" and 11 "Chunks".
"""

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from PIL.Image import Image

try:
    from isal import isal_zlib
except ImportError:  # there is no wheel for every kind of computer
    isal_zlib = None  # type: ignore[assignment]  # said below where it is used

SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOUR_TYPES: Mapping[str, int] = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}
"""By Pillow's modes; others are converted to RGB, or to RGBA where they have an alpha channel."""

UP = 2
"""The filter's number: each byte less the one above it."""

LEVEL = 1


def write(image: Image, texts: Mapping[str, str], long_texts: Mapping[str, str]) -> bytes:
    """Return the file of a picture with texts in it: `texts` as tEXt where Latin-1 has the letters, else as iTXt."""
    if image.mode not in COLOUR_TYPES:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, COLOUR_TYPES[image.mode], 0, 0, 0)
    chunks = [_chunk(b"IHDR", header)]
    chunks += [_text(name, text) for name, text in texts.items()]
    chunks += [_international(name, text) for name, text in long_texts.items()]
    chunks += [_chunk(b"IDAT", _deflated(_rows(image))), _chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(chunks)


def _rows(image: Image) -> bytes:
    """Return the rows, each behind its filter's number."""
    pixels = np.asarray(image).reshape(image.height, -1)
    rows = np.empty((image.height, 1 + pixels.shape[1]), np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])  # modulo 256, as the filter wants it
    return rows.tobytes()


def _deflated(data: bytes) -> bytes:
    if isal_zlib is not None:
        return bytes(isal_zlib.compress(data, LEVEL))
    # What is left behind the filter hardly repeats: looking for runs alone is three times as fast, and no larger.
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return deflate.compress(data) + deflate.flush()


def _text(name: str, text: str) -> bytes:
    try:
        return _chunk(b"tEXt", name.encode("latin-1") + b"\0" + text.encode("latin-1"))
    except UnicodeEncodeError:
        return _international(name, text)


def _international(name: str, text: str) -> bytes:
    # Not compressed, of no language, and its name not translated.
    return _chunk(b"iTXt", name.encode("latin-1") + b"\0\0\0\0\0" + text.encode())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
