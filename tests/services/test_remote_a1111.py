"""The closed loop: a client → our door → queue → the driver automatic1111 → our door → queue → diffusers.

Two servers of real processes: the one that clients know, and the one that draws, which is taken away and brought back.
"""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import requests
import webuiapi
import yaml
from PIL import Image, ImageDraw

from app import catalogue
from tests.shape_checker import check
from tests.support.processes import free_port, wait_until
from tests.support.servers import ANSWER_SECONDS, Up

DEMO = "demo-shapes"
PROMPT = "a red circle on a blue background"
SECRET = "wash-your-brushes"
MANY_STEPS = 150

pytestmark = pytest.mark.timeout(900)


@dataclass
class Loop:
    """Two servers: the one that clients know, and the one that draws for it."""

    folder: Path
    front: Up
    back: Up
    front_port: int
    back_port: int
    networks: list[dict[str, Any]]
    """Entries of a LoRA and a ControlNet that only the server which draws has in its catalogue."""

    def start_back(self) -> Up:
        """Start the server that draws, or bring it back where it was."""
        environ = {
            "A1111_PORT": str(self.back_port),
            "API_TOKENS": SECRET,
            "MACHINE_TOKEN": "wrench",
            "DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",  # the model is so small that several threads only wait for each other
        }
        (self.folder / "back").mkdir(exist_ok=True)
        (self.folder / "back" / "config.yaml").write_text(yaml.safe_dump({"models": self.networks}))
        self.back = Up(self.folder / "back", environ=environ)
        self.back.token = SECRET
        return self.back

    def start_front(self) -> Up:
        """Start the server that has no model, no GPU and no diffusers: only an address."""
        environ = {
            "A1111_PORT": str(self.front_port),
            "DRIVER": "automatic1111",
            "A1111_BASE_URL": f"http://127.0.0.1:{self.back_port}",
            "A1111_AUTH": f"imagefleet:{SECRET}",
            "MACHINE_ID": "asker",
            "MAX_STEPS": "500",
        }
        self.front = Up(self.folder / "front", environ=environ)
        return self.front

    def order(self, **more: Any) -> str:
        """Order pictures of the server that clients know."""
        job = self.front.post("v1/jobs", {"model_id": DEMO, "prompt": PROMPT, "seed": 1} | more)
        return str(job["job_id"])

    def drawn(self, job_id: str) -> list[Image.Image]:
        """Wait for the pictures of a job."""
        done = self.front.ended(job_id)
        assert done["status"] == "completed", done
        return [Image.open(io.BytesIO(requests.get(i["url"], timeout=ANSWER_SECONDS).content)) for i in done["images"]]

    def jobs_behind(self) -> Any:
        """Return what was ordered of the server that draws, the newest first."""
        return self.back.get("v1/jobs?limit=50")["jobs"]


def networks(folder: Path) -> list[dict[str, Any]]:
    """Make a LoRA and a ControlNet for the demo model that change its pictures; returns their catalogue entries."""
    from tests.support import zoo_companions  # noqa: PLC0415  # imports torch: other tests need not wait
    from tests.support.zoo_networks import matrices, peft  # noqa: PLC0415  # as above

    demo, edges = folder / "demo", folder / "edges.safetensors"
    with zipfile.ZipFile(catalogue.artifacts() / f"{DEMO}.dduf") as packed:
        packed.extractall(demo)
    spots = peft(matrices(demo, text=False), folder / "spots.safetensors")
    zoo_companions.controlnet("sd15", demo, folder / "edges")
    zoo_companions.controlnet_file(folder / "edges", demo, edges)
    return [an_entry(spots, "lora"), an_entry(edges, "controlnet", tags=["canny"])]


def an_entry(path: Path, kind: str, **more: Any) -> dict[str, Any]:
    digest = sha256(path.read_bytes()).hexdigest()
    about = {"id": path.stem, "name": path.name, "kind": kind, "hash": digest, **more}
    return {**about, "download_url": f"file://{path}"}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """Start both, and wait until the first one is ready for what the second one has."""
    folder = tmp_path_factory.mktemp("loop")
    found = Loop(folder, None, None, free_port(), free_port(), networks(folder))  # type: ignore[arg-type]  # they are started below
    found.start_back()
    found.start_front()
    try:
        found.front.wait_until_serving()
        wait_for(found, "ready")
        yield found
    finally:
        found.front.process.cut_off()
        found.back.process.cut_off()


def wait_for(loop: Loop, state: str) -> dict[str, Any]:
    wait_until(lambda: loop.front.holding(DEMO)["state"] == state, f"{DEMO} is {state}")
    return loop.front.holding(DEMO)


