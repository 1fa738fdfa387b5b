"""The Automatic1111 dialect's extras: pictures made larger by machines that draw nothing, and what is refused."""

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image as Pillow

from app.core import images, inputs
from app.core.extras import Upscale
from app.core.fleet import Fleet
from app.core.spec import GenerationSpec
from app.core.tables import Job
from tests.api.test_a1111 import API, decoded, drawing, the_body
from tests.builders import a_machine, a_model, an_upload, finish, the_job
from tests.support.fakes import RecordingDispatcher

EXTRAS = {
    "resize_mode": 0,
    "show_extras_results": True,
    "gfpgan_visibility": 0,
    "codeformer_visibility": 0,
    "codeformer_weight": 0,
    "upscaling_resize": 2,
    "upscaling_resize_w": 512,
    "upscaling_resize_h": 512,
    "upscaling_crop": True,
    "upscaler_1": "Lanczos",
    "upscaler_2": "None",
    "extras_upscaler_2_visibility": 0,
    "upscale_first": False,
}
"""What webuiapi always sends."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Take one kind: what depends on it is asked in test_inputs."""
    return sqlite_url


@pytest.fixture(autouse=True)
def machine(fleet: Fleet, dispatcher: RecordingDispatcher) -> Iterator[None]:
    """Put a model and an upscaler into the catalogue, and let a machine make larger what is ordered."""
    a_model(fleet, "shapes", options={"width": 128, "height": 64})
    a_model(fleet, "4x-sharp", kind="upscaler", name="4x-sharp.safetensors")
    a_machine(fleet, ready_for=["shapes"])

    def enlarge(job: Job) -> None:
        spec = GenerationSpec.from_json(job.spec)
        assert spec.draws_nothing
        assert spec.upscale is not None
        with fleet.reading() as session:
            given = inputs.read(fleet, inputs.get(session, str(spec.image)))
        small = Pillow.open(io.BytesIO(given))
        large = small.resize([round(side * spec.upscale.factor) for side in small.size])
        more: dict[str, Any] = {"data": encoded(large), "width": large.width, "height": large.height}
        images.receive(fleet, an_upload(job, **more))
        finish(fleet, job)

    with drawing(fleet, dispatcher, enlarge):
        yield


