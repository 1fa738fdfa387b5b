"""The Automatic1111 dialect: what its clients read, what they are refused, and what each of them has for itself."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo
from sqlalchemy import event
from werkzeug.test import Client, TestResponse

from app.api import waiting
from app.api.a1111.root import AtTheRoot
from app.api.application import make_application
from app.api.webui.infotext import parse
from app.core import images, jobs, listing
from app.core.dispatch import GENERATE
from app.core.fleet import Fleet
from app.core.lifecycle import AttemptState, JobState
from app.core.listing import Query
from app.core.live import Progress, Skipped
from app.settings import Settings
from tests.api.test_golden_v1 import PNG
from tests.builders import a_job, a_machine, a_model, a_picture, a_running_job, an_upload, claim, finish, the_job
from tests.support.fakes import Clock, RecordingDispatcher
from tests.support.processes import WAIT_SECONDS, wait_until

API = "/a1111/sdapi/v1"
SHA = "0123456789" + "ab" * 27

INFO_KEYS = """
    prompt all_prompts negative_prompt all_negative_prompts seed all_seeds subseed all_subseeds subseed_strength
    width height sampler_name cfg_scale steps batch_size restore_faces face_restoration_model sd_model_name
    sd_model_hash sd_vae_name sd_vae_hash seed_resize_from_w seed_resize_from_h denoising_strength
    extra_generation_params index_of_first_image infotexts styles job_timestamp clip_skip
    is_using_inpainting_conditioning version
"""

LISTS = """
    sd-models samplers schedulers options cmd-flags sd-vae upscalers latent-upscale-modes loras embeddings
    hypernetworks face-restorers realesrgan-models prompt-styles scripts script-info memory progress extensions
"""

WHAT_WEBUIAPI_ALWAYS_SENDS = {
    "enable_hr": False,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "hr_checkpoint_name": None,
    "denoising_strength": 0.7,
    "firstphase_width": 0,
    "styles": [],
    "subseed": -1,
    "subseed_strength": 0.0,
    "seed_resize_from_h": 0,
    "seed_resize_from_w": 0,
    "restore_faces": False,
    "tiling": False,
    "eta": 1.0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "override_settings": {},
    "override_settings_restore_afterwards": True,
    "scheduler": "automatic",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {"ADetailer": {"args": [False]}, "ControlNet": {"args": []}},
    "use_deprecated_controlnet": False,
}


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Take one kind: what depends on it is asked in test_a1111_callers."""
    return sqlite_url


def the_body(response: TestResponse) -> Any:
    assert response.is_json, response.data
    return response.get_json()


def basic(password: str, user: str = "anybody") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def decoded(image: str) -> Pillow.Image:
    return Pillow.open(io.BytesIO(base64.b64decode(image, validate=True)))


@pytest.fixture(autouse=True)
def model(fleet: Fleet) -> str:
    """Put a model into the catalogue that a live machine is ready for."""
    a_model(fleet, "shapes", name="shapes.safetensors", hash=SHA, options={"steps": 12, "width": 128, "height": 64})
    return a_machine(fleet, ready_for=["shapes"])


@contextmanager
def drawing(
    fleet: Fleet, dispatcher: RecordingDispatcher, ending: Callable[[Any], object] | None = None
) -> Iterator[None]:
    """Draw what is ordered, in a thread, as a machine does."""
    stopping = threading.Event()
    problems: list[Exception] = []

    def draw() -> None:
        while not stopping.wait(0.01):
            while dispatcher.waiting:
                message = dispatcher.waiting.pop(0)
                if message.task != GENERATE:
                    continue
                job = the_job(fleet, message.job_id)
                assert claim(fleet, job.id) is not None
                if ending is not None:
                    ending(job)
                    continue
                for position in range(int(job.spec["n"])):
                    images.receive(fleet, an_upload(job, position=position))
                finish(fleet, job)

    def run() -> None:
        try:
            draw()
        except Exception as exc:  # noqa: BLE001  # told below
            problems.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    assert problems == []


@pytest.fixture
def machine(fleet: Fleet, dispatcher: RecordingDispatcher) -> Iterator[None]:
    """Let a machine draw everything that is ordered."""
    with drawing(fleet, dispatcher):
        yield


