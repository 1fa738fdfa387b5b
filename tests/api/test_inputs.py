"""Pictures to begin with: uploading, ordering with them, handing them to machines, and every way to do it wrongly."""

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from PIL import Image

from app.core import inputs
from app.core.errors import InvalidSpec
from app.core.fleet import Fleet
from app.core.spec import GenerationSpec
from app.core.tables import Input
from tests.builders import MODEL, a_job, a_model, a_picture, the_job
from tests.support.fakes import Clock, MemoryImages
from tests.support.web import Client, client_of

ORDER = {"model_id": MODEL, "prompt": "a red circle"}
NOBODY = "0" * 64


@pytest.fixture
def stocked(client: Client, fleet: Fleet) -> Client:
    """Return a client of a server with one model that has a size of its own, and an upscaler."""
    a_model(fleet, options={"width": 512, "height": 512})
    a_model(fleet, "sharp", kind="upscaler")
    return client


def upload(client: Client, data: bytes | None = None) -> str:
    answer = client.post("/v1/inputs", data=data or a_picture(), content_type="image/png")
    assert answer.status_code == 201, answer.text
    return str(answer.json["input_id"])


def order(client: Client, **more: Any) -> Any:
    answer = client.post("/v1/jobs", json=ORDER | more)
    assert answer.status_code == 202, answer.text
    return answer.json


def sized(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def test_an_upload_that_comes_again_is_told_so_and_another_picture_under_its_key_is_refused(client: Client) -> None:
    key = {"Idempotency-Key": "a-picture"}

    def send(picture: bytes, **how: Any) -> Any:
        return client.post("/v1/inputs", headers=key, **(how or {"data": picture, "content_type": "image/png"}))

    first = send(a_picture())
    again = send(a_picture(), data={"file": (io.BytesIO(a_picture()), "red.png")})
    other = send(a_picture("blue"))

    assert (first.status_code, again.status_code, again.json) == (201, 201, first.json)
    assert [answer.headers.get("Idempotent-Replayed") for answer in (first, again)] == [None, "true"]
    assert (other.status_code, other.json["error"]["code"]) == (409, "idempotency_key_reused")


def test_an_uploaded_picture_is_named_by_its_hash_and_shown_again(client: Client) -> None:
    answer = client.post("/v1/inputs", data=a_picture(kind="JPEG"), content_type="image/png")

    assert answer.status_code == 201
    assert answer.json["media_type"] == "image/png"
    assert answer.headers["Location"] == answer.json["url"]
    shown = client.get(answer.json["url"])
    assert (shown.status_code, shown.mimetype, len(shown.data)) == (200, "image/png", answer.json["size_bytes"])
    assert Image.open(io.BytesIO(shown.data)).size == (answer.json["width"], answer.json["height"])


def test_a_form_brings_a_picture_too_whatever_its_name(client: Client) -> None:
    form = {"file": (io.BytesIO(a_picture()), "holiday.exe", "text/plain")}

    answer = client.post("/v1/inputs", data=form, content_type="multipart/form-data")

    assert answer.json["input_id"] == upload(client)


def test_the_same_picture_is_kept_once(client: Client, fleet: Fleet) -> None:
    assert upload(client) == upload(client)

    assert isinstance(fleet.images, MemoryImages)
    with fleet.reading() as session:
        assert session.query(Input).count() == 1


def test_a_picture_that_the_store_lost_is_kept_again(client: Client, fleet: Fleet) -> None:
    input_id = upload(client)
    with fleet.reading() as session:
        fleet.images.delete(inputs.get(session, input_id).key)
    assert client.get(f"/v1/inputs/{input_id}").status_code == 404

    assert upload(client) == input_id

    assert client.get(f"/v1/inputs/{input_id}").status_code == 200


def test_the_same_picture_may_come_several_times_at_once(application: Flask) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: upload(client_of(application)), range(8)))

    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("data", "content_type", "status", "code"),
    [
        (lambda: b"", "image/png", 422, "missing_picture"),
        (lambda: b"not a picture", "image/png", 422, "invalid_image"),
        (lambda: a_picture()[:45], "image/png", 422, "invalid_image"),
        (lambda: a_picture(kind="GIF"), "image/png", 422, "invalid_image"),
        (lambda: sized(6001, 6000), "image/png", 413, "picture_too_large"),
    ],
)
def test_what_is_no_usable_picture_is_refused(
    client: Client, data: Callable[[], bytes], content_type: str, status: int, code: str
) -> None:
    answer = client.post("/v1/inputs", data=data(), content_type=content_type)

    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)