def encoded(image: Pillow.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def a_photo(size: tuple[int, int] = (30, 20), colour: str = "red") -> str:
    return base64.b64encode(encoded(Pillow.new("RGB", size, colour))).decode()


def enlarge(client: FlaskClient, **order: Any) -> Any:
    return client.post(f"{API}/extra-single-image", json={**EXTRAS, "image": a_photo(), **order})


def newest_spec(fleet: Fleet, dispatcher: RecordingDispatcher) -> GenerationSpec:
    return GenerationSpec.from_json(the_job(fleet, dispatcher.sent[-1].job_id).spec)


@pytest.mark.parametrize(
    ("order", "size", "upscale"),
    [
        ({}, (60, 40), Upscale(factor=2, upscaler="Lanczos")),
        ({"upscaling_resize": "1.5", "upscaler_1": "nearest"}, (45, 30), Upscale(factor=1.5, upscaler="Nearest")),
        ({"upscaler_1": "4x-sharp", "upscaling_resize": 4}, (120, 80), Upscale(factor=4, upscaler="4x-sharp")),
        (
            {"resize_mode": 1, "upscaling_resize_w": 80, "upscaling_resize_h": 80},
            (80, 80),
            Upscale(factor=4, upscaler="Lanczos"),
        ),
        (
            {"resize_mode": 1, "upscaling_resize_w": 80, "upscaling_resize_h": 80, "upscaling_crop": False},
            (120, 80),
            Upscale(factor=4, upscaler="Lanczos"),
        ),
        ({"image": f"data:image/png;base64,{a_photo()}"}, (60, 40), Upscale(factor=2, upscaler="Lanczos")),
    ],
)
def test_a_picture_is_made_larger(
    order: Mapping[str, Any],
    size: tuple[int, int],
    upscale: Upscale,
    client: FlaskClient,
    fleet: Fleet,
    dispatcher: RecordingDispatcher,
) -> None:
    response = enlarge(client, **order)

    assert response.status_code == 200, response.data
    body = the_body(response)
    assert decoded(body["image"]).size == size
    assert "Postprocess upscale" in body["html_info"]
    spec = newest_spec(fleet, dispatcher)
    assert (spec.upscale, spec.strength, spec.width, spec.height) == (upscale, 0, None, None)


def test_a_picture_larger_than_what_can_be_drawn_keeps_its_size(
    client: FlaskClient, fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    response = enlarge(client, image=a_photo((2100, 10)), upscaling_resize=1.5)

    assert decoded(the_body(response)["image"]).size == (3150, 15)
    assert newest_spec(fleet, dispatcher).width is None


def test_without_an_upscaler_the_picture_comes_back_as_it_is(
    client: FlaskClient, dispatcher: RecordingDispatcher
) -> None:
    body = the_body(enlarge(client, upscaler_1="None"))

    assert decoded(body["image"]).tobytes() == Pillow.new("RGB", (30, 20), "red").tobytes()
    assert dispatcher.sent == []


def test_several_pictures_are_made_larger_in_their_order(client: FlaskClient, dispatcher: RecordingDispatcher) -> None:
    photos = [{"data": a_photo((8 + k, 8), c), "name": f"{k}"} for k, c in enumerate(("red", "blue", "green"))]

    response = client.post(f"{API}/extra-batch-images", json={**EXTRAS, "imageList": photos})

    found = [decoded(image) for image in the_body(response)["images"]]
    assert [image.size for image in found] == [(16, 16), (18, 16), (20, 16)]
    assert [image.getpixel((5, 5)) for image in found] == [(255, 0, 0), (0, 0, 255), (0, 128, 0)]
    assert len(dispatcher.sent) == 3


@pytest.mark.parametrize(
    ("order", "status", "told"),
    [
        ({"gfpgan_visibility": 0.5}, 422, "restoring faces with GFPGAN"),
        ({"codeformer_visibility": 1}, 422, "restoring faces with CodeFormer"),
        ({"upscaler_2": "Nearest", "extras_upscaler_2_visibility": 0.5}, 422, "two upscalers"),
        ({"upscaler_1": "Crayon"}, 422, "could not find upscaler named Crayon"),
        ({"upscaler_1": "Latent"}, 422, "Latent needs a drawing"),
        ({"upscaling_resize": 9}, 422, "9 times as large"),
        ({"resize_mode": 1, "upscaling_resize_w": 3, "upscaling_resize_h": 2}, 422, "1 to 8 can be done"),
        ({"resize_mode": 7}, 422, "resize_mode"),
        ({"image": ""}, 422, "Invalid encoded image"),
        ({"image": "http://127.0.0.1/a.png"}, 422, "Invalid encoded image"),
        ({"image": base64.b64encode(b"text").decode()}, 422, "PNG, JPEG or WebP"),
        ({"image": None}, 422, "image"),
        ({"image": a_photo((4000, 2000)), "upscaling_resize": 8}, 422, "limit are 36000000 pixels"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(
    order: Mapping[str, Any], status: int, told: str, client: FlaskClient, dispatcher: RecordingDispatcher
) -> None:
    response = enlarge(client, **order)

    assert response.status_code == status, response.data
    assert told in response.get_data(as_text=True)
    assert dispatcher.sent == []


def test_more_pictures_than_an_order_may_have_are_refused(client: FlaskClient) -> None:
    photos = [{"data": a_photo(), "name": "x"}] * 17

    response = client.post(f"{API}/extra-batch-images", json={**EXTRAS, "imageList": photos})

    assert response.status_code == 422
    assert "the limit is 16" in response.get_data(as_text=True)


def test_the_same_request_twice_makes_one_job(client: FlaskClient, dispatcher: RecordingDispatcher) -> None:
    answers = [
        client.post(
            f"{API}/extra-single-image", json={**EXTRAS, "image": a_photo()}, headers={"Idempotency-Key": "once"}
        )
        for _ in range(2)
    ]

    assert answers[0].get_json() == answers[1].get_json()
    assert len(dispatcher.sent) == 1
