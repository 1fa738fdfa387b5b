"""The driver of a remote Automatic1111, before a small strict one: what it asks for, and what it makes of answers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.core.extras import Control, Hires, Lora, Mask, Upscale
from app.core.spec import GenerationSpec
from tasks.machine.drivers.a1111.errors import NotHere, ServerAway, ServerFailed, ServerGone
from tasks.machine.drivers.automatic1111 import Automatic1111Driver
from tasks.machine.drivers.contract import (
    CannotDraw,
    DrawingCancelled,
    DriverSettings,
    ModelFiles,
    Order,
    OutOfMemory,
    Picture,
    Step,
)
from tasks.machine.errors import MachineError, ModelNotProven
from tests.support.processes import wait_until
from tests.support.webui import GARBAGE, HTML, OUT_OF_MEMORY, Webui, checkpoint, decoded

PHOTO = sha256(b"photo").hexdigest()
MASK = sha256(b"mask").hexdigest()
PICTURES = {PHOTO: Image.new("RGB", (64, 48), "red"), MASK: Image.new("L", (64, 48), 255)}
SECRET = "open-sesame"


@pytest.fixture
def webui() -> Iterator[Webui]:
    """Return an Automatic1111 that listens."""
    found = Webui().open()
    yield found
    found.deaf = False
    found.close()


def a_driver(webui: Webui, **more: Any) -> Automatic1111Driver:
    return Automatic1111Driver(DriverSettings(server_url=webui.url, **more))


def an_order(**more: Any) -> Order:
    given: dict[str, Any] = {"prompt": "a red circle", "seed": 7, "steps": 4, "width": 64, "height": 48} | more
    names = {"detail": "detail", "clear": "clear.safetensors", "good": "good", "sharp": "R-ESRGAN 4x+"}
    names["edges"] = "control_canny [d14c016b]"
    title = checkpoint("dream", sha256(b"dream").hexdigest())["title"]
    companions = {model_id: ModelFiles(model_id, Path(name), name) for model_id, name in names.items()}
    return Order(GenerationSpec(model_id="dream", **given), ModelFiles("dream", Path(title), "p"), companions, PICTURES)


def draw(webui: Webui, on_step: Callable[[Step], None] = lambda _: None, **more: Any) -> list[Picture]:
    return list(a_driver(webui).draw(an_order(**more), on_step))


def body_of(webui: Webui, **more: Any) -> dict[str, Any]:
    draw(webui, **more)
    return webui.bodies[-1]


def test_every_field_of_an_order_is_asked_for(webui: Webui) -> None:
    body = body_of(
        webui,
        negative_prompt="blurry",
        guidance_scale=5.5,
        scheduler="DPM++ 2M Karras",
        clip_skip=2,
        subseed=3,
        subseed_strength=0.25,
        vae_id="clear",
        loras=(Lora(model_id="detail", weight=0.8),),
        hires=Hires(scale=2.0, upscaler="sharp", steps=3, strength=0.4),
    )

    assert body["override_settings"] == {
        "sd_model_checkpoint": f"dream.safetensors [{sha256(b'dream').hexdigest()[:10]}]",
        "sd_vae": "clear.safetensors",
        "CLIP_stop_at_last_layers": 2,
        "samples_format": "png",
    }
    assert body["override_settings_restore_afterwards"] is False
    told = {k: body[k] for k in ("prompt", "negative_prompt", "steps", "cfg_scale", "width", "height", "seed")}
    assert told == {
        "prompt": "a red circle<lora:detail:0.8>",
        "negative_prompt": "blurry",
        "steps": 4,
        "cfg_scale": 5.5,
        "width": 64,
        "height": 48,
        "seed": 7,
    }
    assert (body["sampler_name"], body["scheduler"]) == ("DPM++ 2M", "Karras")
    assert (body["subseed"], body["subseed_strength"]) == (3, 0.25)
    assert (body["enable_hr"], body["hr_scale"], body["hr_upscaler"]) == (True, 2.0, "R-ESRGAN 4x+")
    assert (body["hr_second_pass_steps"], body["denoising_strength"]) == (3, 0.4)


def test_what_an_order_leaves_open_is_the_servers_and_nothing_of_the_last_order_stays(webui: Webui) -> None:
    draw(webui, vae_id="clear", clip_skip=2)

    body = body_of(webui, steps=None)

    assert body["override_settings"]["sd_vae"] == "Automatic"
    assert body["override_settings"]["CLIP_stop_at_last_layers"] == 1
    assert {"steps", "cfg_scale", "sampler_name", "subseed", "enable_hr", "init_images"} & set(body) == set()


def test_a_lora_that_the_prompt_names_too_is_asked_for_once_with_both_weights(webui: Webui) -> None:
    lora = Lora(model_id="detail", weight=0.8, text_weight=0.5)

    body = body_of(webui, prompt="a <lora:detail:0.8>red circle", loras=(lora,))

    assert body["prompt"] == "a red circle<lora:detail:0.5:0.8>"


def test_an_embedding_is_called_by_the_servers_name(webui: Webui) -> None:
    order = an_order(prompt="a my-id thing, not my-identity", embeddings=("my-id",))
    order = replace(order, companions={"my-id": ModelFiles("my-id", Path("good"), "good")})

    list(a_driver(webui).draw(order, lambda _: None))

    assert webui.bodies[-1]["prompt"] == "a good thing, not my-identity"


def test_a_picture_begun_with_is_sent_and_its_mask(webui: Webui) -> None:
    mask = Mask(image=MASK, blur=2, inverted=True, fill="noise", only_masked=True, padding=16)

    (picture,) = draw(webui, image=PHOTO, strength=0.6, resize_mode="crop", mask=mask)

    body = webui.bodies[-1]
    assert "img2img" in webui.asked
    assert (body["denoising_strength"], body["resize_mode"], len(body["init_images"])) == (0.6, 1, 1)
    assert (body["mask_blur"], body["inpainting_fill"], body["inpainting_mask_invert"]) == (2, 2, 1)
    assert (body["inpaint_full_res"], body["inpaint_full_res_padding"]) == (True, 16)
    assert picture.image.getpixel((5, 5)) == (255, 0, 0)  # white, and drawn where it is black


def test_strength_nought_keeps_the_picture_and_its_size_is_taken_where_none_is_given(webui: Webui) -> None:
    (kept,) = draw(webui, image=PHOTO, strength=0.0, width=None, height=None)
    (drawn,) = draw(webui, image=PHOTO, strength=1.0, width=None, height=None)

    assert kept.image.tobytes() == PICTURES[PHOTO].tobytes()
    assert drawn.image.tobytes() != kept.image.tobytes()
    assert kept.image.size == (64, 48)


def test_pictures_are_made_larger_by_the_servers_upscaler(webui: Webui) -> None:
    (picture,) = draw(webui, upscale=Upscale(factor=1.5, upscaler="Lanczos"))

    assert picture.image.size == (96, 72)


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (8, [3])])
def test_pictures_are_asked_for_one_by_one_or_several_at_a_time_with_the_same_seeds(
    webui: Webui, batch: int, sizes: list[int]
) -> None:
    pictures = list(a_driver(webui, together=batch).draw(an_order(n=3), lambda _: None))

    assert [body["batch_size"] for body in webui.bodies] == sizes
    assert [picture.seed for picture in pictures] == [7, 8, 9]
    assert pictures[2].image.tobytes() == draw(webui, seed=9)[0].image.tobytes()


def test_a_picture_tells_what_the_server_drew_it_with(webui: Webui) -> None:
    (picture,) = draw(webui)

    assert picture.drawn_with == {"driver": "automatic1111", "server": {"version": "v1.10.1"}}


def test_no_request_counts_beyond_the_last_seed(webui: Webui) -> None:
    pictures = list(a_driver(webui, together=4).draw(an_order(n=3, seed=2**32 - 2), lambda _: None))

    assert [(body["seed"], body["batch_size"]) for body in webui.bodies] == [(2**32 - 2, 2), (0, 1)]
    assert [picture.seed for picture in pictures] == [2**32 - 2, 2**32 - 1, 0]


def test_an_older_server_gets_the_schedule_in_the_samplers_name(webui: Webui) -> None:
    webui.samplers, webui.schedules = ("Euler a", "DPM++ 2M Karras"), None

    body = body_of(webui, scheduler="DPM++ 2M Karras")

    assert (body["sampler_name"], "scheduler" in body) == ("DPM++ 2M Karras", False)


@pytest.mark.parametrize("scheduler", ["TCD", "Euler Beta"])
def test_a_sampler_that_the_server_lacks_is_refused_and_not_replaced(webui: Webui, scheduler: str) -> None:
    with pytest.raises(NotHere, match="this Automatic1111 has no") as refused:
        draw(webui, scheduler=scheduler)

    assert not refused.value.permanent  # another machine may have it
    assert webui.bodies == []


@pytest.mark.parametrize(
    "asked",
    [{"remove_background": "cutter"}, {"safety_check": True}],
    ids=lambda asked: next(iter(asked)),
)
def test_what_it_cannot_do_is_refused_and_not_left_out(webui: Webui, asked: dict[str, Any]) -> None:
    order = an_order(**asked)
    cutter = ModelFiles("cutter", Path("cutter"), "p")

    with pytest.raises(NotHere, match="not with a remote Automatic1111"):
        list(a_driver(webui).draw(replace(order, companions={"cutter": cutter}), lambda _: None))

    assert webui.bodies == []


EDGES = Control(model_id="edges", image=PHOTO, kind="canny", weight=0.5, start=0.1, end=0.8, resize_mode="fill")


def test_controls_are_units_of_the_extension_where_the_server_has_it(webui: Webui) -> None:
    webui.controlnets = ("control_canny [d14c016b]",)

    (unit,) = body_of(webui, controls=(EDGES,))["alwayson_scripts"]["controlnet"]["args"]
    (annotated,) = body_of(webui, controls=(replace(EDGES, annotate=True),))["alwayson_scripts"]["controlnet"]["args"]

    assert (unit["model"], unit["module"], unit["weight"]) == ("control_canny [d14c016b]", "none", 0.5)
    assert (unit["guidance_start"], unit["guidance_end"], unit["resize_mode"]) == (0.1, 0.8, "Resize and Fill")
    assert decoded(unit["image"]).tobytes() == PICTURES[PHOTO].tobytes()
    assert annotated["module"] == "canny"


@pytest.mark.parametrize(
    ("has_it", "control", "words"),
    [
        (False, EDGES, "has no extension sd-webui-controlnet"),
        (True, replace(EDGES, kind="openpose", annotate=True), "makes no openpose from a photo"),
        (True, replace(EDGES, kind="mediapipe_pose", annotate=True), "makes no mediapipe_pose from a photo"),
    ],
)
def test_controls_that_the_server_cannot_take_are_refused_and_not_left_out(
    webui: Webui, has_it: bool, control: Control, words: str
) -> None:
    webui.controlnets = ("control_canny [d14c016b]",) if has_it else None

    with pytest.raises(NotHere, match=words):
        draw(webui, controls=(control,))

    assert webui.bodies == []


def test_a_page_in_place_of_the_extension_is_no_extension(webui: Webui) -> None:
    webui.has_pages = True

    assert len(draw(webui)) == 1
    with pytest.raises(NotHere, match="has no extension"):
        draw(webui, controls=(EDGES,))


def test_a_picture_that_is_only_made_larger_is_not_drawn(webui: Webui) -> None:
    given: dict[str, Any] = {"image": PHOTO, "strength": 0.0, "width": None, "height": None}

    (picture,) = draw(webui, upscale=Upscale(factor=1.5, upscaler="Lanczos"), **given)

    assert picture.image.size == (96, 72)
    assert picture.image.getpixel((5, 5)) == (255, 0, 0)
    assert webui.bodies == []
    assert "img2img" not in webui.asked


def test_a_companion_that_the_server_lacks_is_named(webui: Webui) -> None:
    with pytest.raises(NotHere, match="does not have unheard-of"):
        draw(webui, loras=(Lora(model_id="unheard-of"),))


def test_progress_and_previews_are_seen_while_it_draws(webui: Webui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.machine.drivers.a1111.watching.PREVIEW_SECONDS", 0.0)
    webui.step_seconds = 0.1
    seen: list[tuple[int, int, bool, tuple[int, int] | None]] = []

    def note(step: Step) -> None:
        if step.phase == "denoising":
            size = step.preview().size if step.preview else None
            seen.append((step.step, step.steps, bool(webui.state["job_count"]), size))

    draw(webui, note, steps=20)

    while_it_drew = [step for step, _, is_drawing, _ in seen if is_drawing]
    assert len(set(while_it_drew)) > 3
    assert [step for k, (step, *_) in enumerate(seen) if k == 0 or seen[k - 1][0] != step] == list(range(21))
    assert {steps for _, steps, _, _ in seen} == {20}
    assert (16, 16) in {size for *_, size in seen}


def test_both_passes_of_the_hires_fix_are_one_way(webui: Webui) -> None:
    webui.step_seconds = 0.05
    steps: list[Step] = []

    draw(webui, steps.append, steps=10, hires=Hires())

    told = [step.step for step in steps if step.phase == "denoising"]
    assert told == sorted(told)
    assert steps[-1].steps == 20


@pytest.mark.parametrize("when", ["loading", "denoising"])
def test_a_cancelled_drawing_is_interrupted_and_over_before_the_driver_goes_on(webui: Webui, when: str) -> None:
    webui.step_seconds, webui.loading_seconds = 0.05, 1.5 if when == "loading" else 0.0

    def stop(step: Step) -> None:
        if step.phase == when and webui.bodies:
            raise DrawingCancelled

    with pytest.raises(DrawingCancelled):
        draw(webui, stop, steps=150)

    assert webui.interrupted.is_set()
    assert webui.state["job_count"] == 0
    webui.step_seconds = webui.loading_seconds = 0.0
    assert len(draw(webui)) == 1


def test_skipping_is_passed_on_once_and_the_picture_says_so(webui: Webui) -> None:
    webui.step_seconds = 0.1

    def skip(step: Step) -> None:
        if step.skip is not None and step.image == 0:
            step.skip()
            webui.step_seconds = 0.0

    first, second = draw(webui, skip, n=2, steps=150)

    assert webui.asked.count("skip") == 1
    assert "interrupt" not in webui.asked
    assert first.skipped_after is not None
    assert 0 < first.skipped_after < 150
    assert second.skipped_after is None


def test_a_picture_that_somebody_else_interrupted_is_none(webui: Webui) -> None:
    webui.step_seconds = 0.05

    def interrupt(step: Step) -> None:
        if step.step > 0:
            webui.interrupted.set()

    with pytest.raises(ServerFailed, match="somebody interrupted"):
        draw(webui, interrupt, steps=100)


def refused(webui: Webui, **more: Any) -> MachineError:
    with pytest.raises(MachineError) as found:
        draw(webui, **more)
    return found.value


def test_what_it_refuses_is_told_in_its_own_words_and_for_good(webui: Webui) -> None:
    problem = refused(webui, steps=500)

    assert isinstance(problem, CannotDraw)
    assert problem.permanent
    assert "422: body.steps: Input should be less than or equal to 150" in str(problem)


def test_running_out_of_memory_is_that_and_keeps_its_words(webui: Webui) -> None:
    webui.fails = [OUT_OF_MEMORY]

    problem = refused(webui)

    assert isinstance(problem, OutOfMemory)
    assert not problem.permanent
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB" in str(problem)


def test_a_frugal_drawing_asks_for_one_picture_at_a_time_and_memory_is_given_back(webui: Webui) -> None:
    driver = a_driver(webui, together=4)
    list(driver.draw(an_order(n=2), lambda _: None))
    held = driver.loaded()

    driver.free()
    list(driver.draw(replace(an_order(n=2), frugal=True), lambda _: None))

    assert held == ["dream"]
    assert [body["batch_size"] for body in webui.bodies] == [2, 1, 1]
    assert "unload-checkpoint" in webui.asked


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (HTML, "text/html instead of JSON"),
        (GARBAGE, "instead of JSON"),
        ((200, "application/json", b"[]"), "no list of images"),
        ((200, "application/json", b'{"images": [], "info": "{}"}'), "0 of 1 pictures came back"),
        ((200, "application/json", b'{"images": ["AAAA"], "info": "{}"}'), "cannot be read"),
        ((200, "application/json", b'{"images": ["%%%"], "info": "{}"}'), "cannot be read"),
        ((502, "text/html", b"<h1>Bad Gateway</h1>"), "502: Bad Gateway"),
        ((500, "application/json", b'{"error": "RuntimeError", "detail": "", "errors": "mat1"}'), "RuntimeError: mat1"),
    ],
    ids=["html", "garbage", "list", "nothing", "bytes", "no base64", "gateway", "crash"],
)
def test_what_cannot_be_understood_is_no_picture_and_may_be_tried_again(
    webui: Webui, answer: tuple[int, str, bytes], words: str
) -> None:
    webui.fails = [answer]

    problem = refused(webui)

    assert isinstance(problem, ServerFailed)
    assert not problem.permanent
    assert words in str(problem)
    assert len(draw(webui)) == 1


def test_a_drawing_that_a_proxy_gave_up_waiting_for_is_stopped(webui: Webui) -> None:
    webui.fails = [(504, "text/html", b"<h1>Gateway Time-out</h1>")]

    refused(webui)

    assert webui.interrupted.is_set()


def test_a_picture_of_another_size_is_refused(webui: Webui) -> None:
    webui.misdraws = True

    assert "of 64x48 was ordered, and one of 32x48 came back" in str(refused(webui))


def test_no_secret_and_no_picture_stands_in_an_error(webui: Webui) -> None:
    webui.auth = f"me:{SECRET}"
    told = f'{{"error": "X", "detail": "", "errors": "{SECRET} {"A" * 500} end"}}'.encode()
    webui.fails = [(500, "application/json", told)]
    driver = a_driver(webui, server_auth=webui.auth)

    with pytest.raises(ServerFailed) as found:
        list(driver.draw(an_order(), lambda _: None))

    assert str(found.value).endswith("500: X: *** … end")


def test_a_password_may_stand_in_the_address_and_is_never_shown(webui: Webui) -> None:
    webui.auth = f"me:{SECRET}"
    address = webui.url.replace("//", f"//me:{SECRET}@")
    driver = Automatic1111Driver(DriverSettings(server_url=address))

    assert len(list(driver.draw(an_order(), lambda _: None))) == 1
    assert SECRET not in str(driver.device())


def test_a_wrong_password_gives_the_job_back_and_says_what_to_set(webui: Webui) -> None:
    webui.auth = f"me:{SECRET}"
    driver = a_driver(webui, server_auth="me:guess")

    with pytest.raises(ModelNotProven, match=r"401: Incorrect username or password; A1111_AUTH") as found:
        list(driver.draw(an_order(), lambda _: None))

    assert "guess" not in str(found.value)


def test_a_server_that_is_away_gives_the_job_back(webui: Webui) -> None:
    driver = a_driver(webui)
    list(driver.draw(an_order(), lambda _: None))
    webui.close()

    with pytest.raises(ServerAway, match="does not answer"):
        list(driver.draw(an_order(), lambda _: None))


def test_a_server_that_dies_while_it_draws_costs_a_try(webui: Webui) -> None:
    webui.breaks = True

    problem = refused(webui)

    assert isinstance(problem, ServerGone)
    assert not isinstance(problem, ModelNotProven)


def test_a_server_that_falls_silent_while_it_draws_is_gone(webui: Webui, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.machine.drivers.a1111.watching.STOP_SECONDS", 0.1)
    webui.step_seconds = 0.1
    driver = a_driver(webui, server_away_seconds=0.5)

    def fall_silent(step: Step) -> None:
        webui.deaf = webui.deaf or step.step == 2

    with pytest.raises(ServerGone, match="was silent for"):
        list(driver.draw(an_order(steps=100), fall_silent))


def test_a_drawing_that_takes_too_long_is_stopped(webui: Webui) -> None:
    webui.step_seconds = 0.1
    driver = a_driver(webui, server_seconds=0.5)

    with pytest.raises(ServerFailed, match="A1111_TIMEOUT_SECONDS"):
        list(driver.draw(an_order(steps=100), lambda _: None))

    wait_until(lambda: webui.state["job_count"] == 0, "it stopped")
    assert webui.interrupted.is_set()


def test_its_memory_is_the_machines(webui: Webui) -> None:
    driver = a_driver(webui)

    assert driver.device() == {
        "type": "remote",
        "name": f"Automatic1111 at {webui.url}",
        "memory_total": 8 * 10**9,
        "memory_free": 3 * 10**9,
    }