@pytest.mark.usefixtures("machine")
def test_pictures_come_as_bare_base64_with_an_info_that_has_every_key(client: FlaskClient) -> None:
    order = {"prompt": "a red circle", "batch_size": 2, "n_iter": 2, "seed": 7, "sampler_name": "Euler a"}

    answer = the_body(client.post(f"{API}/txt2img", json=order | WHAT_WEBUIAPI_ALWAYS_SENDS))

    info = json.loads(answer["info"])
    assert [decoded(image).format for image in answer["images"]] == ["PNG"] * 4
    assert set(info) == set(INFO_KEYS.split())
    assert (info["seed"], info["all_seeds"], info["batch_size"]) == (7, [7, 8, 9, 10], 2)
    assert (info["sampler_name"], info["sd_model_name"], info["sd_model_hash"]) == ("Euler a", "shapes", SHA[:10])
    assert info["infotexts"][1].splitlines()[0] == "a red circle"
    assert "Seed: 8, Size: 128x64" in info["infotexts"][1]
    assert answer["parameters"]["prompt"] == "a red circle"


@pytest.mark.usefixtures("machine")
def test_null_is_taken_for_every_field_and_unknown_fields_are_let_be(client: FlaskClient, fleet: Fleet) -> None:
    known = the_body(client.get("/openapi.json"))["components"]["schemas"]["Txt2Img"]["properties"]

    response = client.post(f"{API}/txt2img", json=dict.fromkeys(known) | {"url": "http://me", "clip_skip": 2})

    assert response.status_code == 200
    assert json.loads(the_body(response)["info"])["steps"] == 12


@pytest.mark.usefixtures("machine")
def test_a_random_seed_comes_back_resolved(client: FlaskClient) -> None:
    infos = [json.loads(the_body(client.post(f"{API}/txt2img", json={"seed": -1}))["info"]) for _ in range(2)]

    assert all(info["seed"] >= 0 and info["all_seeds"] == [info["seed"]] for info in infos)
    assert infos[0]["seed"] != infos[1]["seed"]


@pytest.mark.usefixtures("machine")
def test_what_is_left_out_is_the_models_own_and_then_automatic1111s(client: FlaskClient) -> None:
    info = json.loads(the_body(client.post(f"{API}/txt2img", json={"prompt": "x"}))["info"])

    assert (info["steps"], info["width"], info["height"]) == (12, 128, 64)
    assert (info["cfg_scale"], info["sampler_name"]) == (7.0, "Euler")


@pytest.mark.usefixtures("machine")
def test_numbers_may_come_as_floats_or_text_and_sizes_are_cut_to_the_grid(client: FlaskClient) -> None:
    order = {"steps": 5.0, "width": "100", "height": 65.0, "override_settings": {"CLIP_stop_at_last_layers": 1.0}}

    info = json.loads(the_body(client.post(f"{API}/txt2img", json=order))["info"])

    assert (info["steps"], info["width"], info["height"]) == (5, 96, 64)


@pytest.mark.usefixtures("machine")
def test_pictures_are_left_out_on_request(client: FlaskClient) -> None:
    answer = the_body(client.post(f"{API}/txt2img", json={"send_images": False}))

    assert answer["images"] == []


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ({"restore_faces": True}, "face restoration"),
        ({"tiling": True}, "tiling"),
        ({"refiner_checkpoint": "xl-refiner"}, "refiner"),
        ({"styles": ["anime"]}, "'anime'"),
        ({"prompt": "a cat <lora:fur:0.7>"}, "<lora:fur>: no LoRA"),
        ({"seed_resize_from_w": 64, "seed_resize_from_h": 64}, "resizing from a seed"),
        ({"s_churn": 0.5}, "s_churn"),
        ({"eta": 0.31}, "eta"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 13}}, "CLIP_stop_at_last_layers: must be between 1 and 12"),
        ({"override_settings": {"CLIP_stop_at_last_layers": "two"}}, "not 'two'"),
        ({"sampler_name": "Restart"}, "Restart cannot be drawn here"),
        ({"override_settings": {"sd_vae": "kl-f8.pt"}}, "VAE"),
        ({"override_settings": {"samples_format": "avif"}}, "samples_format"),
        ({"script_name": "X/Y/Z plot"}, "Script 'X/Y/Z plot' not found"),
        (
            {"alwayson_scripts": {"ADetailer": {"args": [True, {"ad_model": "face"}]}}},
            "always on script ADetailer not found",
        ),
        ({"scheduler": "Beta", "sampler_name": "Euler a"}, "Uniform"),
        ({"scheduler": "moonlight"}, "moonlight"),
    ],
)
def test_what_would_change_the_picture_and_cannot_be_done_is_refused_in_a_sentence(
    order: dict[str, Any], told: str, client: FlaskClient, dispatcher: RecordingDispatcher
) -> None:
    response = client.post(f"{API}/txt2img", json={"prompt": "x"} | order)

    assert response.status_code == 422
    assert told in the_body(response)["detail"]
    assert the_body(response)["error"] == "HTTPException"
    assert dispatcher.sent == []


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({"steps": "many"}, "steps"),
        ({"steps": 0}, "steps"),
        ({"steps": 151}, "steps"),
        ({"width": 4096}, "width"),
        ({"batch_size": 5, "n_iter": 4}, "batch_size"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": "x" * 10_001}, "prompt"),
        ({"seed": -2}, "seed"),
        ({"subseed": -2}, "subseed"),
        ({"subseed_strength": 1.5}, "subseed_strength"),
        ({"clip_skip": 13}, "clip_skip"),
        ({"override_settings": "no"}, "override_settings"),
    ],
)
def test_a_wrong_field_is_named_in_a_list(order: dict[str, Any], field: str, client: FlaskClient) -> None:
    response = client.post(f"{API}/txt2img", json=order)

    assert response.status_code == 422
    assert [problem["loc"] for problem in the_body(response)["detail"]] == [["body", field]]


