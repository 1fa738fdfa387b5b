"""Pictures from outside: what is taken, what is refused, and that nothing but the picture is kept."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from app.pictures import Picture, UnusablePicture, checked, kind_of

MOST = 10**6
SECRET = b"a secret place"


def a_file(image: Image.Image | None = None, kind: str = "PNG", **more: object) -> bytes:
    file = io.BytesIO()
    (image or Image.new("RGB", (40, 30), "red")).save(file, kind, **more)
    return file.getvalue()


def opened(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.data), formats=["PNG"])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_each_kind_is_told_by_its_bytes_and_kept_as_png(kind: str) -> None:
    found = checked(a_file(kind=kind), MOST)

    assert kind_of(a_file(kind=kind)) == kind
    assert (found.width, found.height, found.media_type) == (40, 30, "image/png")
    assert opened(found).convert("RGB").getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=3)


def test_a_picture_that_holds_nothing_else_is_kept_as_it_is() -> None:
    data = a_file()

    assert checked(data, MOST).data == data


def test_what_is_kept_does_not_change_when_it_is_brought_again() -> None:
    first = checked(a_file(kind="JPEG"), MOST)

    assert checked(first.data, MOST) == first


def test_metadata_is_taken_out() -> None:
    texts, exif = PngInfo(), Image.Exif()
    texts.add_text("place", SECRET.decode())
    exif[0x010E] = SECRET.decode()  # ImageDescription
    files = [
        a_file(pnginfo=texts),
        a_file(exif=exif),
        a_file(kind="JPEG", exif=exif, comment=SECRET),
        a_file(kind="WEBP", exif=exif, xmp=SECRET),
        a_file() + SECRET,
    ]

    for data in files:
        assert SECRET in data
        assert SECRET not in checked(data, MOST).data


def test_a_picture_is_turned_as_its_exif_says() -> None:
    image = Image.new("RGB", (40, 30), "blue")
    image.paste("red", (0, 0, 40, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: its right is the picture's lower edge

    found = checked(a_file(image, exif=exif), MOST)

    assert (found.width, found.height) == (30, 40)
    assert opened(found).getpixel((29, 20)) == (255, 0, 0)
    assert opened(found).getpixel((0, 20)) == (0, 0, 255)


def test_an_animated_picture_begins_with_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("green", "blue")]
    for kind in ("PNG", "WEBP"):
        data = a_file(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)

        found = checked(data, MOST)

        assert getattr(opened(found), "n_frames", 1) == 1
        assert opened(found).convert("RGB").getpixel((3, 3)) == (0, 128, 0)


@pytest.mark.parametrize(
    ("mode", "kept"), [("1", "L"), ("L", "L"), ("P", "RGB"), ("LA", "RGBA"), ("RGBA", "RGBA"), ("I;16", "L")]
)
def test_rare_modes_become_usual_ones(mode: str, kept: str) -> None:
    source = Image.new("L", (8, 8), 255)
    image = Image.fromarray(np.full((8, 8), 0xFFFF, np.uint16)) if mode == "I;16" else source.convert(mode)

    found = opened(checked(a_file(image), MOST))

    assert found.mode == kept
    assert found.convert("L").getextrema() == (255, 255)


def test_transparency_by_colour_stays() -> None:
    data = a_file(Image.new("RGB", (8, 8), "red"), transparency=(255, 0, 0))

    assert opened(checked(data, MOST)).getpixel((0, 0)) == (255, 0, 0, 0)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    """The header of a bomb says 60000 x 60000; decoding that would take eleven gigabytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(10**6)))

    for data in (bomb, a_file(Image.new("RGB", (1001, 1000)))):
        with pytest.raises(UnusablePicture, match=r"MAX_INPUT_PIXELS|broken"):
            checked(data, MOST)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"<svg/>", b"RIFF....AVI ", b"%PDF-1.7", a_file(Image.new("P", (8, 8)), "GIF")]
)
def test_other_kinds_are_refused_with_what_to_do(data: bytes) -> None:
    with pytest.raises(UnusablePicture, match="PNG, JPEG or WebP"):
        checked(data, MOST)


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 255, (24, 24, 3), np.uint8))
FILES = [a_file(NOISE, kind) for kind in ("PNG", "JPEG", "WEBP")] + [
    a_file(NOISE, kind, exif=Image.Exif()) for kind in ("PNG", "JPEG", "WEBP")
]


@pytest.mark.parametrize("data", FILES)
def test_a_truncated_picture_is_refused(data: bytes) -> None:
    for end in range(12, len(data) // 2, 37):
        with pytest.raises(UnusablePicture):
            checked(data[:end], MOST)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of EXIF that is damaged: the picture is not
@settings(max_examples=150)
@given(
    file=st.sampled_from(FILES),
    places=st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
    value=st.binary(min_size=1, max_size=4),
)
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(file: bytes, places: list[int], value: bytes) -> None:
    damaged = bytearray(file)
    for place in places:
        at = place % len(file)
        damaged[at : at + len(value)] = value

    try:
        found = checked(bytes(damaged), MOST)
    except UnusablePicture:
        return

    assert opened(found).size == (found.width, found.height)


@settings(max_examples=60)
@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\x00\x00\x00WEBP"]), st.binary(max_size=300))
def test_rubbish_with_a_right_beginning_is_refused(beginning: bytes, rest: bytes) -> None:
    with pytest.raises(UnusablePicture):
        checked(beginning + rest, MOST)
