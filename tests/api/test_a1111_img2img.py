"""The Automatic1111 dialect's img2img and high-res fix: what becomes of each of its fields, and what it answers."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.core.extras import Hires, Mask
from app.core.fleet import Fleet
from app.core.listing import Query, page
from app.core.spec import GenerationSpec
from tests.api.test_a1111 import API, drawing, the_body
from tests.builders import a_machine, a_model, a_picture
from tests.support.fakes import RecordingDispatcher

PLAIN = base64.b64encode(a_picture("red")).decode()
WHITE = "data:image/png;base64," + base64.b64encode(a_picture("white")).decode()


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Take one kind: what depends on it is asked in test_inputs."""
    return sqlite_url


@pytest.fixture(autouse=True)
def machine(fleet: Fleet, dispatcher: RecordingDispatcher) -> Iterator[None]:
    """Put a model and an upscaler into the catalogue, and let a machine draw everything that is ordered."""
    a_model(fleet, "shapes", options={"steps": 12, "width": 128, "height": 64})
    a_model(fleet, "4x-sharp", kind="upscaler")
    a_machine(fleet, ready_for=["shapes"])
    with drawing(fleet, dispatcher):
        yield


def drawn(client: FlaskClient, fleet: Fleet, path: str, **order: Any) -> tuple[dict[str, Any], GenerationSpec]:
    """Order, and return the answer and what a machine was told."""
    response = client.post(f"{API}/{path}", json={"prompt": "a cat", **order})
    assert response.status_code == 200, response.data
    with fleet.reading() as session:
        return the_body(response), GenerationSpec.from_json(page(session, Query()).rows[0].spec)


def test_a_picture_is_begun_with(client: FlaskClient, fleet: Fleet) -> None:
    answer, spec = drawn(client, fleet, "img2img", init_images=[PLAIN], denoising_strength=0.4, resize_mode=1)

    assert (spec.image, spec.strength, spec.resize_mode, spec.mask) == (spec.pictures[0], 0.4, "crop", None)
    assert (spec.width, spec.height) == (128, 64)
    info = json.loads(answer["info"])
    assert info["denoising_strength"] == 0.4
    assert "Denoising strength: 0.4" in info["infotexts"][0]
    assert (answer["parameters"]["init_images"], answer["parameters"]["mask"]) == (None, None)
    assert len(answer["images"]) == 1


def test_pictures_are_told_again_on_request(client: FlaskClient, fleet: Fleet) -> None:
    answer, _ = drawn(client, fleet, "img2img", init_images=[PLAIN], mask=WHITE, include_init_images=True)

    assert (answer["parameters"]["init_images"], answer["parameters"]["mask"]) == ([PLAIN], WHITE)


def test_a_mask_is_as_automatic1111_has_it_where_nothing_is_said(client: FlaskClient, fleet: Fleet) -> None:
    _, spec = drawn(client, fleet, "img2img", init_images=[PLAIN], mask=WHITE)

    assert spec.mask == Mask(image=spec.pictures[1], blur=4, fill="fill", only_masked=True, padding=0)
    assert spec.strength == 0.75


@pytest.mark.parametrize("number", range(4))
def test_each_field_of_a_mask_arrives(number: int, client: FlaskClient, fleet: Fleet) -> None:
    more = {"mask_blur": 9, "inpainting_fill": number, "inpaint_full_res_padding": 20, "inpainting_mask_invert": 1}

    answer, spec = drawn(client, fleet, "img2img", init_images=[WHITE], mask=PLAIN, **more)

    fill = ("fill", "original", "noise", "nothing")[number]
    assert spec.mask == Mask(image=spec.pictures[1], blur=9, inverted=True, fill=fill, only_masked=True, padding=20)
    told = json.loads(answer["info"])["extra_generation_params"]
    content = {"fill": "fill", "noise": "latent noise", "nothing": "latent nothing"}.get(fill)
    assert told.get("Masked content") == content
    assert {"Mask blur": 9, "Inpaint area": "Only masked", "Masked area padding": 20}.items() <= told.items()