def test_an_unknown_sampler_is_not_found(client: FlaskClient) -> None:
    response = client.post(f"{API}/txt2img", json={"sampler_name": "Crayon"})

    assert response.status_code == 404
    assert the_body(response)["detail"] == "Sampler not found"


def test_paths_and_methods_that_are_not_there_are_told_in_automatic1111s_words(client: FlaskClient) -> None:
    nowhere, wrong = client.get(f"{API}/nowhere"), client.get(f"{API}/txt2img")

    assert (nowhere.status_code, the_body(nowhere)) == (404, {"detail": "Not Found"})
    assert (wrong.status_code, the_body(wrong)) == (405, {"detail": "Method Not Allowed"})


def test_what_this_server_has_no_model_for_is_said(client: FlaskClient) -> None:
    response = client.post(f"{API}/interrogate", json={"image": ""})

    assert response.status_code == 501
    assert "no model that describes them" in the_body(response)["detail"]


@pytest.mark.parametrize("field", ["controlnet_input_images", "controlnet_images"])
@pytest.mark.usefixtures("machine")
def test_what_a_preprocessor_sees_is_a_job_for_each_picture(field: str, client: FlaskClient, fleet: Fleet) -> None:
    photo = base64.b64encode(a_picture()).decode()
    order = {"controlnet_module": "canny", field: [photo, f"data:image/png;base64,{photo}"]}

    response = client.post("/a1111/controlnet/detect", json=order)

    assert response.status_code == 200, response.text
    assert the_body(response) == {"images": [photo, photo], "info": "Success"}
    with fleet.reading() as session:
        specs = [job.spec for job in listing.page(session, Query(states=[JobState.COMPLETED])).rows]
    assert [(spec["detect"], spec["strength"], spec["image"] is None) for spec in specs] == [("canny", 0.0, False)] * 2


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ({"controlnet_module": "crayon", "controlnet_input_images": ["x"]}, "Module not available"),
        ({"controlnet_module": "canny", "controlnet_input_images": []}, "No image selected"),
        ({"controlnet_module": "canny"}, "No image selected"),
        ({"controlnet_module": "canny", "controlnet_input_images": ["no picture"]}, "controlnet_input_images.0"),
        ({"controlnet_module": "depth", "controlnet_input_images": [PNG]}, "estimates it"),
        ({"controlnet_module": 7}, "Not a valid string."),
        ({"controlnet_input_images": ["x"] * 17}, "16"),
    ],
)
def test_what_a_preprocessor_cannot_look_at_is_said(order: Any, told: str, client: FlaskClient, fleet: Fleet) -> None:
    a_machine(fleet, ready_for=["shapes"])

    response = client.post("/a1111/controlnet/detect", json=order)

    assert response.status_code == 422
    assert told in response.text