def test_an_unmodified_client_gets_the_picture_that_it_asked_for(loop: Loop) -> None:
    client = webuiapi.WebUIApi(port=loop.front_port)

    drawn = client.txt2img(prompt=PROMPT, seed=1, width=128, height=128, steps=20, sampler_name="Euler", n_iter=2)

    assert [image.size for image in drawn.images] == [(128, 128)] * 2
    assert any(not check(image, PROMPT).wrong for image in drawn.images)
    assert drawn.info["all_seeds"] == [1, 2]
    assert [model["model_name"] for model in client.get_sd_models()] == [DEMO]


def test_a_picture_and_its_mask_go_all_the_way_and_outside_of_the_mask_nothing_changes(loop: Loop) -> None:
    client = webuiapi.WebUIApi(port=loop.front_port)
    photo = Image.new("RGB", (128, 128), (0, 200, 0))
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (64, 0, 128, 128))
    given = {"prompt": PROMPT, "steps": 8, "width": 128, "height": 128, "seed": 1, "sampler_name": "Euler"}

    drawn = client.img2img(
        images=[photo], mask_image=mask, mask_blur=0, denoising_strength=1.0, inpaint_full_res=False, **given
    )

    image = drawn.image.convert("RGB")
    assert {image.getpixel((x, y)) for x in range(0, 60, 10) for y in range(0, 128, 16)} == {(0, 200, 0)}
    assert len({image.getpixel((x, y)) for x in range(70, 128, 10) for y in range(0, 128, 16)}) > 3
    assert loop.jobs_behind()[0]["parameters"]["mask"]["blur"] == 0


def test_the_hires_fix_and_upscaling_are_done_behind(loop: Loop) -> None:
    (larger,) = loop.drawn(loop.order(steps=4, width=128, height=128, hires={"scale": 1.5, "upscaler": "Lanczos"}))

    assert larger.size == (192, 192)
    assert loop.jobs_behind()[0]["parameters"]["hires"]["scale"] == 1.5


def test_a_lora_of_the_server_behind_is_known_here_and_drawn_with(loop: Loop) -> None:
    def draw(weight: float | None) -> bytes:
        tag = "" if weight is None else f" <lora:spots:{weight:g}>"
        return loop.drawn(loop.order(prompt=PROMPT + tag, steps=4))[0].tobytes()

    entry = loop.front.get("v1/models/spots")
    without, nothing, full = draw(None), draw(0.0), draw(1.0)

    assert (entry["kind"], entry["machines_ready"]) == ("lora", ["asker"])
    assert without == nothing
    assert full != without
    assert loop.jobs_behind()[0]["parameters"]["loras"][0]["model_id"] == "spots"


def test_a_client_steers_with_the_controlnet_of_the_server_behind(loop: Loop) -> None:
    client = webuiapi.WebUIApi(port=loop.front_port)
    ring = Image.new("RGB", (192, 96))
    ImageDraw.Draw(ring).ellipse((40, 10, 150, 80), outline="white", width=6)
    (edges,) = client.controlnet_model_list()

    def draw(**unit: Any) -> bytes:
        units = [webuiapi.ControlNetUnit(image=ring, model=edges, **unit)] if unit else []
        order: dict[str, Any] = {"prompt": PROMPT, "seed": 1, "steps": 4, "width": 128, "height": 128}
        # This client puts units into its own default for all calls to come, unless it is given something else.
        return bytes(client.txt2img(controlnet_units=units, alwayson_scripts={}, **order).image.tobytes())

    plain, without, steered, annotated = draw(), draw(weight=0.0), draw(weight=1.0), draw(module="canny", weight=1.0)

    assert edges == "edges"
    assert plain == without
    assert len({plain, steered, annotated}) == 3
    (control,) = loop.jobs_behind()[0]["parameters"]["controls"]
    assert (control["model_id"], control["annotate"], control["resize_mode"]) == ("edges", True, "fill")


def test_a_picture_of_any_size_is_made_larger_behind_and_not_drawn(loop: Loop) -> None:
    client = webuiapi.WebUIApi(port=loop.front_port)
    photo = Image.effect_noise((51, 33), 80).convert("RGB")
    before = loop.jobs_behind()[0]

    larger = client.extra_single_image(photo, upscaler_1="Nearest", upscaling_resize=2)
    several = client.extra_batch_images([photo, photo.rotate(180)], upscaler_1="Nearest", upscaling_resize=3)

    assert larger.image.size == (102, 66)
    assert larger.image.resize(photo.size, Image.Resampling.NEAREST).tobytes() == photo.tobytes()
    back = [image.resize(photo.size, Image.Resampling.NEAREST).tobytes() for image in several.images]
    assert back == [photo.tobytes(), photo.rotate(180).tobytes()]
    assert loop.jobs_behind()[0]["parameters"]["upscale"] == {"factor": 3.0, "upscaler": "Nearest"}
    assert loop.jobs_behind()[0]["job_id"] != before["job_id"]


