"""The OpenAI dialect: what the fields of its orders mean, and how it says what is wrong with them."""

import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from app.api.application import make_application
from app.core.fleet import Fleet
from app.core.lifecycle import HoldingState
from app.core.machines import HoldingReport
from app.core.tables import Job
from app.settings import Settings
from tests.builders import MODEL, a_job, a_machine, a_model, a_picture
from tests.support.fakes import RecordingDispatcher
from tests.support.openai_door import (
    EDIT,
    GENERATE,
    NOT_WAITING,
    ORDER,
    VARY,
    a_file,
    a_served_fleet,
    count,
    newest,
    ordered,
    send,
    somebody_who_draws,
)
from tests.support.web import Client, client_of


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def served(fleet: Fleet) -> Fleet:
    """Return a fleet with a machine that is ready for its model."""
    return a_served_fleet(fleet)


RED, HOLE = Image.new("RGB", (16, 8), "red"), Image.new("RGBA", (16, 8), (0, 0, 0, 0))


def test_older_models_answer_with_addresses(client: Client, served: Fleet, dispatcher: RecordingDispatcher) -> None:
    with somebody_who_draws(served, dispatcher):
        answer = client.post(GENERATE, json={"prompt": "x", "model": "dall-e-2"})

    (found,) = answer.json["data"]
    assert set(found) == {"url", "seed"}
    assert found["url"].endswith(".png")
    assert client.get(found["url"]).data == a_picture()


MEANT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"n": 1, "width": None, "height": None, "steps": 20, "image_format": "png", "image_quality": None}),
    ({"size": "auto", "n": None, "seed": None}, {"width": None, "n": 1}),
    ({"size": "1024x768", "n": 3}, {"width": 1024, "height": 768, "n": 3}),
    ({"quality": "low"}, {"steps": 10}),
    ({"quality": "xhigh"}, {"steps": 40}),
    ({"quality": "standard", "style": "vivid", "moderation": "low"}, {"steps": 20}),
    ({"quality": "high", "steps": 12}, {"steps": 12}),
    ({"output_format": "webp", "output_compression": 40}, {"image_format": "webp", "image_quality": 40}),
    ({"output_format": "jpeg"}, {"image_format": "jpeg", "image_quality": None}),
    (
        {"negative_prompt": "blur", "seed": 5, "guidance_scale": 3.5, "scheduler": "Euler"},
        {"negative_prompt": "blur", "seed": 5, "guidance_scale": 3.5, "scheduler": "Euler"},
    ),
]
"""Orders, and what of their jobs follows."""


def test_what_an_order_says_is_what_is_drawn(client: Client, served: Fleet) -> None:
    for order, spec in MEANT:
        job = ordered(client, served, **order)
        assert {name: job.spec[name] for name in spec} == spec, order


def test_a_transparent_background_is_cut_out_where_there_is_a_cut_out(client: Client, served: Fleet) -> None:
    without = client.post(GENERATE, json=ORDER | {"background": "transparent"}, headers=NOT_WAITING)
    a_model(served, "cutter", kind="onnx", tags=["background"])
    job = ordered(client, served, background="transparent", output_format="webp")

    assert without.status_code == 400
    assert "no model for it is in the catalogue; add one" in without.json["error"]["message"]
    assert job.spec["remove_background"] == "cutter"


def test_names_of_openais_own_models_mean_the_servers_choice(fleet: Fleet, client: Client, settings: Settings) -> None:
    for model_id in ("a-first", "b-second"):
        a_model(fleet, model_id)
    coming = HoldingReport(model_id="a-first", state=HoldingState.DOWNLOADING)
    a_machine(fleet, holdings=[coming, HoldingReport(model_id="b-second", state=HoldingState.READY)])
    chosen = client_of(make_application(fleet, replace(settings, openai_default_model="a-first")))

    for name in (None, "dall-e-3", "gpt-image-1", "gpt-image-2.5-flare-2026-09-08", "chatgpt-image-latest"):
        assert [ordered(each, fleet, model=name).model_id for each in (client, chosen)] == ["b-second", "a-first"]


def test_a_model_of_ours_may_have_a_name_of_theirs(client: Client, fleet: Fleet) -> None:
    for model_id in (MODEL, "dall-e-3"):
        a_model(fleet, model_id)
    a_machine(fleet, ready_for=[MODEL, "dall-e-3"])

    assert ordered(client, fleet, model="dall-e-3").model_id == "dall-e-3"