@pytest.mark.parametrize("path", ["txt2img", "options", "png-info", "interrupt"])
@pytest.mark.parametrize("body", [b"{not json", b"[" * 100_000 + b"]" * 100_000, b"\xff", b'"text"', b"7", b"null"])
def test_a_body_that_is_no_json_object_is_the_clients_mistake(path: str, body: bytes, client: FlaskClient) -> None:
    response = client.post(f"{API}/{path}", data=body, content_type="application/json")

    assert response.status_code in ({200} if path == "interrupt" else {400, 422})
    assert path == "interrupt" or the_body(response)["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_a_body_that_is_no_json_is_not_drawn_as_an_empty_order(kind: str, client: FlaskClient) -> None:
    response = client.post(f"{API}/txt2img", data='{"prompt": "x"}', content_type=kind)

    assert response.status_code == 415
    assert "application/json" in the_body(response)["detail"]


@pytest.mark.parametrize("path", LISTS.split())
def test_every_list_is_json(path: str, client: FlaskClient) -> None:
    response = client.get(f"{API}/{path}")

    assert response.status_code == 200
    assert response.is_json


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("skip", None),
        ("interrupt", {}),
        ("refresh-checkpoints", None),
        ("refresh-vae", None),
        ("refresh-loras", None),
        ("refresh-embeddings", None),
        ("unload-checkpoint", {}),
        ("reload-checkpoint", {}),
    ],
)
def test_every_wish_is_answered_with_json_whatever_comes_with_it(path: str, answer: Any, client: FlaskClient) -> None:
    bare, quoted = client.post(f"{API}/{path}"), client.post(f"{API}/{path}", json="")

    assert (bare.status_code, quoted.status_code) == (200, 200)
    assert the_body(bare) == the_body(quoted) == answer


def test_a_model_is_listed_while_a_live_machine_has_it_ready_ones_first(
    client: FlaskClient, fleet: Fleet, clock: Clock
) -> None:
    a_model(fleet, "aaa-nowhere")
    a_model(fleet, "zzz", name="org/zzz", hash=None)
    a_machine(fleet, "gpu-2", ready_for=["zzz"])

    listed = the_body(client.get(f"{API}/sd-models"))
    clock.advance(60)
    later = the_body(client.get(f"{API}/sd-models"))

    assert [model["title"] for model in listed] == [f"shapes.safetensors [{SHA[:10]}]", "org/zzz"]
    assert (listed[0]["model_name"], listed[0]["hash"], listed[0]["sha256"]) == ("shapes", SHA[:10], SHA)
    assert later == []


@pytest.mark.parametrize("name", ["shapes", "Shapes.safetensors", f"shapes.safetensors [{SHA[:10]}]", SHA, SHA[:10]])
@pytest.mark.usefixtures("machine")
def test_an_order_names_its_model_in_any_of_the_usual_ways(name: str, client: FlaskClient, fleet: Fleet) -> None:
    a_model(fleet, "another")
    a_machine(fleet, "gpu-2", ready_for=["another"])

    response = client.post(f"{API}/txt2img", json={"override_settings": {"sd_model_checkpoint": name}})

    assert json.loads(the_body(response)["info"])["sd_model_name"] == "shapes"


def test_a_model_that_nobody_has_is_not_waited_for(
    client: FlaskClient, fleet: Fleet, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    a_model(fleet, "nowhere")

    unknown = client.post(f"{API}/txt2img", json={"override_settings": {"sd_model_checkpoint": "unheard-of"}})
    unheld = client.post(f"{API}/txt2img", json={"override_settings": {"sd_model_checkpoint": "nowhere"}})
    clock.advance(60)
    none_left = client.post(f"{API}/txt2img", json={})

    assert (unknown.status_code, unheld.status_code, none_left.status_code) == (404, 503, 503)
    assert not [record for record in caplog.records if record.exc_info]  # nothing of it is a surprise
    assert "'unheard-of' not found" in the_body(unknown)["detail"]
    assert "MACHINE_MODELS_NEEDED=nowhere" in the_body(unheld)["detail"]
    assert unheld.headers["Retry-After"]


@pytest.mark.usefixtures("machine")
def test_the_model_that_one_token_chooses_is_no_other_tokens_model(guarded: FlaskClient, fleet: Fleet) -> None:
    a_model(fleet, "another")
    a_machine(fleet, ready_for=["another", "shapes"])
    first, second = basic("first-client"), {"Authorization": "Bearer second-client"}

    chosen = guarded.post(f"{API}/options", json={"sd_model_checkpoint": "shapes"}, headers=first)

    assert (chosen.status_code, the_body(chosen)) == (200, None)
    drawn = [guarded.post(f"{API}/txt2img", json={}, headers=who) for who in (first, second)]
    shown = [the_body(guarded.get(f"{API}/options", headers=who))["sd_model_checkpoint"] for who in (first, second)]
    assert [json.loads(the_body(answer)["info"])["sd_model_name"] for answer in drawn] == ["shapes", "another"]
    assert shown == [f"shapes.safetensors [{SHA[:10]}]", "another.safetensors"]


def test_settings_can_be_posted_back_whole_and_are_kept(client: FlaskClient) -> None:
    settings = the_body(client.get(f"{API}/options"))

    response = client.post(f"{API}/options", json=settings | {"send_seed": not settings["send_seed"], "what": "ever"})

    kept = the_body(client.get(f"{API}/options"))
    assert response.status_code == 200
    assert kept == settings | {"send_seed": not settings["send_seed"]}


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"sd_model_checkpoint": "unheard-of"}, 404),
        ({"CLIP_stop_at_last_layers": 13}, 422),
        ({"sd_vae": "x.pt"}, 422),
        ([], 422),
    ],
)
def test_settings_that_cannot_be_had_are_refused_and_not_kept(given: Any, status: int, client: FlaskClient) -> None:
    before = the_body(client.get(f"{API}/options"))

    response = client.post(f"{API}/options", json=given)

    assert response.status_code == status
    assert the_body(client.get(f"{API}/options")) == before


