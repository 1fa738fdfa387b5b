"""Pictures that are traps: what they promise is held against the limits before any library believes it."""

import base64
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from app import heads, pictures
from app.core.fleet import Fleet
from app.pictures import UnusablePicture
from tests.builders import MODEL, a_machine, a_model
from tests.support.processes import ROOT, WAIT_SECONDS
from tests.support.web import Client

MOST = 36_000_000
EXIF_ORIENTATION, EXIF_MAKER = 0x0112, 0x010F


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *extra: tuple[bytes, bytes], data: bytes | None = None) -> bytes:
    """Write a PNG of RGB by hand; its head may say what it likes."""
    pixels = zlib.compress(b"\0" * (3 * 8 + 1) * 8 if data is None else data, 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), *extra, (b"IDAT", pixels), (b"IEND", b"")]
    return pictures.SIGNATURES["PNG"] + b"".join(chunk(*part) for part in parts)


def packed(size: int) -> bytes:
    """Return what a chunk of so many zeros is when it is compressed."""
    return b"x\0\0" + zlib.compress(bytes(size), 9)


def saved(kind: str, size: tuple[int, int] = (8, 8), **more: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind, **more)
    return file.getvalue()


def webp_canvas(width: int, height: int) -> bytes:
    """Write an animated WebP with one frame of one pixel on a canvas of any size."""
    pixel = saved("WEBP", (1, 1), lossless=True)[12:]
    frame = bytes(6) + bytes(6) + (100).to_bytes(3, "little") + b"\0" + pixel
    body = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0"
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg_of_scans(count: int) -> bytes:
    """Write a JPEG that has its last scan many times over."""
    data = saved("JPEG", (512, 512), progressive=True)
    scan = data[data.rindex(heads.START_OF_SCAN) : -2]
    return data[:-2] + scan * count + data[-2:]


def animated(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


TOO_LARGE: Mapping[str, Callable[[], bytes]] = {
    "a PNG that says it is huge": lambda: png(100_000, 100_000),
    "a PNG of the largest numbers": lambda: png(2**31 - 1, 2**31 - 1),
    "a WebP whose canvas is huge": lambda: webp_canvas(16_383, 16_383),
    "a WebP whose canvas is the largest": lambda: webp_canvas(2**24, 2**24),
    "a JPEG just over the limit": lambda: saved("JPEG", (6001, 6000)),
}

UNUSABLE: Mapping[str, Callable[[], bytes]] = {
    "a PNG whose colour profile is a bomb": lambda: png(8, 8, (b"iCCP", packed(100_000_000))),
    "a PNG whose text is a bomb": lambda: png(8, 8, (b"zTXt", packed(100_000_000))),
    "a PNG with fewer pixels than it says": lambda: png(4000, 4000),
    "a PNG without a head": lambda: pictures.SIGNATURES["PNG"] + b"x" * 100,
    "a JPEG with a thousand scans": lambda: jpeg_of_scans(1000),
    "a JPEG cut in half": lambda: saved("JPEG", (256, 256))[:900],
    "a WebP that is a head alone": lambda: webp_canvas(8, 8)[:30],
    "a GIF": lambda: saved("GIF"),
    "an animated GIF": lambda: animated("GIF"),
    "a TIFF": lambda: saved("TIFF"),
    "a BMP": lambda: saved("BMP"),
    "an ICO": lambda: saved("ICO"),
    "a PDF": lambda: saved("PDF"),
    "EPS, which would be run": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) = quit\n",
    "SVG, which would be read": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "a page": lambda: b"<!doctype html><script>alert(1)</script>",
    "a sound in RIFF": lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
}


@pytest.mark.parametrize("make", TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_is_too_large_is_said_to_be(make: Callable[[], bytes]) -> None:
    with pytest.raises(UnusablePicture, match="MAX_INPUT_PIXELS") as problem:
        pictures.checked(make(), MOST)

    assert problem.value.is_too_large


@pytest.mark.parametrize("make", UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_used_is_refused_in_a_sentence(make: Callable[[], bytes]) -> None:
    with pytest.raises(UnusablePicture) as problem:
        pictures.checked(make(), MOST)

    assert not problem.value.is_too_large


ONE_CHECK = """
import resource, sys
from app import pictures
pictures.checked(open(sys.argv[1], "rb").read(), 36_000_000)  # everything is loaded now
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 256 * 2**20,) * 2)
try:
    pictures.checked(open(sys.argv[2], "rb").read(), 36_000_000)
except pictures.UnusablePicture as exc:
    sys.exit(0 if exc.is_too_large else str(exc))
"""


def test_a_canvas_is_never_made_room_for_before_its_size_is_known(tmp_path: Any) -> None:
    """Libwebp takes eight bytes a pixel as soon as Pillow opens a file: two gigabytes here."""
    (tmp_path / "good.webp").write_bytes(saved("WEBP"))
    (tmp_path / "bomb.webp").write_bytes(webp_canvas(16_383, 16_383))

    command = [sys.executable, "-c", ONE_CHECK, tmp_path / "good.webp", tmp_path / "bomb.webp"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(7, 9), (7, 9)),
        (saved("WEBP", (7, 9), lossless=True), (7, 9)),
        (saved("WEBP", (7, 9), quality=50), (7, 9)),
        (webp_canvas(7, 9), (7, 9)),
        (animated("WEBP"), (8, 8)),
        (saved("WEBP", (16_383, 1), lossless=True), (16_383, 1)),
        (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(40), None),
        (b"RIFF\x24\0\0\0WEBPVP8L" + bytes(40), None),
        (b"RIFF\x24\0\0\0WEBP", None),
        (pictures.SIGNATURES["PNG"], None),
    ],
)
def test_a_head_is_read_as_the_libraries_read_it(data: bytes, size: tuple[int, int] | None) -> None:
    kind = pictures.kind_of(data)
    assert kind is not None

    assert heads.size_of(kind, data) == size
    if size is not None and min(size) > 1:
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.size == size


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_as_programs_write_it_has_few_scans(progressive: bool) -> None:
    data = saved("JPEG", (512, 512), progressive=progressive, quality=100)

    assert not heads.has_too_many_scans("JPEG", data)
    assert pictures.checked(data, MOST).width == 512