def test_a_second_pass_is_ordered(client: FlaskClient, fleet: Fleet) -> None:
    answer, spec = drawn(
        client, fleet, "txt2img", enable_hr=True, hr_scale="1.5", hr_upscaler="4x-sharp", denoising_strength=0.3
    )

    assert spec.hires == Hires(scale=1.5, upscaler="4x-sharp", steps=None, strength=0.3)
    info = json.loads(answer["info"])
    assert (info["width"], info["height"]) == (128, 64)  # of the first pass, as there
    assert "Hires upscale: 1.5, Hires upscaler: 4x-sharp" in info["infotexts"][0]


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({}, Hires(scale=2.0, upscaler="Latent", strength=0.75)),
        ({"hr_resize_x": 256}, Hires(scale=2.0, upscaler="Latent", strength=0.75)),
        ({"hr_resize_x": 192, "hr_resize_y": 96}, Hires(scale=1.5, upscaler="Latent", strength=0.75)),
        ({"hr_upscaler": "None", "hr_second_pass_steps": 5}, Hires(upscaler="Lanczos", steps=5, strength=0.75)),
        ({"hr_upscaler": "Latent (nearest-exact)"}, Hires(upscaler="Latent (nearest-exact)", strength=0.75)),
    ],
)
def test_sizes_and_names_of_the_second_pass(
    more: Mapping[str, Any], found: Hires, client: FlaskClient, fleet: Fleet
) -> None:
    assert drawn(client, fleet, "txt2img", enable_hr=True, **more)[1].hires == found


def test_without_the_switch_the_second_pass_is_let_be(client: FlaskClient, fleet: Fleet) -> None:
    assert drawn(client, fleet, "txt2img", hr_upscaler="no such", hr_prompt="a dog")[1].hires is None


@pytest.mark.parametrize(
    ("path", "order", "status", "told"),
    [
        ("img2img", {}, 404, "Init image not found"),
        ("img2img", {"init_images": []}, 404, "Init image not found"),
        ("img2img", {"init_images": [""]}, 422, "neither"),
        ("img2img", {"init_images": ["http://127.0.0.1/a.png"]}, 422, "not fetched"),
        ("img2img", {"init_images": [base64.b64encode(b"text").decode()]}, 422, "PNG, JPEG or WebP"),
        ("img2img", {"init_images": [PLAIN, PLAIN]}, 422, "several pictures"),
        ("img2img", {"init_images": [PLAIN], "mask_blur_x": 1, "mask": WHITE}, 422, "blurred more"),
        ("img2img", {"init_images": [PLAIN], "latent_mask": WHITE}, 422, "second mask"),
        ("img2img", {"init_images": [PLAIN], "denoising_strength": 2}, 422, "denoising_strength"),
        ("img2img", {"init_images": [PLAIN], "resize_mode": 9}, 422, "resize_mode"),
        ("img2img", {"init_images": 7}, 422, "init_images"),
        ("txt2img", {"enable_hr": True, "hr_upscaler": "nobody"}, 422, "could not find upscaler named nobody"),
        ("txt2img", {"enable_hr": True, "hr_prompt": "a dog"}, 422, "hr_prompt"),
        ("txt2img", {"enable_hr": True, "hr_sampler_name": "DDIM"}, 422, "hr_sampler_name"),
        ("txt2img", {"enable_hr": True, "hr_checkpoint_name": "other"}, 422, "hr_checkpoint_name"),
        ("txt2img", {"enable_hr": True, "hr_resize_x": 256, "hr_resize_y": 512}, 422, "another shape"),
        ("txt2img", {"enable_hr": True, "hr_scale": 5}, 422, "limit is 2048"),
        ("txt2img", {"enable_hr": True, "firstphase_width": 64}, 422, "firstphase_width"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    path: str, order: Mapping[str, Any], status: int, told: str, client: FlaskClient
) -> None:
    response = client.post(f"{API}/{path}", json={"prompt": "a cat", **order})

    assert response.status_code == status, response.data
    assert told in response.get_data(as_text=True)


def test_the_ways_to_enlarge_are_listed(client: FlaskClient) -> None:
    found = the_body(client.get(f"{API}/upscalers"))

    assert [each["name"] for each in found] == ["None", "Lanczos", "Nearest", "4x-sharp"]
    assert {"name", "model_name", "model_path", "model_url", "scale"} == set(found[0])
    modes = the_body(client.get(f"{API}/latent-upscale-modes"))
    assert modes[0] == {"name": "Latent"}
    assert len(modes) == 6