def test_a_form_without_a_picture_says_what_is_missing(client: Client) -> None:
    answer = client.post("/v1/inputs", data={"other": "x"}, content_type="multipart/form-data")

    assert answer.status_code == 422
    assert "part `file`" in answer.json["error"]["message"]


@pytest.mark.parametrize("input_id", [NOBODY, "nonsense", "A" * 64])
def test_a_picture_that_is_not_there_is_a_404(client: Client, input_id: str) -> None:
    answer = client.get(f"/v1/inputs/{input_id}")

    assert (answer.status_code, answer.json["error"]["code"]) == (404, "input_not_found")


def test_an_order_begins_with_a_picture_by_id_or_brings_it_along(stocked: Client, fleet: Fleet) -> None:
    input_id, plain = upload(stocked), base64.b64encode(a_picture()).decode()

    for given in ({"image": input_id}, {"image": plain}, {"reference_image_blob": f"data:image/png;base64,{plain}"}):
        job = order(stocked, strength=0.5, **given)

        assert job["parameters"]["image"] == input_id
        shown = stocked.get(job["url"]).json
        assert (shown["parameters"]["image"], shown["parameters"]["strength"]) == (input_id, 0.5)
        assert GenerationSpec.from_json(the_job(fleet, UUID(job["job_id"])).spec).pictures == (input_id,)


def test_the_size_follows_the_picture_and_not_the_models_default(stocked: Client) -> None:
    assert order(stocked)["parameters"]["width"] == 512

    job = order(stocked, image=upload(stocked))

    assert "width" not in job["parameters"]


def test_a_picture_larger_than_the_limit_is_drawn_smaller(stocked: Client) -> None:
    job = order(stocked, image=upload(stocked, sized(4000, 1000)))

    assert (job["parameters"]["width"], job["parameters"]["height"]) == (2048, 512)


def test_every_part_of_an_order_with_pictures_is_kept(stocked: Client, fleet: Fleet) -> None:
    image, mask = upload(stocked), upload(stocked, a_picture("white"))
    parts = {
        "mask": {"image": mask, "blur": 8, "inverted": True, "fill": "noise", "only_masked": True, "padding": 16},
        "resize_mode": "crop",
        "upscale": {"factor": 1.5, "upscaler": "sharp"},
    }

    job = order(stocked, image=image, width=64, height=64, **parts)

    assert {name: job["parameters"][name] for name in parts} == parts
    spec = GenerationSpec.from_json(the_job(fleet, UUID(job["job_id"])).spec)
    assert spec.pictures == (image, mask)
    assert spec.companions == ("sharp",)


