"""Pictures that come from outside: looked at before they are decoded, proven whole, and kept without what they tell.

What is kept is always a PNG. One that holds nothing but its pixels stays as it is; all else is turned as its EXIF says
and written anew, so that no metadata, no second frame and no byte behind the picture survives. Its SHA-256 is thus the
name of exactly the bytes that machines get.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from threading import BoundedSemaphore

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from app import heads

SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "WEBP": b"RIFF"}
"""How the bytes of each kind that is taken begin."""

WEBP = b"WEBP"
"""Follows RIFF and a length."""

AT_ONCE = BoundedSemaphore(2)
"""So many pictures are decoded at a time in one process: one of MAX_INPUT_PIXELS takes half a gigabyte meanwhile."""

MOST_OF_A_PREVIEW = 2**24
"""Pixels; a preview is as large as its picture at most, and usually much smaller."""

BARE_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND"})
"""Of a PNG that holds nothing but its pixels."""

AS_THEY_ARE = frozenset({"L", "RGB", "RGBA"})
"""Pillow's modes that everything else here understands."""

DEEP = 256
"""Sixteen bits of grey are so many times eight."""

# Level 1 with run-length matching, as for drawn pictures: a photo of 12 megapixels takes 2 s, and 10 s otherwise.
PNG_LEVEL, PNG_RLE = 1, 3

BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow's readers stumble over in broken files."""


class UnusablePicture(Exception):  # it reads as what it is
    """These bytes are no picture that can be drawn from; the message says why, and what to do."""

    def __init__(self, message: str, *, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is kept."""

    sha256: str
    width: int
    height: int
    media_type: str
    data: bytes


def checked(data: bytes, most_pixels: int) -> Picture:
    """Read a picture from outside; raises UnusablePicture. Nothing is decoded before its size is known."""
    kind = kind_to_open(data, most_pixels)
    with AT_ONCE:
        return _decoded(data, kind, most_pixels)


def kind_to_open(data: bytes, most_pixels: int) -> str:
    """Return Pillow's name of a picture's kind, if its head promises nothing that would take too much to open.

    Raises UnusablePicture.
    """
    kind = kind_of(data)
    if kind is None:
        raise UnusablePicture("the bytes are no PNG, JPEG or WebP; give a picture in one of these formats")
    _require_room(heads.size_of(kind, data), most_pixels)
    if heads.has_too_many_scans(kind, data):
        raise UnusablePicture(f"the JPEG has more than {heads.MOST_SCANS} scans; save it anew")
    return kind


def _require_room(size: tuple[int, int] | None, most_pixels: int) -> None:
    if size is None or size[0] * size[1] <= most_pixels:
        return
    raise UnusablePicture(
        f"the picture has {size[0]} x {size[1]} pixels, and this server takes {most_pixels} (MAX_INPUT_PIXELS); "
        "make it smaller",
        is_too_large=True,
    )


def _decoded(data: bytes, kind: str, most_pixels: int) -> Picture:
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as opened:
            _require_room(opened.size, most_pixels)
            opened.load()
            plain = _plain(opened)
            is_bare = kind == "PNG" and plain is opened and _is_bare(data)
            kept = data if is_bare else _written(plain)
    except BROKEN as exc:
        raise UnusablePicture(f"the picture cannot be read, it is broken or incomplete ({kind})") from exc
    return Picture(sha256(kept).hexdigest(), plain.width, plain.height, "image/png", kept)


def cut(data: bytes, size: tuple[int, int]) -> bytes:
    """Cut a picture of our own to width and height in pixels, around its middle; what it tells of itself stays."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as opened:
        if opened.size == size:
            return data
        left, upper = (opened.width - size[0]) // 2, (opened.height - size[1]) // 2
        texts = PngInfo()
        for name, text in opened.info.items():
            if isinstance(text, str):
                texts.add_text(str(name), text)
        file = io.BytesIO()
        smaller = opened.crop((left, upper, left + size[0], upper + size[1]))
        smaller.save(file, "PNG", compress_level=PNG_LEVEL, compress_type=PNG_RLE, pnginfo=texts)
    return file.getvalue()


def as_large_as(preview: bytes, size: tuple[int, int] | None, kind: str) -> bytes:
    """Bring a preview, a small JPEG, into the size and the format of the picture that it foretells.

    `size` is in pixels; None leaves it as it is. Clients put one picture into the place of the other. Raises OSError,
    or another one of BROKEN, for what is none: it comes from a machine, which may be anybody's.
    """
    file = io.BytesIO()
    with Image.open(io.BytesIO(preview), formats=("JPEG",)) as opened:
        if opened.width * opened.height > MOST_OF_A_PREVIEW:
            raise OSError(f"a preview of {opened.width} x {opened.height} pixels")
        image = opened.resize(size, Image.Resampling.BICUBIC) if size else opened
        image.save(file, kind, **({"compress_level": 1} if kind == "png" else {}))
    return file.getvalue()


def kind_of(data: bytes) -> str | None:
    """Tell a picture's kind from its bytes; its name and what is said about it do not matter."""
    for kind, signature in SIGNATURES.items():
        if data.startswith(signature) and (kind != "WEBP" or data[8:12] == WEBP):
            return kind
    return None


def _plain(opened: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF says, and bring it into one of the modes that are kept."""
    turned = ImageOps.exif_transpose(opened) if _has_exif(opened) else opened
    if turned.mode in AS_THEY_ARE and "transparency" not in turned.info:
        return turned
    if turned.mode.startswith("I"):
        return turned.convert("I").point(lambda value: value / DEEP).convert("L")
    see_through = "transparency" in turned.info or turned.mode in {"LA", "La", "PA", "RGBa"}
    return turned.convert("RGBA" if see_through else "L" if turned.mode == "1" else "RGB")


def _has_exif(opened: Image.Image) -> bool:
    """Say whether a picture has EXIF that can be read; one whose EXIF is damaged is as good without."""
    try:
        return bool(opened.getexif())
    except (UserWarning, *BROKEN):
        return False


def _is_bare(data: bytes) -> bool:
    return all(name in BARE_CHUNKS for name in _chunks(data))


def _chunks(data: bytes) -> Iterator[bytes]:
    """Name the chunks of a PNG, and last what lies behind its end."""
    place = len(SIGNATURES["PNG"])
    while place + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        yield name
        place += 12 + length
        if name == b"IEND":
            break
    if place != len(data):
        yield b"rest"


def _written(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    # A copy of the pixels alone: Pillow would write the profile and the texts of the original again.
    bare = Image.new(picture.mode, picture.size)
    bare.paste(picture)
    bare.save(file, "PNG", compress_level=PNG_LEVEL, compress_type=PNG_RLE)
    return file.getvalue()