def test_drawing_from_a_picture_changes_it_and_its_seed_decides_how(loop: Loop) -> None:
    client = webuiapi.WebUIApi(port=loop.front_port)
    photo = Image.new("RGB", (128, 128), (0, 200, 0))

    def draw(seed: int) -> bytes:
        size = {"width": 128, "height": 128}
        order: dict[str, Any] = {"prompt": PROMPT, "steps": 8, "denoising_strength": 0.7, "seed": seed, **size}
        return bytes(client.img2img(images=[photo], **order).image.convert("RGB").tobytes())

    first, again, other = draw(1), draw(1), draw(2)

    assert first == again
    assert len({first, other, photo.tobytes()}) == 3


def test_the_same_seed_draws_through_both_servers_what_it_draws_with_one(loop: Loop) -> None:
    order = {"seed": 5, "steps": 8, "width": 128, "height": 128, "scheduler": "Euler", "guidance_scale": 5.0, "n": 2}

    through_both = loop.drawn(loop.order(**order))
    behind = loop.back.post("v1/jobs", {"model_id": DEMO, "prompt": PROMPT, "clip_skip": 1} | order)
    done = loop.back.ended(behind["job_id"])

    headers = {"Authorization": f"Bearer {SECRET}"}
    alone = [requests.get(image["url"], headers=headers, timeout=ANSWER_SECONDS).content for image in done["images"]]
    assert [image.tobytes() for image in through_both] == [Image.open(io.BytesIO(each)).tobytes() for each in alone]


def test_the_model_is_known_by_its_hash_and_its_machine_by_the_server_behind_it(loop: Loop) -> None:
    (machine,) = loop.front.get("v1/machines")["machines"]
    done = loop.front.ended(loop.order(steps=2))

    assert [model["model_id"] for model in machine["models"] if model["state"] == "ready"] == [DEMO, "edges", "spots"]
    assert machine["device"]["name"] == f"Automatic1111 at http://127.0.0.1:{loop.back_port}"
    assert done["attempts"][0]["machine_id"] == "asker"


def test_progress_is_that_of_the_server_behind(loop: Loop) -> None:
    job_id = loop.order(steps=MANY_STEPS, n=16, width=256, height=256)
    seen: set[int] = set()

    def look() -> bool:
        if running := loop.front.get(f"v1/jobs/{job_id}")["running"]:
            seen.add(running["step"])
        return len({step for step in seen if 0 < step < MANY_STEPS}) > 3

    wait_until(look, "it goes on step by step")
    loop.front.post(f"v1/jobs/{job_id}/cancel", {})
    wait_until(lambda: loop.jobs_behind()[0]["status"] == "cancelled", "it is cancelled behind")


def test_a_cancelled_job_is_cancelled_behind_too(loop: Loop) -> None:
    job_id = loop.order(steps=MANY_STEPS, n=16, width=256, height=256)
    wait_until(lambda: loop.front.get(f"v1/jobs/{job_id}")["progress"] > 0, "it is being drawn")

    loop.front.post(f"v1/jobs/{job_id}/cancel", {})

    wait_until(lambda: loop.jobs_behind()[0]["status"] == "cancelled", "it is cancelled behind")
    assert loop.drawn(loop.order(steps=2))[0].size == (128, 128)


def test_what_the_server_behind_refuses_ends_the_job_with_its_words(loop: Loop) -> None:
    done = loop.front.ended(loop.order(steps=200))

    assert (done["status"], done["error"]["code"]) == ("error", "cannot_draw")
    assert "422: body.steps: is 200; this server's limit is 150" in done["error"]["message"]
    assert len(done["attempts"]) == 1
    assert SECRET not in str(done)


def test_a_server_that_goes_away_takes_its_machine_off_the_queues_until_it_returns(loop: Loop) -> None:
    loop.back.process.cut_off()  # told to stop, it would first say that it has no model any more

    away = wait_for(loop, "error")
    job_id = loop.order(steps=2)
    waiting = loop.front.get(f"v1/jobs/{job_id}")
    loop.start_back()
    wait_for(loop, "ready")

    assert "no longer ready for demo-shapes" in loop.front.process.said()
    assert "does not answer" in away["error"]["message"]
    assert waiting["status"] == "queued"
    assert "does not answer" in waiting["waiting_for"]
    assert len(loop.drawn(job_id)) == 1


def test_no_secret_stands_in_any_log(loop: Loop) -> None:
    assert "ready for demo-shapes" in loop.front.process.said()
    assert SECRET not in loop.front.process.said()