def test_a_high_res_fix_is_kept(stocked: Client) -> None:
    hires = {"scale": 1.5, "upscaler": "Latent (nearest)", "steps": 7, "strength": 0.4}

    assert order(stocked, hires=hires)["parameters"]["hires"] == hires


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"image": NOBODY}, "upload it first"),
        ({"image": "https://example.org/a.png"}, "not fetched"),
        ({"image": ""}, "must not be empty"),
        ({"image": 7}, "image"),
        ({"image": base64.b64encode(b"no picture").decode()}, "PNG, JPEG or WebP"),
        ({"image": base64.b64encode(a_picture()[:45]).decode()}, "incomplete"),
        ({"image": NOBODY, "reference_image_blob": NOBODY}, "either image or reference_image_blob"),
        ({"strength": 0.5}, "needs an image"),
        ({"mask": {"image": NOBODY}}, "needs an image"),
        ({"image": NOBODY, "mask": {}}, "mask"),
        ({"image": NOBODY, "mask": {"image": NOBODY, "fill": "purple"}}, "fill"),
        ({"image": NOBODY, "mask": {"image": NOBODY, "blur": 1000}}, "blur"),
        ({"image": NOBODY, "mask": "all"}, "mask"),
        ({"image": NOBODY, "strength": 1.5}, "strength"),
        ({"image": NOBODY, "resize_mode": "bend"}, "resize_mode"),
        ({"hires": {"scale": 9}}, "scale"),
        ({"hires": {"scale": 5}}, "MAX_SIZE"),
        ({"upscale": {"factor": 0.5}}, "factor"),
        ({"upscale": {"upscaler": "Latent"}}, "for hires alone"),
        ({"upscale": {"upscaler": "nobody"}}, "nobody"),
        ({"upscale": {"upscaler": MODEL}}, "upscaler"),
        ({"width": 2048, "height": 2048, "upscale": {"factor": 4}}, "MAX_INPUT_PIXELS"),
    ],
)
def test_wrong_orders_are_told_what_is_wrong(stocked: Client, more: dict[str, Any], told: str) -> None:
    answer = stocked.post("/v1/jobs", json=ORDER | {"width": 512, "height": 512} | more)

    assert answer.status_code in {404, 422}, answer.text
    assert told in answer.text


def test_a_mask_and_a_high_res_fix_do_not_go_together(stocked: Client) -> None:
    image = upload(stocked)

    answer = stocked.post("/v1/jobs", json=ORDER | {"image": image, "mask": {"image": image}, "hires": {}})

    assert answer.status_code == 422
    assert "hires goes over the whole picture" in answer.json["error"]["message"]


def test_an_order_with_a_picture_may_come_twice_under_one_key(stocked: Client) -> None:
    body = ORDER | {"image": base64.b64encode(a_picture()).decode()}

    first, second = (stocked.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert first.json["job_id"] == second.json["job_id"]
    assert second.headers["Idempotent-Replayed"] == "true"


def test_a_list_of_prompts_and_a_second_try_keep_the_picture(stocked: Client) -> None:
    image = upload(stocked)

    answer = stocked.post("/v1/jobs", json={"model_id": MODEL, "prompts": ["one", "two"], "image": image})

    assert [job["parameters"]["image"] for job in answer.json["jobs"]] == [image, image]
    job_id = answer.json["jobs"][0]["job_id"]
    stocked.post(f"/v1/jobs/{job_id}/cancel")
    again = stocked.post(f"/v1/jobs/{job_id}/retry")
    assert again.json["parameters"]["image"] == image


def test_a_machine_gets_the_bytes_that_the_name_promises(stocked: Client) -> None:
    input_id = upload(stocked)

    answer = stocked.get(f"/machines/v1/inputs/{input_id}")

    assert answer.status_code == 200
    assert answer.data == stocked.get(f"/v1/inputs/{input_id}").data


def test_a_machine_is_told_that_a_picture_is_gone(stocked: Client) -> None:
    answer = stocked.get(f"/machines/v1/inputs/{NOBODY}")

    assert (answer.status_code, answer.json["code"]) == (404, "input_not_found")


def test_it_is_noted_when_a_picture_was_last_used(stocked: Client, fleet: Fleet, clock: Clock) -> None:
    input_id = upload(stocked)
    uploaded = clock()
    clock.advance(7200)

    a_job(fleet, image=input_id)

    with fleet.reading() as session:
        found = inputs.get(session, input_id)
        assert (found.created_at, found.used_at) == (uploaded, clock())


def test_the_core_refuses_pictures_that_nobody_has(stocked: Client, fleet: Fleet) -> None:
    upload(stocked)

    with pytest.raises(InvalidSpec, match="upload it first"):
        a_job(fleet, image=NOBODY)


def test_upscalers_are_listed_with_the_catalogues(stocked: Client) -> None:
    found = {each["name"]: each for each in stocked.get("/v1/upscalers").json["upscalers"]}

    assert found["Latent"] == {"name": "Latent", "latent": True, "built_in": True}
    assert found["sharp"] == {"name": "sharp", "latent": False, "built_in": False}
