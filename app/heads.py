"""What the head of a picture file says, read before any library makes room for what it promises. Pure.

Pillow asks libwebp for a canvas as soon as it opens a WebP: ten kilobytes that say 16383 x 16383 took 3.4 GB. And it
decodes every scan of a progressive JPEG: one of 170 KB with 500 of them took twenty seconds.
"""

import struct

MOST_SCANS = 100
"""Of a JPEG. A progressive one has about ten, and can make sense of 64 for each of its up to four components."""

START_OF_SCAN = b"\xff\xda"
PNG_HEAD = struct.Struct(">8x8xII")
WEBP_KIND = struct.Struct("<4s4x")
FOURTEEN_BITS = 0x3FFF


def size_of(kind: str, data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels as the head of a PNG or WebP has them; None where it has none.

    PNG 3rd edition section 11.2.1; WebP container specification (VP8X), RFC 6386 section 9.1 (VP8), and the
    specification of WebP lossless bitstreams (VP8L). A JPEG says it somewhere: Pillow finds it without decoding.
    """
    if kind == "PNG" and len(data) >= PNG_HEAD.size and data[12:16] == b"IHDR":
        width, height = PNG_HEAD.unpack_from(data)
        return width, height
    if kind == "WEBP" and len(data) >= 30:  # the longest of the three heads
        return _size_of_webp(data)
    return None


def _size_of_webp(data: bytes) -> tuple[int, int] | None:
    (first,) = WEBP_KIND.unpack_from(data, 12)
    if first == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if first == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & FOURTEEN_BITS, height & FOURTEEN_BITS
    if first == b"VP8L" and data[20] == 0x2F:  # the signature
        bits = int.from_bytes(data[21:25], "little")
        return (bits & FOURTEEN_BITS) + 1, (bits >> 14 & FOURTEEN_BITS) + 1
    return None


def has_too_many_scans(kind: str, data: bytes) -> bool:
    """Say whether a JPEG would be decoded over and over; in what is no marker, 0xFF is always followed by zero."""
    return kind == "JPEG" and data.count(START_OF_SCAN) > MOST_SCANS
