"""Whatever comes, no door fails: bodies, headers and pictures that nobody would write, by hypothesis.

The same cases each time; `make fuzz` runs many others.
"""

import base64
import io
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.api.application import make_application
from app.core.fleet import Fleet
from app.settings import Settings
from tests.api.questions import DOORS, Door
from tests.builders import MODEL, a_machine, a_model
from tests.support.web import Client

LONG = os.environ.get("FUZZ") == "long"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2000")) if LONG else 40

fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=not LONG,
    # The fixtures are those of all examples on purpose: what one of them leaves behind must not harm the next.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
"""Any characters, half surrogate pairs and U+0000 among them."""

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
)

WORDS = """
webhook webhook_url webhook_events seed n width height steps guidance_scale scheduler image mask strength hires
upscale controls poses loras embeddings vae clip_skip remove_background safety_check deadline expires_in priority
prompts engine_id size wait response settings override_settings alwayson_scripts styles batch_size n_iter eta
init_images resize_mode enable_hr hr_scale hr_upscaler sampler_name response_format output_format quality stream
model_ids near holdings attempts engines device needed options tags dependencies kind base hash size_bytes
""".split()  # noqa: SIM905  # sixty names in a list, one a line, are hard to look over
"""Fields that some door knows: a name that nobody knows is refused before anything looks at its value."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Ask on one kind of database; tests/api/test_questions.py asks on both what reaches it."""
    return sqlite_url


@pytest.fixture
def application(fleet: Fleet, settings: Settings) -> Flask:
    """Return a server with a model that a machine is ready for, where no request waits."""
    a_model(fleet)
    a_machine(fleet, ready_for=[MODEL])
    known = replace(
        settings,
        a1111_wait_seconds=0,
        openai_wait_seconds=0,
        wait_seconds=0,
        max_queued_per_token=10**6,
        max_upload_mb=2,
    )
    return make_application(fleet, known)


def assert_no_failure(answer: Any) -> None:
    """Assert that the server has not failed; 501, 503 and 504 are answers that it gives on purpose."""
    assert answer.status_code < 500 or answer.status_code in {501, 503, 504}, answer.text
    if answer.status_code >= 400 and answer.content_type == "application/json":
        json.dumps(answer.json, ensure_ascii=False)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{door.dialect}:{door.path}")
@fuzzed
@given(data=st.data())
def test_no_body_makes_a_door_fail(client: Client, door: Door, data: st.DataObject) -> None:
    names = st.sampled_from([*door.good, *WORDS]) | TEXT
    changed = data.draw(st.dictionaries(names, JSON, max_size=5))

    assert_no_failure(post(client, door, json.dumps({**door.good, **changed}).encode()))


@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{door.dialect}:{door.path}")
@fuzzed
@given(at=st.integers(0, 200), put=st.binary(max_size=8), cut=st.integers(0, 8))
def test_no_bytes_make_a_door_fail(client: Client, door: Door, at: int, put: bytes, cut: int) -> None:
    good = json.dumps(dict(door.good)).encode()

    assert_no_failure(post(client, door, good[:at] + put + good[at + cut :]))