@pytest.mark.usefixtures("machine")
def test_the_format_that_a_client_sets_is_drawn(
    client: FlaskClient, dispatcher: RecordingDispatcher, fleet: Fleet
) -> None:
    client.post(f"{API}/options", json={"samples_format": "jpg"})

    client.post(f"{API}/txt2img", json={})
    client.post(f"{API}/txt2img", json={"override_settings": {"samples_format": "webp"}})

    assert [the_job(fleet, sent.job_id).spec["image_format"] for sent in dispatcher.sent] == ["jpeg", "webp"]


@pytest.mark.usefixtures("machine")
def test_variations_and_clip_skip_are_ordered_and_told(
    client: FlaskClient, dispatcher: RecordingDispatcher, fleet: Fleet
) -> None:
    order = {"seed": 7, "subseed": 70, "subseed_strength": 0.25, "batch_size": 2, "clip_skip": 2}

    info = json.loads(the_body(client.post(f"{API}/txt2img", json=order))["info"])

    spec = the_job(fleet, dispatcher.sent[-1].job_id).spec
    assert (spec["subseed"], spec["subseed_strength"], spec["clip_skip"]) == (70, 0.25, 2)
    assert (info["subseed"], info["all_subseeds"], info["subseed_strength"]) == (70, [70, 71], 0.25)
    assert info["clip_skip"] == 2
    told = parse(info["infotexts"][1])
    assert (told["Seed"], told["Variation seed"], told["Variation seed strength"]) == ("8", "71", "0.25")
    assert told["Clip skip"] == "2"


@pytest.mark.usefixtures("machine")
def test_a_random_variation_seed_comes_back_resolved(client: FlaskClient) -> None:
    order = {"seed": 7, "subseed": -1, "subseed_strength": 0.5}

    infos = [json.loads(the_body(client.post(f"{API}/txt2img", json=order))["info"]) for _ in range(2)]

    assert [info["seed"] for info in infos] == [7, 7]
    assert infos[0]["subseed"] != infos[1]["subseed"]


@pytest.mark.usefixtures("machine")
def test_the_clip_skip_that_a_client_sets_is_drawn_with(
    client: FlaskClient, dispatcher: RecordingDispatcher, fleet: Fleet
) -> None:
    client.post(f"{API}/options", json={"CLIP_stop_at_last_layers": 2})

    client.post(f"{API}/txt2img", json={})
    client.post(f"{API}/txt2img", json={"override_settings": {"CLIP_stop_at_last_layers": 1}})

    assert [the_job(fleet, sent.job_id).spec["clip_skip"] for sent in dispatcher.sent] == [2, 1]


@pytest.mark.usefixtures("machine")
def test_settings_of_an_order_are_set_back_unless_it_says_otherwise(client: FlaskClient, fleet: Fleet) -> None:
    a_model(fleet, "other")
    a_machine(fleet, ready_for=["shapes", "other"])
    overrides = {"sd_model_checkpoint": "other", "CLIP_stop_at_last_layers": 2, "nobody_knows": 1}

    def order(**more: Any) -> Any:
        info = json.loads(the_body(client.post(f"{API}/txt2img", json=more))["info"])
        return info["sd_model_name"], info["clip_skip"]

    assert order(override_settings=overrides) == ("other", 2)
    assert order() != ("other", 2)
    assert order(override_settings=overrides, override_settings_restore_afterwards=False) == ("other", 2)
    assert order() == ("other", 2)
    kept = the_body(client.get(f"{API}/options"))
    assert (kept["sd_model_checkpoint"], kept["CLIP_stop_at_last_layers"]) == ("other.safetensors", 2)
    assert "nobody_knows" not in kept


