"""What a picture's file says of how it was drawn."""

import io
import json
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from app.api.webui.infotext import parse
from app.core.spec import MAX_SEED, GenerationSpec
from tasks.machine import png
from tasks.machine.drivers.contract import Picture
from tasks.machine.encode import EXIF_FOLDER, USER_COMMENT, encode


def texts(spec: GenerationSpec, seed: int, *notes: str) -> dict[str, Any]:
    _, data = encode(Picture(Image.new("RGB", (8, 8)), seed, notes), spec)
    with Image.open(io.BytesIO(data)) as picture:
        return {str(name): text for name, text in picture.info.items()}


def a_spec(**more: Any) -> GenerationSpec:
    given: dict[str, Any] = {
        "model_id": "shapes",
        "prompt": "a cat",
        "steps": 20,
        "guidance_scale": 7.0,
        "width": 64,
        "height": 64,
    }
    return GenerationSpec(**(given | more))


@pytest.mark.parametrize(
    ("scheduler", "sampler", "schedule"),
    [
        ("DPM++ 2M SDE Heun Karras", "DPM++ 2M SDE Heun", "Karras"),
        ("DPM++ 2M", "DPM++ 2M", "Uniform"),
        ("Euler a SGM Uniform", "Euler a", "SGM Uniform"),
    ],
)
def test_sampler_and_schedule_are_told_apart(scheduler: str, sampler: str, schedule: str) -> None:
    told = parse(texts(a_spec(seed=1, scheduler=scheduler), 1)["parameters"])

    assert (told["Sampler"], told["Schedule type"]) == (sampler, schedule)


def test_variations_and_clip_skip_are_told() -> None:
    told = parse(texts(a_spec(seed=7, subseed=70, subseed_strength=0.25, clip_skip=2, n=3), 9)["parameters"])

    assert (told["Seed"], told["Variation seed"], told["Variation seed strength"]) == ("9", "72", "0.25")
    assert told["Clip skip"] == "2"


def test_what_changes_nothing_is_not_told() -> None:
    told = parse(texts(a_spec(seed=7, subseed=70, clip_skip=1), 7)["parameters"])

    assert not {"Variation seed", "Variation seed strength", "Clip skip", "Sampler", "Schedule type"} & set(told)


def test_the_order_in_a_file_draws_its_picture_alone() -> None:
    spec = a_spec(seed=MAX_SEED, subseed=MAX_SEED - 1, subseed_strength=0.5, n=3)

    again = GenerationSpec.from_json(json.loads(texts(spec, 1)["imagefleet"]))

    assert (again.seed, again.subseed, again.n) == (1, 0, 1)


def test_what_could_not_be_kept_to_is_told() -> None:
    told = json.loads(texts(a_spec(seed=1), 1, "weights were left out")["imagefleet"])

    assert told["notes"] == ["weights were left out"]
    assert "notes" not in json.loads(texts(a_spec(seed=1), 1)["imagefleet"])
    assert GenerationSpec.from_json(told).seed == 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("with_isal", [True, False])
def test_pixels_of_every_kind_come_back_as_they_were(
    mode: str, *, with_isal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_isal:
        monkeypatch.setattr(png, "isal_zlib", None)
    noise = Image.frombytes("RGB", (7, 5), bytes(range(150, 255)))
    drawn = noise.convert(mode)

    _, data = encode(Picture(drawn, 1), a_spec(seed=1))

    with Image.open(io.BytesIO(data)) as found:
        found.verify()  # every chunk's checksum
    with Image.open(io.BytesIO(data)) as found:
        kept = drawn if mode in png.COLOUR_TYPES else drawn.convert("RGB")
        assert (found.mode, found.tobytes()) == (kept.mode, kept.tobytes())


def test_words_that_latin_1_does_not_have_are_told_too() -> None:
    told = texts(a_spec(seed=1, prompt="猫 in the 雪, naïve"), 1)

    assert told["parameters"].startswith("猫 in the 雪, naïve\n")
    assert json.loads(told["imagefleet"])["prompt"] == "猫 in the 雪, naïve"


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_jpeg_and_webp_tell_it_where_automatic1111_does(kind: str) -> None:
    spec = a_spec(seed=1, prompt='a "猫" & <b>', image_format=kind)

    _, data = encode(Picture(Image.new("RGB", (8, 8)), 1), spec, {"device": "CPU"})

    with Image.open(io.BytesIO(data)) as picture:
        comment = picture.getexif().get_ifd(EXIF_FOLDER)[USER_COMMENT]
        told = ET.fromstring(picture.info["xmp"])
    assert comment[:8] == b"UNICODE\0"
    assert parse(comment[8:].decode("utf-16-be"))["Seed"] == "1"
    (order,) = [value for each in told.iter() for name, value in each.attrib.items() if name.endswith("order")]
    known = json.loads(order)
    assert (known["prompt"], known["receipt"]) == (spec.prompt, {"device": "CPU"})


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_an_order_says_how_much_a_jpeg_or_webp_may_lose(kind: str) -> None:
    noise = Image.effect_noise((64, 64), 100)

    sizes = [
        len(encode(Picture(noise, 1), a_spec(seed=1, image_format=kind, image_quality=quality))[1])
        for quality in (10, None, 100)
    ]

    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


def test_what_a_jpeg_has_no_room_for_is_left_out() -> None:
    spec = a_spec(seed=1, prompt="猫" * 40_000, image_format="jpeg")

    _, data = encode(Picture(Image.new("RGB", (8, 8)), 1), spec)

    with Image.open(io.BytesIO(data)) as picture:
        assert not {"exif", "xmp"} & set(picture.info)
