"""OpenAI's own client, unmodified, before a real `imagefleet up` that draws with the demo model."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from openai import AuthenticationError, BadRequestError, NotFoundError, OpenAI
from openai.types import ImagesResponse
from PIL import Image

from tests.shape_checker import check
from tests.support.servers import ANSWER_SECONDS, DEMO, Up

PROMPT = "a red circle on a blue background"

MANY_STEPS = 60
"""Enough for some previews on the way."""

TRIES = 5

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def client(up: Up) -> Iterator[OpenAI]:
    with client_of(up) as client:
        yield client


@pytest.fixture(scope="module")
def whole(client: OpenAI) -> Image.Image:
    """Return a picture that was drawn."""
    return of_seed(client, 7)


def client_of(up: Up, token: str = "") -> OpenAI:
    return OpenAI(base_url=f"{up.url}/openai/v1", api_key=token or up.token)


def pictures(answer: ImagesResponse) -> list[Image.Image]:
    """Decode the pictures of an answer."""
    return [Image.open(io.BytesIO(base64.b64decode(each.b64_json or ""))) for each in answer.data or ()]


def pixels(picture: Image.Image) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.asarray(picture.convert("RGB"), np.int16)


def a_file(picture: Image.Image) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, "PNG")
    file.seek(0)
    return file


def of_seed(client: OpenAI, seed: int) -> Image.Image:
    answer = client.images.generate(model=DEMO, prompt=PROMPT, extra_body={"seed": seed})
    (found,) = pictures(answer)
    return found


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert {DEMO, "wrong-hash"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(DEMO).object == "model"
    with pytest.raises(NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_pictures_show_what_was_asked_for_in_number_size_and_format(client: OpenAI) -> None:
    answer = client.images.generate(
        model="gpt-image-1.5", prompt=PROMPT, n=2, size="128x128", output_format="webp", extra_body={"seed": 1}
    )

    drawn = pictures(answer)
    assert [(each.format, each.size) for each in drawn] == [("WEBP", (128, 128))] * 2
    assert not check(drawn[0], PROMPT).wrong
    assert (answer.size, answer.output_format, answer.background) == ("128x128", "webp", "opaque")
    assert (answer.usage and answer.usage.total_tokens) == 0


def test_the_same_seed_draws_the_same_picture_and_another_one_another(client: OpenAI, whole: Image.Image) -> None:
    again, other = (of_seed(client, seed).tobytes() for seed in (7, 8))

    assert again == whole.tobytes()
    assert other != whole.tobytes()


def test_an_address_needs_no_token_and_shows_the_same_picture(client: OpenAI, whole: Image.Image) -> None:
    (found,) = client.images.generate(model="dall-e-3", prompt=PROMPT, extra_body={"seed": 7}).data or []

    assert found.b64_json is None
    answer = requests.get(str(found.url), timeout=ANSWER_SECONDS)
    assert answer.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).tobytes() == whole.tobytes()


def test_an_edit_changes_what_the_mask_shows_and_nothing_else(client: OpenAI, whole: Image.Image) -> None:
    mask = Image.new("RGBA", whole.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 64, 128))

    (edited,) = pictures(
        client.images.edit(model=DEMO, image=a_file(whole), mask=a_file(mask), prompt="a green square")
    )

    change = np.abs(pixels(edited) - pixels(whole)).sum(axis=2)
    assert edited.size == whole.size
    assert not change[:, 64:].any()
    assert (change[:, :64] > 0).mean() > 0.5


def test_an_edit_without_a_mask_draws_the_whole_anew_and_a_variation_too(client: OpenAI, whole: Image.Image) -> None:
    seed = {"seed": 3}

    (edited,) = pictures(
        client.images.edit(model=DEMO, image=[a_file(whole)], prompt="a green square", extra_body=seed)
    )
    (near,) = pictures(
        client.images.edit(
            model=DEMO, image=a_file(whole), prompt="a green square", input_fidelity="high", extra_body=seed
        )
    )
    with pytest.deprecated_call():  # OpenAI itself has retired it
        (varied,) = pictures(client.images.create_variation(image=a_file(whole), response_format="b64_json"))

    change, little = (np.abs(pixels(each) - pixels(whole)).mean() for each in (edited, near))
    assert change > little > 0
    assert varied.size == whole.size
    assert varied.tobytes() != whole.tobytes()


def test_a_transparent_background_is_cut_out(client: OpenAI) -> None:
    prompt = "a large red circle on a blue background"

    answer = client.images.generate(model=DEMO, prompt=prompt, background="transparent", extra_body={"seed": 1})

    (picture,) = pictures(answer)
    alpha = np.asarray(picture.convert("RGBA"))[..., 3]
    assert (answer.background, picture.mode) == ("transparent", "RGBA")
    assert alpha[64, 64] > 200
    assert alpha[2, 2] < 50


def test_a_stream_shows_the_picture_coming_and_then_the_picture(up: Up, client: OpenAI) -> None:
    body = {"seed": 7, "steps": MANY_STEPS}

    for _ in range(TRIES):
        events = list(client.images.generate(model=DEMO, prompt=PROMPT, stream=True, partial_images=2, extra_body=body))
        *partial, last = events
        if partial:
            break  # else the picture was there before anybody had looked

    assert last.type == "image_generation.completed"
    assert 1 <= len(partial) <= 2
    indices = [each.partial_image_index for each in partial if each.type == "image_generation.partial_image"]
    assert indices == list(range(len(partial)))
    files = [base64.b64decode(each.b64_json) for each in events]
    assert {(each.format, each.size) for each in (Image.open(io.BytesIO(file)) for file in files[:-1])} == {
        ("PNG", (128, 128))
    }
    (kept,) = up.get(f"v1/jobs/{(last.model_extra or {})['job_id']}")["images"]
    headers = {"Authorization": f"Bearer {up.token}"}
    assert files[-1] == requests.get(kept["url"], headers=headers, timeout=ANSWER_SECONDS).content
    assert (last.size, last.usage.total_tokens) == ("128x128", 0)


def test_an_edit_is_streamed_too(client: OpenAI, whole: Image.Image) -> None:
    events = list(client.images.edit(model=DEMO, image=a_file(whole), prompt=PROMPT, stream=True))

    assert [event.type for event in events] == ["image_edit.completed"]


def test_what_is_refused_comes_as_the_clients_own_errors(up: Up, client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        client.images.generate(model="no-such-model", prompt=PROMPT)
    with pytest.raises(BadRequestError) as caught:
        client.images.generate(model=DEMO, prompt=PROMPT, size="100x4000")
    assert (caught.value.param, caught.value.type) == ("size", "invalid_request_error")
    with pytest.raises(BadRequestError, match="Unknown parameter: 'sead'"):
        client.images.generate(model=DEMO, prompt=PROMPT, extra_body={"sead": 1})
    with pytest.raises(BadRequestError, match="no PNG, JPEG or WebP"):
        client.images.edit(model=DEMO, image=b"no picture", prompt=PROMPT)
    with client_of(up, "guess") as stranger, pytest.raises(AuthenticationError) as refused:
        stranger.images.generate(model=DEMO, prompt=PROMPT)
    assert refused.value.code == "invalid_api_key"
    assert refused.value.request_id