def test_a_token_may_be_a_bearers_or_the_password_of_anybody(guarded: FlaskClient) -> None:
    refused = [
        {},
        basic("wrong"),
        {"Authorization": ""},
        {"Authorization": "Basic %%%"},
        {"Authorization": "Bearer wrong"},
    ]
    welcome = [basic("first-client"), basic("second-client", ""), {"Authorization": "Bearer first-client"}]

    answers = [guarded.get(f"{API}/samplers", headers=headers) for headers in refused]

    assert [answer.status_code for answer in answers] == [401] * len(refused)
    assert all(answer.headers["WWW-Authenticate"].startswith("Basic ") for answer in answers)
    assert all("password" in the_body(answer)["detail"] for answer in answers)
    assert [guarded.get(f"{API}/samplers", headers=headers).status_code for headers in welcome] == [200] * 3


def test_basic_authentication_opens_no_other_door(guarded: FlaskClient) -> None:
    assert guarded.get("/v1/jobs", headers=basic("first-client")).status_code == 401


@pytest.mark.parametrize("header", ["", "Basic Og==", "Basic %%%", "Bearer whatever", "Digest x"])
def test_an_open_server_takes_any_credentials(header: str, client: FlaskClient) -> None:
    assert client.get(f"{API}/samplers", headers={"Authorization": header}).status_code == 200


@contextmanager
def waiting_client(
    client: FlaskClient, fleet: Fleet, headers: Mapping[str, str] | None = None, **order: Any
) -> Iterator[list[TestResponse]]:
    """Let somebody wait for a picture in a thread; the list holds the answer in the end."""
    answers: list[TestResponse] = []

    def ask() -> None:
        other = client.application.test_client()
        answers.append(other.post(f"{API}/txt2img", json=order, headers=headers))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        wait_until(lambda: _newest(fleet), "the order is there")
        yield answers
    finally:
        thread.join(WAIT_SECONDS)


def _newest(fleet: Fleet) -> Any:
    with fleet.reading() as session:
        return next(iter(listing.page(session, Query(states=[JobState.QUEUED])).rows), None)


@pytest.mark.parametrize("preview", [None, b"what is no picture"])
def test_interrupting_ends_the_job_and_the_waiting_client_goes_on(
    preview: bytes | None, client: FlaskClient, fleet: Fleet
) -> None:
    with waiting_client(client, fleet, seed=3) as answers:
        job = _newest(fleet)
        claim(fleet, job.id)
        fleet.live.report(job.id, Progress(1, "denoising", step=1, steps=12), preview)
        answer = client.post(f"{API}/interrupt")

    info = json.loads(the_body(answers[0])["info"])
    assert (answer.status_code, the_body(answer)) == (200, {})
    assert the_job(fleet, job.id).state == JobState.CANCELLED
    assert answers[0].status_code == 200
    assert the_body(answers[0])["images"] == []
    assert (info["all_seeds"], info["infotexts"]) == ([3], [])


def test_what_was_drawn_before_it_was_interrupted_is_handed_over(client: FlaskClient, fleet: Fleet) -> None:
    with waiting_client(client, fleet, seed=3, n_iter=4) as answers:
        job = _newest(fleet)
        claim(fleet, job.id)
        fleet.live.report(job.id, Progress(1, "denoising", step=6, steps=12, image=3, images=4), a_picture(kind="JPEG"))
        for position, colour in ((0, "red"), (2, "blue")):  # the one between them is still on its way home
            images.receive(fleet, an_upload(job, position=position, data=a_picture(colour)))
        client.post(f"{API}/interrupt")

    body = the_body(answers[0])
    info = json.loads(body["info"])
    assert [base64.b64decode(image) for image in body["images"]] == [a_picture("red"), a_picture("blue")]
    assert info["all_seeds"] == [3, 4, 5, 6]
    assert ["Seed: 3," in info["infotexts"][0], "Seed: 5," in info["infotexts"][1]] == [True, True]


def test_a_picture_that_was_begun_is_handed_over_as_its_preview_shows_it(client: FlaskClient, fleet: Fleet) -> None:
    order: dict[str, Any] = {"seed": 3, "n_iter": 2, "override_settings": {"samples_format": "webp"}}
    with waiting_client(client, fleet, **order) as answers:
        job = _newest(fleet)
        claim(fleet, job.id)
        fleet.live.report(job.id, Progress(1, "denoising", step=6, steps=12, images=2), a_picture(kind="JPEG"))
        client.post(f"{API}/interrupt")

    body = the_body(answers[0])
    (image,) = [decoded(each) for each in body["images"]]
    assert (image.format, image.size) == ("WEBP", (128, 64))
    assert len(json.loads(body["info"])["infotexts"]) == 1