@pytest.mark.parametrize("name", ["no-such-model", "a-lora"])
def test_an_unknown_model_is_not_found(client: Client, served: Fleet, name: str) -> None:
    a_model(served, "a-lora", kind="lora")

    for answer in (client.post(GENERATE, json=ORDER | {"model": name}), client.get(f"/openai/v1/models/{name}")):
        assert answer.status_code == 404
        assert answer.json == {
            "error": {
                "message": f"The model {name!r} does not exist here; GET /openai/v1/models lists those that do",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }
        }


@pytest.mark.parametrize("model", [MODEL, None])
def test_nobody_waits_for_a_model_that_no_machine_has(client: Client, fleet: Fleet, model: str | None) -> None:
    a_model(fleet)

    answer = client.post(GENERATE, json=ORDER | {"model": model})

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert answer.json["error"]["type"] == "server_error"


WRONG: list[tuple[dict[str, Any], str | None, str, str]] = [
    ({"prompt": None}, "prompt", "invalid_value", "may not be null"),
    ({"prompt": ""}, "prompt", "invalid_value", "must not be empty"),
    ({"prompt": 7}, "prompt", "invalid_value", "Not a valid string"),
    ({"prompt": "x" * 10_001}, "prompt", "invalid_value", "limit is 10000"),
    ({"sead": 1}, "sead", "unknown_parameter", "Unknown parameter: 'sead'."),
    ({"n": 0}, "n", "invalid_value", "less than or equal to 10"),
    ({"n": 11}, "n", "invalid_value", "less than or equal to 10"),
    ({"n": "2"}, "n", "invalid_value", "Not a valid integer"),
    ({"n": True}, "n", "invalid_value", "Not a valid integer"),
    ({"size": "big"}, "size", "invalid_value", "WIDTHxHEIGHT"),
    ({"size": "4096x64"}, "size", "invalid_value", "limit is 2048"),
    ({"size": "65x64"}, None, "invalid_spec", "multiple of 8"),
    ({"quality": "best"}, "quality", "invalid_value", "Must be one of"),
    ({"output_format": "gif"}, "output_format", "invalid_value", "png, jpeg, webp"),
    ({"output_compression": 50}, "output_compression", "invalid_value", "webp and jpeg"),
    ({"output_format": "webp", "output_compression": 101}, "output_compression", "invalid_value", "100"),
    ({"background": "transparent", "output_format": "jpeg"}, "background", "invalid_value", "png or webp"),
    ({"stream": "yes"}, "stream", "invalid_value", "Not a valid boolean"),
    ({"stream": True, "partial_images": 4}, "partial_images", "invalid_value", "less than or equal to 3"),
    ({"partial_images": 1}, "partial_images", "invalid_value", "for streams"),
    ({"stream": True, "response_format": "url"}, "response_format", "invalid_value", "b64_json"),
    ({"user": "a\x00b"}, "user", "invalid_value", "NUL"),
    ({"steps": 10**6}, "steps", "invalid_value", "limit is 150"),
    ({"scheduler": "Crayon"}, "scheduler", "invalid_value", "Must be one of"),
]
"""What is wrong with an order; then the parameter, the code and the words by which that is said."""


def test_what_is_wrong_is_said_with_the_field(client: Client, served: Fleet) -> None:
    for change, param, code, words in WRONG:
        answer = client.post(GENERATE, json=ORDER | change)
        error = answer.json["error"]
        assert answer.status_code == 400, change
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code), change
        assert words in error["message"], change
    assert count(served, Job) == 0


def test_a_missing_prompt_is_told_in_openais_words(client: Client, served: Fleet) -> None:
    answer = client.post(GENERATE, json={})

    assert answer.json == {
        "error": {
            "message": "Missing required parameter: 'prompt'.",
            "type": "invalid_request_error",
            "param": "prompt",
            "code": "missing_required_parameter",
        }
    }


PROBLEMS: list[tuple[str, dict[str, Any], int]] = [
    (GENERATE, {"data": b"{", "content_type": "application/json"}, 400),
    (GENERATE, {"json": []}, 400),
    (GENERATE, {"data": {"prompt": "x"}, "content_type": "multipart/form-data"}, 415),
    (EDIT, {"json": ORDER}, 415),
    (EDIT, {"data": b"x", "content_type": "multipart/form-data"}, 400),
    ("/openai/v1/no/such/path", {}, 404),
    ("/openai/v1/models", {}, 405),
]


