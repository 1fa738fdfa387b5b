"""Unmodified Automatic1111 clients before a real `imagefleet up`, whose machine draws colour fields."""

import base64
import io
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import webuiapi
from PIL import Image

from tests.services.conftest import SECOND_TOKEN
from tests.support.processes import WAIT_SECONDS, Process, free_port, wait_until
from tests.support.servers import ANSWER_SECONDS, DEMO, ENDED, Up, environ_of

AUTOMATIC1111S_OWN_PORT = 7860

SLOW_STEPS = 140
"""Of 50 ms each: seven seconds."""

MANY = 10
"""So many slow pictures are under way for longer than any computer is late; whoever has seen enough interrupts them."""

TRIES = 5
"""How often it is tried to come in time for one slow picture."""

WAITING = 24
"""Clients that wait at the same time, half of them at each port."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Start a fleet that is open to everybody on this computer, and draws colour fields."""
    fleet = Up(
        tmp_path_factory.mktemp("open"), environ={"DRIVER": "fake", "FAKE_STEP_SECONDS": "0.05", "MACHINE_ID": "easel"}
    )
    try:
        fleet.process.wait_for_line("ready    demo-shapes")
        yield fleet
    finally:
        fleet.process.stop()


@pytest.fixture(params=["root of the second port", "path of the main port"])
def client(request: pytest.FixtureRequest, fleet: Up) -> webuiapi.WebUIApi:
    """Return a client of the open fleet; both ways in are the same."""
    if request.param == "root of the second port":
        return webuiapi.WebUIApi(port=fleet.a1111_port)
    return webuiapi.WebUIApi(baseurl=f"http://127.0.0.1:{fleet.port}/a1111/sdapi/v1")


@contextmanager
def kept_busy(fleet: Up) -> Iterator[None]:
    """Let the machine draw something else as long as the block lasts, two minutes at most."""
    job_id = fleet.post("v1/jobs", {"model_id": DEMO, "prompt": "else", "steps": 150, "n": 16})["job_id"]
    try:
        wait_until(lambda: fleet.get(f"v1/jobs/{job_id}")["progress"], "the machine draws it")
        yield
    finally:
        fleet.post(f"v1/jobs/{job_id}/cancel", {})