def test_interrupting_touches_no_job_of_others_nor_of_other_dialects(guarded: FlaskClient, fleet: Fleet) -> None:
    first, second = basic("first-client"), {"Authorization": "Bearer second-client"}
    beside = a_running_job(fleet, model_id="shapes")
    with waiting_client(guarded, fleet, first) as answers:
        job = _newest(fleet)
        guarded.post(f"{API}/interrupt", headers=second)
        untouched = (the_job(fleet, job.id).state, the_job(fleet, beside.id).state)
        guarded.post(f"{API}/interrupt", headers=first)

    assert untouched == (JobState.QUEUED, JobState.PROCESSING)
    assert (answers[0].status_code, the_job(fleet, job.id).state) == (200, JobState.CANCELLED)
    assert the_job(fleet, beside.id).state == JobState.PROCESSING


def test_skipping_means_what_is_drawn_now_of_the_callers_own_job(guarded: FlaskClient, fleet: Fleet) -> None:
    first, second = basic("first-client"), {"Authorization": "Bearer second-client"}
    wishes: list[Skipped | None] = []
    a_running_job(fleet, model_id="shapes")

    def skip(who: dict[str, str]) -> None:
        answer = guarded.post(f"{API}/skip", headers=who)
        assert (answer.status_code, the_body(answer)) == (200, None)
        wishes.append(fleet.live.skipped(job.id))

    with waiting_client(guarded, fleet, first, n_iter=2):
        job = _newest(fleet)
        skip(first)  # it waits still
        assert claim(fleet, job.id)
        fleet.live.report(job.id, Progress(1, "loading", images=2))
        skip(first)
        fleet.live.report(job.id, Progress(1, "denoising", step=6, steps=12, image=1, images=2))
        skip(second)
        before = the_body(guarded.get(f"{API}/progress", headers=first))["state"]["skipped"]
        skip(first)
        after = the_body(guarded.get(f"{API}/progress", headers=first))["state"]["skipped"]
        guarded.post(f"{API}/interrupt", headers=first)

    assert wishes == [None, None, None, Skipped(1, 1)]
    assert (before, after) == (False, True)


def test_progress_is_that_of_the_callers_own_job(client: FlaskClient, fleet: Fleet, clock: Clock) -> None:
    a_running_job(fleet, model_id="shapes")
    idle = the_body(client.get(f"{API}/progress?skip_current_image=true"))
    with waiting_client(client, fleet, n_iter=2):
        queued = the_body(client.get(f"{API}/progress"))
        job = _newest(fleet)
        claim(fleet, job.id)
        fleet.live.report(job.id, Progress(1, "denoising", step=6, steps=12, image=1, images=2), b"a small JPEG")
        clock.advance(9)
        running = the_body(client.get(f"{API}/progress"))
        blind = the_body(client.get(f"{API}/progress?skip_current_image=true"))
        client.post(f"{API}/interrupt")

    assert (idle["progress"], idle["state"]["job_count"], idle["state"]["job"]) == (0, 0, "")
    assert (queued["progress"], queued["state"]["job_count"]) == (0, 2)
    assert "can draw shapes" in queued["textinfo"]
    assert (running["progress"], running["eta_relative"]) == (0.75, 3.0)
    assert base64.b64decode(running["current_image"]) == b"a small JPEG"
    assert (blind["current_image"], blind["progress"]) == (None, 0.75)
    assert running["state"] | {"job_timestamp": ""} == {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "scripts_txt2img",
        "job_count": 2,
        "job_timestamp": "",
        "job_no": 1,
        "sampling_step": 6,
        "sampling_steps": 12,
    }