def test_problems_of_every_kind_have_openais_shape(client: Client) -> None:
    for path, how, status in PROBLEMS:
        answer = client.post(path, **how)
        assert answer.status_code == status, path
        assert set(answer.json) == {"error"}
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}
        assert answer.json["error"]["type"] == "invalid_request_error"


def test_a_wrong_token_and_too_many_orders_are_told_as_there(
    fleet: Fleet, guarded: Client, settings: Settings, served: Fleet
) -> None:
    wrong = guarded.get("/openai/v1/models", headers={"Authorization": "Bearer guess"})
    full = replace(fleet, limits=replace(fleet.limits, max_queued=1))
    client = client_of(make_application(full, settings))
    a_job(fleet)

    many = client.post(GENERATE, json=ORDER)

    assert (wrong.status_code, wrong.json["error"]["code"]) == (401, "invalid_api_key")
    assert (many.status_code, many.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert many.json["error"]["type"] == "rate_limit_error"
    assert int(many.headers["Retry-After"]) > 0


def test_an_edit_without_a_mask_begins_with_the_whole_picture(client: Client, served: Fleet) -> None:
    more: tuple[dict[str, str], ...] = ({}, {"input_fidelity": "high"}, {"input_fidelity": "low"}, {"strength": "0.2"})
    found = []
    for form in more:
        picture = a_file(RED, "upload")  # as a file without a name comes
        answer = send(client, EDIT, {"prompt": "a hat", "image[]": picture, **form})
        assert answer.status_code == 202, answer.text
        spec = newest(served).spec
        assert (spec["mask"], spec["width"], spec["image"] is None) == (None, None, False)
        found.append(spec["strength"])

    assert found == [None, 0.5, None, 0.2]


def test_a_variation_needs_no_words(client: Client, served: Fleet) -> None:
    answer = send(client, VARY, {"image": a_file(Image.new("RGB", (16, 8), "red")), "n": "3", "size": "256x256"})

    spec = newest(served).spec
    assert answer.status_code == 202
    assert (spec["prompt"], spec["n"], spec["width"], spec["mask"]) == ("", 3, 256, None)


WRONG_FORMS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": "x"}, "image", "Missing required parameter: 'image'."),
    ({"image": [RED]}, "prompt", "Missing required parameter: 'prompt'."),
    (
        {"prompt": "x", "image": [RED, RED]},
        "image",
        "2 pictures were sent, and no model of this server draws from several",
    ),
    ({"prompt": "x", "image": "red"}, "image", "send it as a file"),
    ({"prompt": "x", "image": [RED], "mask": [RED]}, "mask", "nothing of it is fully transparent"),
    ({"prompt": "x", "image": [RED], "mask": [HOLE.resize((8, 8))]}, "mask", "8 x 8 pixels and the image 16 x 8"),
    ({"prompt": "x", "image": [RED], "n": "many"}, "n", "Not a valid integer"),
    ({"prompt": "x", "image": [RED], "markup": [HOLE]}, "markup", "Unknown parameter"),
]


def test_what_is_wrong_with_a_form_is_said_with_the_field(client: Client, served: Fleet) -> None:
    for fields, param, words in WRONG_FORMS:
        form = {name: given if isinstance(given, str) else [*map(a_file, given)] for name, given in fields.items()}
        answer = send(client, EDIT, form)
        assert (answer.status_code, answer.json["error"]["param"]) == (400, param), words
        assert words in answer.json["error"]["message"]
    assert count(served, Job) == 0


def test_bytes_that_are_no_picture_and_pictures_that_are_too_large_are_refused(
    fleet: Fleet, client: Client, settings: Settings, served: Fleet
) -> None:
    small = client_of(make_application(fleet, replace(settings, max_input_pixels=100)))

    broken = send(client, EDIT, {"prompt": "x", "image": (io.BytesIO(b"\x89PNG\r\n\x1a\nno"), "x.png")})
    large = send(small, EDIT, {"prompt": "x", "image": a_file(RED)})

    assert (broken.status_code, broken.json["error"]["code"]) == (400, "invalid_image")
    assert (large.status_code, large.json["error"]["code"]) == (413, "picture_too_large")
    assert {broken.json["error"]["param"], large.json["error"]["param"]} == {"image"}