HEADERS = [
    "Content-Type",
    "Accept",
    "Authorization",
    "Prefer",
    "Idempotency-Key",
    "Range",
    "If-None-Match",
    "Host",
    "Origin",
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{door.dialect}:{door.path}")
@fuzzed
@given(
    headers=st.dictionaries(
        st.sampled_from(HEADERS), st.text(st.characters(max_codepoint=255), max_size=30), max_size=4
    )
)
def test_no_headers_make_a_door_fail(client: Client, door: Door, headers: dict[str, str]) -> None:
    headers = {name: "".join(letter for letter in value if letter.isprintable()) for name, value in headers.items()}

    assert_no_failure(post(client, door, json.dumps(dict(door.good)).encode(), **headers))


def post(client: Client, door: Door, data: bytes, **headers: str) -> Any:
    """Put bytes to a door; a header that is given twice is the caller's."""
    known = {"Content-Type": "application/json", **door.headers, **headers}
    return client.open(door.path, method=door.method, data=data, headers=known)


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """Draw a file that is a picture, was one, or begins like one."""
    data = draw(st.sampled_from(ODD) | real_pictures())
    for _ in range(draw(st.integers(0, 3))):
        data = damage(
            data, draw(st.integers(0, max(0, len(data) - 1))), draw(st.binary(max_size=6)), draw(st.booleans())
        )
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


def damage(data: bytes, at: int, put: bytes, keep_length: bool) -> bytes:
    """Write other bytes into a file, in place of its own or between them."""
    return data[:at] + put + data[at + (len(put) if keep_length else 0) :]


@st.composite
def real_pictures(draw: st.DrawFn) -> bytes:
    """Draw a whole picture of any kind, mode and size, with metadata or without."""
    kind = draw(st.sampled_from(FORMATS))
    mode = draw(st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I", "F", "YCbCr", "I;16"]))
    size = draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
    picture = Image.new("RGB", size, draw(st.integers(0, 2**24 - 1))).convert("RGB")
    try:
        picture = picture.convert(mode) if mode != "I;16" else picture.convert("I").convert("I;16")
        return saved(picture, kind, draw(st.integers(1, 9)), draw(st.booleans()))
    except (OSError, ValueError, KeyError):
        return saved(picture.convert("RGB"), "PNG", 1, False)


def saved(picture: Image.Image, kind: str, orientation: int, is_animated: bool) -> bytes:
    """Write a picture's file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x9286] = b"UNICODE\0" + b"\xd8\x00" * 9
    more: dict[str, Any] = {"exif": exif} if kind in {"PNG", "JPEG", "WEBP"} else {}
    if is_animated and kind in {"PNG", "WEBP", "GIF"}:
        more |= {"save_all": True, "append_images": [picture.rotate(90)], "duration": 10}
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def a_png(width: int, height: int, rows: bytes = b"", **chunks: bytes) -> bytes:
    """Write a PNG that says to be of this size, whatever is in it."""
    parts = {
        "IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        **chunks,
        "IDAT": zlib.compress(rows),
        "IEND": b"",
    }
    body = b"".join(
        struct.pack(">I", len(data)) + name.encode() + data + struct.pack(">I", zlib.crc32(name.encode() + data))
        for name, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + body


BOMB = zlib.compress(b"\0" * 50_000_000, 9)

ODD = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    b"GIF89a",
    b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    b"%PDF-1.7",
    a_png(2**31 - 1, 2**31 - 1),
    a_png(0, 0),
    a_png(1, 60_000),
    a_png(30_000, 30_000, b"\0" * 1000),
    a_png(8, 8, b"\0" * 200, zTXt=b"parameters\0\0" + BOMB),
    a_png(8, 8, b"\0" * 200, iCCP=b"profile\0\0" + BOMB),
    a_png(8, 8, b"\0" * 200, eXIf=b"MM\0*\0\0\0\x08\xff\xff"),
    a_png(8, 8, b"\0" * 5_000_000),
]
"""Files that were made to harm: sizes that no memory holds, texts that unpack to fifty megabytes, headers alone."""


@fuzzed
@given(data=pictures(), kind=st.sampled_from(["image/png", "image/jpeg", "image/webp", "text/plain", "multipart"]))
def test_no_picture_makes_an_upload_fail(client: Client, data: bytes, kind: str) -> None:
    form = {"file": (io.BytesIO(data), "picture.png")}
    more: dict[str, Any] = {"data": form} if kind == "multipart" else {"data": data, "content_type": kind}

    answer = client.post("/v1/inputs", **more)

    assert answer.status_code in {201, 413, 415, 422}, answer.text
    if answer.status_code == 201:
        shown = client.get(f"/v1/inputs/{answer.json['input_id']}")
        kept = Image.open(io.BytesIO(shown.data))
        kept.load()
        assert kept.size == (answer.json["width"], answer.json["height"])
        assert not kept.getexif()


def doors_of_pictures(picture: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """List the orders that take a picture in base64, with this one."""
    yield "/v1/jobs", {"model_id": MODEL, "prompt": "x", "image": picture}
    yield "/v1/jobs", {"model_id": MODEL, "prompt": "x", "image": picture, "mask": {"image": picture}}
    yield "/v1/jobs", {"model_id": MODEL, "prompt": "x", "controls": [{"image": picture, "kind": "depth"}]}
    yield "/v1/jobs", {"model_id": MODEL, "prompt": "x", "poses": {"openpose_blob": picture}}
    yield "/sdapi/v1/img2img", {"prompt": "x", "init_images": [picture], "mask": picture}
    yield "/a1111/sdapi/v1/img2img", {"prompt": "x", "init_images": [picture]}
    yield "/a1111/sdapi/v1/png-info", {"image": picture}


@fuzzed
@given(
    data=pictures(), prefix=st.sampled_from(["", "data:image/png;base64,", "data:,", "data:image/png;base64", " \n"])
)
def test_no_picture_makes_an_order_fail(client: Client, data: bytes, prefix: str) -> None:
    for path, order in doors_of_pictures(prefix + base64.b64encode(data).decode()):
        assert_no_failure(client.post(path, json=order))


@fuzzed
@given(
    data=pictures(), fields=st.dictionaries(st.sampled_from(["n", "size", "response_format", "mask"]), TEXT, max_size=3)
)
def test_no_form_makes_an_edit_fail(client: Client, data: bytes, fields: dict[str, str]) -> None:
    told = {name: value.encode("utf-8", "surrogatepass") for name, value in fields.items()}
    form = {**told, "prompt": "x", "model": MODEL, "image": (io.BytesIO(data), "picture.png")}

    assert_no_failure(client.post("/openai/v1/images/edits", data=form, headers={"Prefer": "wait=0"}))