# The doors


BOMBS = {
    "canvas": webp_canvas(16_383, 16_383),
    "text": png(8, 8, (b"zTXt", packed(50_000_000))),
    "scans": jpeg_of_scans(1000),
    "gif": animated("GIF"),
    "page": b"<!doctype html><script>alert(1)</script>",
}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


A1111_ORDER = {"prompt": "a", "override_settings": {"sd_model_checkpoint": MODEL}}
ORDER = {"model_id": MODEL, "prompt": "a"}

DOORS: Mapping[str, Callable[[Client, bytes], Any]] = {
    "v1 inputs": lambda client, data: client.post("/v1/inputs", data=data, content_type="image/png"),
    "v1 inputs, form": lambda client, data: client.post("/v1/inputs", data={"file": (io.BytesIO(data), "x.png")}),
    "v1 image": lambda client, data: client.post("/v1/jobs", json=ORDER | {"image": _text(data)}),
    "v1 reference": lambda client, data: client.post("/v1/jobs", json=ORDER | {"reference_image_blob": _text(data)}),
    "v1 mask": lambda client, data: client.post(
        "/v1/jobs", json=ORDER | {"image": _text(saved("PNG")), "mask": {"image": _text(data)}}
    ),
    "a1111 img2img": lambda client, data: client.post(
        "/a1111/sdapi/v1/img2img", json=A1111_ORDER | {"init_images": [_text(data)]}
    ),
    "a1111 data URL": lambda client, data: client.post(
        "/a1111/sdapi/v1/img2img", json=A1111_ORDER | {"init_images": [f"data:image/png;base64,{_text(data)}"]}
    ),
    "a1111 png-info": lambda client, data: client.post("/a1111/sdapi/v1/png-info", json={"image": _text(data)}),
    "sdapi img2img": lambda client, data: client.post(
        "/sdapi/v1/img2img", json=A1111_ORDER | {"init_images": [_text(data)]}
    ),
    "openai edits": lambda client, data: client.post(
        "/openai/v1/images/edits", data={"model": MODEL, "prompt": "a", "image": (io.BytesIO(data), "x.png")}
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("door", DOORS)
def test_no_door_takes_a_trap_for_a_picture(client: Client, fleet: Fleet, door: str, bomb: str) -> None:
    a_model(fleet)
    a_machine(fleet, ready_for=[MODEL])

    answer = DOORS[door](client, BOMBS[bomb])

    assert answer.status_code in {400, 413, 422}, answer.text
    assert not client.get("/v1/jobs").json["jobs"]


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1/x.png", "https://example.org/x.png", "file:///etc/passwd", "/etc/passwd"]
)
@pytest.mark.parametrize("door", ["v1 image", "v1 reference", "a1111 img2img", "sdapi img2img"])
def test_no_door_fetches_a_picture_by_its_address(client: Client, fleet: Fleet, door: str, address: str) -> None:
    a_model(fleet)
    body: dict[str, Any] = {
        "v1 image": ORDER | {"image": address},
        "v1 reference": ORDER | {"reference_image_blob": address},
    }.get(door, A1111_ORDER | {"init_images": [address]})
    path = {"a1111 img2img": "/a1111/sdapi/v1/img2img", "sdapi img2img": "/sdapi/v1/img2img"}.get(door, "/v1/jobs")

    answer = client.post(path, json=body)

    assert answer.status_code in {400, 422, 500}, answer.text
    assert not client.get("/v1/jobs").json["jobs"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_is_kept_tells_nothing_about_who_took_it(client: Client, kind: str) -> None:
    exif = Image.Exif()
    exif[EXIF_MAKER], exif[EXIF_ORIENTATION] = "a-secret-camera", 6
    more: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": b"a-secret-profile" * 20}
    if kind == "PNG":
        more["pnginfo"] = PngImagePlugin.PngInfo()
        more["pnginfo"].add_text("author", "a-secret-author")
    data = saved(kind, (8, 16), **more) + b"a-secret-behind"

    kept = client.get(client.post("/v1/inputs", data=data, content_type="image/png").json["url"])

    with Image.open(io.BytesIO(kept.data)) as opened:
        assert (opened.format, opened.size, dict(opened.getexif()), opened.info) == ("PNG", (16, 8), {}, {})
    assert b"a-secret" not in kept.data


@pytest.mark.parametrize("kind", ["a PNG", "a JPEG that is too large", "no picture"])
def test_a_preview_is_a_jpeg_of_a_previews_size_or_not_shown(kind: str) -> None:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "JPEG")
    usable = file.getvalue()
    height_of_frame = usable.index(b"\xff\xc0") + 5
    bomb = usable[:height_of_frame] + struct.pack(">HH", 6000, 6000) + usable[height_of_frame + 4 :]
    preview = {"a PNG": png(8, 8), "a JPEG that is too large": bomb, "no picture": b"words"}[kind]

    with pytest.raises(OSError):  # Pillow's own words, or ours
        pictures.as_large_as(preview, (8, 8), "png")

    assert pictures.as_large_as(usable, (8, 8), "png").startswith(b"\x89PNG")