@pytest.mark.parametrize(("code", "name"), [("out_of_memory", "OutOfMemoryError"), ("internal_error", "HTTPException")])
def test_a_job_that_fails_is_told_with_its_reason(
    code: str, name: str, client: FlaskClient, fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    def fail(job: Any) -> None:
        finish(fleet, job, AttemptState.ERROR, error_code=code, error="it did not fit", permanent=True)

    with drawing(fleet, dispatcher, fail):
        response = client.post(f"{API}/txt2img", json={})

    assert response.status_code == 500
    detail = f"it did not fit (request {response.headers['X-Request-Id']})"
    assert the_body(response) == {"error": name, "detail": detail, "body": "", "errors": ""}


def test_a_wait_ends_in_time_and_the_job_goes_on(fleet: Fleet, settings: Settings) -> None:
    client = make_application(fleet, replace(settings, a1111_wait_seconds=0)).test_client()

    response = client.post(f"{API}/txt2img", json={})

    job = _newest(fleet)
    assert response.status_code == 504
    assert str(job.id) in the_body(response)["detail"]
    assert job.state == JobState.QUEUED


def test_who_finds_no_seat_is_told_to_come_again_and_has_ordered_nothing(
    application: Flask, fleet: Fleet, dispatcher: RecordingDispatcher
) -> None:
    waiting.open_room(application, 1)
    client = application.test_client()
    with waiting_client(client, fleet):
        refused = client.post(f"{API}/txt2img", json={})
        others = client.get(f"{API}/progress")
        client.post(f"{API}/interrupt")

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert "try again" in the_body(refused)["detail"]
    assert others.status_code == 200
    assert len(dispatcher.sent) == 1


def test_half_of_a_processs_threads_may_wait(application: Flask, settings: Settings) -> None:
    with application.app_context():
        assert waiting.waiting_room().seats == settings.web_threads // 2


def test_a_server_that_stops_sends_those_who_wait_away_and_keeps_their_jobs(application: Flask, fleet: Fleet) -> None:
    is_open = threading.Event()
    is_open.set()
    waiting.open_room(application, 1, is_open.is_set)
    with waiting_client(application.test_client(), fleet) as answers:
        is_open.clear()

    assert answers[0].status_code == 503
    assert "goes on" in the_body(answers[0])["detail"]
    assert _newest(fleet).state == JobState.QUEUED


def test_waiting_holds_no_database_connection(fleet: Fleet) -> None:
    job = a_job(fleet, model_id="shapes")
    lent, given_back = list[int](), list[int]()
    event.listen(fleet.engine, "checkout", lambda *_: lent.append(1))
    event.listen(fleet.engine, "checkin", lambda *_: given_back.append(1))
    thread = threading.Thread(target=waiting.wait_until_ended, args=(fleet, job.id, 90.0))
    thread.start()

    wait_until(lambda: len(given_back) >= 3, "it gives its connection back each time it has looked")
    with fleet.transaction() as tx:
        jobs.cancel(tx, job.id, fleet)
    thread.join()

    assert len(lent) == len(given_back)


def test_a_picture_tells_how_it_was_drawn_with_or_without_a_data_prefix(client: FlaskClient) -> None:
    text = 'a "red" circle\nNegative prompt: blue\nSteps: 12, Sampler: Euler a, CFG scale: 7.0, Seed: 7, Size: 64x128'
    chunks = PngInfo()
    chunks.add_text("parameters", text)
    chunks.add_text("Author", "me")
    file = io.BytesIO()
    Pillow.new("RGB", (8, 8)).save(file, "PNG", pnginfo=chunks)
    image = base64.b64encode(file.getvalue()).decode()

    plain = the_body(client.post(f"{API}/png-info", json={"image": image}))
    prefixed = the_body(client.post(f"{API}/png-info", json={"image": f"data:image/png;base64,{image}"}))

    assert plain == prefixed
    assert (plain["info"], plain["items"]) == (text, {"Author": "me"})
    assert plain["parameters"]["Prompt"] == 'a "red" circle'
    assert plain["parameters"]["Negative prompt"] == "blue"
    assert (plain["parameters"]["Size-1"], plain["parameters"]["Size-2"], plain["parameters"]["Seed"]) == (
        "64",
        "128",
        "7",
    )


def test_a_picture_without_parameters_says_nothing(client: FlaskClient) -> None:
    image = base64.b64encode(a_picture(kind="JPEG")).decode()

    assert the_body(client.post(f"{API}/png-info", json={"image": image}))["info"] == ""


@pytest.mark.parametrize(
    "image", ["", "no base64!", base64.b64encode(b"no picture").decode(), base64.b64encode(a_picture()[:40]).decode()]
)
def test_what_is_no_picture_is_refused(image: str, client: FlaskClient) -> None:
    response = client.post(f"{API}/png-info", json={"image": image})

    assert response.status_code == 422
    assert the_body(response)["detail"] == "Invalid encoded image"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sdapi/v1/samplers", 200),
        ("/a1111/sdapi/v1/samplers", 200),
        ("/", 200),
        ("/health", 200),
        ("/v1/jobs", 404),
        ("/system_stats", 404),
    ],
)
def test_the_second_port_has_the_dialect_at_its_root_and_little_else(
    path: str, status: int, application: Flask
) -> None:
    assert Client(AtTheRoot(application)).get(path).status_code == status