@contextmanager
def in_background(ask: Callable[[], Any]) -> Iterator[list[Any]]:
    """Ask in a thread; the list holds the answer in the end."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ask()))
    thread.start()
    try:
        yield answers
    finally:
        thread.join(WAIT_SECONDS)


def test_pictures_have_the_size_and_the_number_that_was_asked_for(client: webuiapi.WebUIApi) -> None:
    result = client.txt2img(prompt="a field", width=96, height=160, batch_size=2, n_iter=2, steps=2, seed=41)

    assert [image.size for image in result.images] == [(96, 160)] * 4
    assert result.info["all_seeds"] == [41, 42, 43, 44]
    assert (result.info["width"], result.info["height"], result.info["steps"]) == (96, 160, 2)
    assert (result.info["sampler_name"], result.parameters["prompt"]) == ("Euler a", "a field")


def test_the_same_seed_draws_the_same_picture_and_another_one_another(client: webuiapi.WebUIApi) -> None:
    drawn = [client.txt2img(prompt="a field", seed=seed, steps=2, width=64, height=64) for seed in (7, 7, 8)]

    first, again, other = (result.image.tobytes() for result in drawn)
    assert first == again
    assert first != other


def test_a_random_seed_can_be_used_again(client: webuiapi.WebUIApi) -> None:
    random = client.txt2img(prompt="a field", steps=2, width=64, height=64)

    again = client.txt2img(prompt="a field", steps=2, width=64, height=64, seed=random.info["seed"])

    assert random.info["seed"] >= 0
    assert again.image.tobytes() == random.image.tobytes()


def test_a_picture_tells_how_it_was_drawn(client: webuiapi.WebUIApi) -> None:
    drawn = client.txt2img(prompt="a field of clover", seed=5, steps=3, width=64, height=64)

    told = client.png_info(drawn.image)

    assert told.info.startswith("a field of clover")
    assert told.parameters["Seed"] == "5"
    assert told.parameters["Steps"] == "3"


def test_progress_moves_while_a_picture_is_drawn_and_then_rests(client: webuiapi.WebUIApi) -> None:
    seen: list[float] = []
    shown: list[Image.Image] = []

    def look() -> bool:
        known = client.get_progress()
        if known["current_image"]:
            shown.append(Image.open(io.BytesIO(base64.b64decode(known["current_image"]))))
        if known["progress"]:
            assert known["state"]["job_count"] == MANY
            assert known["eta_relative"] >= 0
            seen.append(known["progress"])
        return len(set(seen)) > 5 and bool(shown)

    order = {"prompt": "a slow field", "steps": SLOW_STEPS, "n_iter": MANY, "width": 64, "height": 64}
    with in_background(lambda: client.txt2img(**order)):
        wait_until(look, "it is seen growing while it is drawn")
        client.interrupt()

    assert seen == sorted(seen)
    assert all(0 < progress <= 1 for progress in seen)
    assert client.get_progress()["state"]["job_count"] == 0


def test_interrupting_stops_the_drawing_and_the_waiting_client_gets_what_was_drawn(
    client: webuiapi.WebUIApi, fleet: Up
) -> None:
    order = {"prompt": "a slow field", "steps": SLOW_STEPS, "n_iter": MANY, "width": 64, "height": 64}
    with in_background(lambda: client.txt2img(**order)) as answers:
        wait_until(lambda: client.get_progress()["current_image"], "something is to be seen of it")
        answer = client.interrupt()

    newest = requests.get(f"http://127.0.0.1:{fleet.port}/v1/jobs?limit=1", timeout=ANSWER_SECONDS).json()["jobs"][0]
    assert answer == {}
    assert 0 < len(answers[0].images) == len(answers[0].info["infotexts"]) < MANY
    assert {image.size for image in answers[0].images} == {(64, 64)}
    assert newest["status"] == "cancelled"
    assert client.txt2img(prompt="the next", steps=2, width=64, height=64).image.size == (64, 64)


def test_skipping_ends_the_picture_being_drawn_and_the_others_of_its_order_are_drawn(
    client: webuiapi.WebUIApi, fleet: Up
) -> None:
    order = {"prompt": "a slow field", "seed": 90, "steps": SLOW_STEPS, "n_iter": 2, "width": 64, "height": 64}
    for _ in range(TRIES):
        with in_background(lambda: client.txt2img(**order)) as answers:
            wait_until(lambda: client.get_progress()["state"]["sampling_step"] > 0, "the drawing has begun")
            said = client.skip()

        newest = fleet.get("v1/jobs?limit=1")["jobs"][0]
        skipped = ["skipped after step" in " ".join(image["notes"]) for image in newest["images"]]
        assert said is None
        assert len(answers[0].images) == 2
        assert newest["status"] == "completed"
        if skipped[0]:
            break  # else it came too late
    assert skipped == [True, False]


def test_everything_that_a_client_lists_can_be_read(client: webuiapi.WebUIApi) -> None:
    assert [model["model_name"] for model in client.get_sd_models()] == ["demo-shapes"]
    assert client.util_get_model_names()[0].startswith("demo-shapes.dduf [")
    assert "Euler a" in [sampler["name"] for sampler in client.get_samplers()]
    assert "Karras" in [schedule["label"] for schedule in client.get_schedulers()]
    assert client.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert client.get_loras() == client.get_sd_vae() == client.get_hypernetworks() == []
    assert client.get_face_restorers() == client.get_realesrgan_models() == client.get_prompt_styles() == []
    assert [upscaler["name"] for upscaler in client.get_upscalers()] == ["None", "Lanczos", "Nearest"]
    assert {"ram", "cuda"} <= set(client.get_memory())
    assert client.get_cmd_flags()["api"] is True
    assert client.get_scripts() == {"txt2img": ["controlnet"], "img2img": ["controlnet"]}
    assert client.refresh_checkpoints() is None
    assert client.skip() is None


def test_the_extension_for_controlnets_is_beside_the_api(fleet: Up) -> None:
    client = webuiapi.WebUIApi(port=fleet.a1111_port)  # it asks at the root of a host, whatever its base is

    assert client.controlnet_version() == 2
    assert client.controlnet_model_list() == []
    assert "canny" in client.controlnet_module_list()
    seen = client.controlnet_detect([Image.new("RGB", (64, 48), "red")], module="canny")
    assert [image.size for image in seen.images] == [(64, 48)]


def test_a_client_chooses_its_model(client: webuiapi.WebUIApi) -> None:
    client.util_set_model("demo-shapes")

    assert client.util_get_current_model().startswith("demo-shapes.dduf [")
    client.util_wait_for_ready(check_interval=0.1)
    assert client.txt2img(prompt="x", steps=2).info["sd_model_name"] == "demo-shapes"


def test_what_cannot_be_drawn_is_an_error_that_says_why(client: webuiapi.WebUIApi) -> None:
    with pytest.raises(RuntimeError, match="Sampler not found"):
        client.txt2img(prompt="x", sampler_name="Crayon")
    with pytest.raises(RuntimeError, match="could not find upscaler named Crayon"):
        client.txt2img(prompt="x", enable_hr=True, hr_upscaler="Crayon")


def test_a_client_draws_from_a_picture_over_its_mask_and_larger(client: webuiapi.WebUIApi) -> None:
    red, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)

    begun = client.img2img(images=[red], prompt="a field", steps=2, denoising_strength=0.4, width=64, height=96)
    inpainted = client.img2img(images=[red], mask_image=mask, prompt="a field", steps=2, inpainting_fill=1)
    larger = client.txt2img(prompt="a field", steps=2, width=64, height=64, enable_hr=True, hr_scale=2)

    assert (begun.image.size, begun.info["denoising_strength"]) == ((64, 96), 0.4)
    assert inpainted.info["extra_generation_params"]["Inpaint area"] == "Only masked"
    assert larger.image.size == (128, 128)
    assert "Hires upscaler: Latent" in larger.info["infotexts"][0]
    assert [each["name"] for each in client.get_upscalers()][:3] == ["None", "Lanczos", "Nearest"]
    with pytest.raises(RuntimeError, match="several pictures"):
        client.img2img(images=[red, red], prompt="x")


def test_pictures_are_made_larger_and_stay_what_they_are(client: webuiapi.WebUIApi) -> None:
    photos = [Image.new("RGB", (50 + k, 30), colour) for k, colour in enumerate(("red", "blue"))]

    one = client.extra_single_image(photos[0], upscaler_1="Lanczos", upscaling_resize=2)
    fitted = client.extra_single_image(
        photos[0], resize_mode=1, upscaling_resize_w=90, upscaling_resize_h=90, upscaler_1="Nearest"
    )
    several = client.extra_batch_images(photos, upscaler_1="Nearest", upscaling_resize=1.5)

    assert (one.image.size, one.image.getpixel((9, 9))) == ((100, 60), (255, 0, 0))
    assert fitted.image.size == (90, 90)
    assert [image.size for image in several.images] == [(75, 45), (76, 45)]
    assert [image.getpixel((9, 9)) for image in several.images] == [(255, 0, 0), (0, 0, 255)]
    with pytest.raises(RuntimeError, match="CodeFormer"):
        client.extra_single_image(photos[0], upscaler_1="Lanczos", codeformer_visibility=1)
    with pytest.raises(RuntimeError, match="501"):
        client.interrogate(photos[0])


def test_settings_are_kept_and_a_unit_that_cannot_be_found_is_told(client: webuiapi.WebUIApi) -> None:
    client.set_options({"CLIP_stop_at_last_layers": 2, "samples_format": "png"})
    unit = webuiapi.ControlNetUnit(image=Image.new("RGB", (64, 64)), model="nobody's")

    drawn = client.txt2img(prompt="x", steps=2, width=64, height=64)
    client.set_options({"CLIP_stop_at_last_layers": 1})

    assert drawn.info["clip_skip"] == 2
    assert client.get_options()["CLIP_stop_at_last_layers"] == 1
    with pytest.raises(RuntimeError, match=r"ControlNet .+ not found"):
        # This client puts units into its own default for all calls to come, unless it is given something else.
        client.txt2img(prompt="x", controlnet_units=[unit], alwayson_scripts={})


def test_a_token_comes_in_as_a_password_and_others_do_not(up: Up) -> None:
    welcome = webuiapi.WebUIApi(port=up.a1111_port, username="anybody", password=up.token, steps=2)
    stranger = webuiapi.WebUIApi(port=up.a1111_port, username="anybody", password="guess", steps=2)

    with pytest.raises(RuntimeError, match="401"):
        stranger.txt2img(prompt="x")
    assert welcome.txt2img(prompt="x", width=64, height=64).image.size == (64, 64)


def test_no_client_sees_or_stops_the_drawing_of_another(up: Up) -> None:
    first = webuiapi.WebUIApi(port=up.a1111_port, username="a", password=up.token, steps=SLOW_STEPS)
    second = webuiapi.WebUIApi(port=up.a1111_port, username="b", password=SECOND_TOKEN)

    with in_background(lambda: first.txt2img(prompt="a slow field", n_iter=MANY, width=64, height=64)) as answers:
        wait_until(lambda: first.get_progress()["progress"] > 0, "the drawing has begun")
        seen = second.get_progress()["state"]["job_count"]
        second.interrupt()
        before = first.get_progress()["progress"]
        wait_until(lambda: first.get_progress()["progress"] > before > 0, "the drawing goes on")
        first.interrupt()

    assert seen == 0
    assert len(answers[0].images) < MANY


def test_many_waiting_clients_leave_both_ports_free_for_others(fleet: Up) -> None:
    urls = [f"http://127.0.0.1:{fleet.port}/a1111", f"http://127.0.0.1:{fleet.a1111_port}"]
    order = {"prompt": "a queue", "steps": 2, "width": 64, "height": 64}
    statuses: list[int] = []

    def ask(url: str) -> None:
        statuses.append(requests.post(f"{url}/sdapi/v1/txt2img", json=order, timeout=WAIT_SECONDS).status_code)

    def waiting() -> int:
        found = fleet.get("v1/jobs?limit=100")["jobs"]
        return sum(job["parameters"]["prompt"] == "a queue" and job["status"] not in ENDED for job in found)

    threads = [threading.Thread(target=ask, args=(url,)) for url in urls for _ in range(WAITING // len(urls))]
    with kept_busy(fleet):  # nobody is given a picture: who waits goes on waiting
        for thread in threads:
            thread.start()
        wait_until(lambda: waiting() + len(statuses) >= WAITING, "all of them wait, or were sent away")
        quick = [
            requests.get(f"{url}/sdapi/v1/samplers", timeout=ANSWER_SECONDS).status_code
            for url in urls
            for _ in range(20)
        ]
        sent_away = list(statuses)
    for thread in threads:
        thread.join(WAIT_SECONDS)

    assert set(quick) == {200}
    assert set(sent_away) <= {503}, "nobody had been given a picture while the others were answered"
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 12


def test_a_taken_port_is_told_and_the_fleet_goes_on_without_it(tmp_path: Path) -> None:
    told = f"off      port {AUTOMATIC1111S_OWN_PORT} of 127.0.0.1 cannot be had"
    for number in range(TRIES):
        with socket.socket() as another:
            with suppress(OSError):  # then somebody else has it, which is the same for as long as he keeps it
                another.bind(("127.0.0.1", AUTOMATIC1111S_OWN_PORT))
                another.listen()
            said = said_at_the_start(tmp_path / str(number))
        if told in said:
            break

    assert told in said
    assert "--a1111-port" in said


def said_at_the_start(folder: Path) -> str:
    """Start a fleet that was told nothing of its second port; returns what it says until it serves."""
    folder.mkdir()
    command = [sys.executable, "-m", "app.cli", "up", "--no-machine", "--port", str(free_port())]
    process = Process(command, folder / "log", environ=environ_of(folder), cwd=folder)
    try:
        process.wait_for_line("Ctrl-C stops")
        return process.said()
    finally:
        process.stop()


@pytest.mark.parametrize("how", ["option", "environment", "main port"])
def test_a_taken_port_that_was_asked_for_is_an_error(how: str, tmp_path: Path) -> None:
    with socket.socket() as another:
        another.bind(("127.0.0.1", 0))
        another.listen()
        taken, port = str(another.getsockname()[1]), str(free_port())
        more = {"option": ["--a1111-port", taken], "main port": ["--a1111-port", port]}.get(how, [])
        command = [sys.executable, "-m", "app.cli", "up", "--port", port, *more]
        environ = environ_of(tmp_path, **({"A1111_PORT": taken} if how == "environment" else {}))
        process = Process(command, tmp_path / "log", environ=environ, cwd=tmp_path)
        status = process.wait()

    assert status == 2
    assert "choose another with --a1111-port" in process.said()


def test_without_a_second_port_nothing_listens_there(tmp_path: Path) -> None:
    one = Up(tmp_path, "--no-machine", environ={"A1111_PORT": "0"})
    try:
        one.wait_until_serving()
        names = [each["name"] for each in one.get("a1111/sdapi/v1/samplers")]
    finally:
        one.process.stop()

    assert "Euler a" in names
    assert "a1111" not in one.process.said()
