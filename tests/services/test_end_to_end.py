"""The whole way with real processes: server, broker, provisioning, worker, diffusers, prompt to pixels."""

import base64
import io
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.core.spec import SCHEDULERS
from tests.api.test_fuzz import LONG, pictures, real_pictures
from tests.shape_checker import check
from tests.support.processes import command_of, wait_until
from tests.support.servers import ANSWER_SECONDS, DEMO, Up

PROMPT = "a red circle on a blue background"

pytestmark = pytest.mark.timeout(900)


def bearer(up: Up) -> dict[str, str]:
    return {"Authorization": f"Bearer {up.token}"}


def wait_for(up: Up, model_id: str, state: str) -> dict[str, Any]:
    wait_until(lambda: up.holding(model_id)["state"] == state, f"{model_id} is {state}")
    return up.holding(model_id)


def draw(up: Up, prompt: str = PROMPT, **more: Any) -> tuple[dict[str, Any], list[Image.Image]]:
    job = up.post("v1/jobs", {"model_id": DEMO, "prompt": prompt, "seed": 1} | more)
    done: dict[str, Any] = up.ended(job["job_id"])
    files = [requests.get(image["url"], headers=bearer(up), timeout=ANSWER_SECONDS).content for image in done["images"]]
    return done, [Image.open(io.BytesIO(file)) for file in files]


def test_a_prompt_becomes_a_picture_that_shows_it(up: Up) -> None:
    done, pictures = draw(up, n=4)

    assert done["status"] == "completed", done
    right = [picture for picture in pictures if not check(picture, PROMPT).wrong]
    assert len(right) >= 3
    assert {(picture.format, picture.size) for picture in pictures} == {("PNG", (128, 128))}
    assert "Seed: 1" in pictures[0].info["parameters"]
    assert done["attempts"][0]["machine_id"] == "gpu-1"


def test_the_same_order_gives_the_same_pixels(up: Up) -> None:
    first, second = (draw(up, seed=11)[1][0].tobytes() for _ in range(2))

    assert first == second


def test_a_replay_on_the_same_machine_is_equal_bit_for_bit(up: Up) -> None:
    first, _ = draw(up, n=2, seed=21, scheduler="Euler a")

    again = up.ended(up.post(f"v1/jobs/{first['job_id']}/replay", {})["job_id"])

    found = up.get(f"v1/jobs/{again['job_id']}/replay")
    assert (again["status"], again["replay_of"], found["equal"]) == ("completed", first["job_id"], True)
    assert [picture["differs"] for picture in found["pictures"]] == [{}, {}]
    receipt = up.get(f"v1/images/{again['images'][1]['image_id']}/receipt")["receipt"]
    assert (receipt["seed"], receipt["precision"]["unet"], receipt["together"]) == (22, "float32", 1)
    assert [(file["model_id"], file["hash"][:7]) for file in receipt["files"]] == [(DEMO, "sha256:")]
    assert {"torch", "diffusers", "transformers"} <= set(receipt["versions"])
    assert str(up.folder) not in str(receipt)


def test_a_picture_is_drawn_from_another_and_over_a_part_of_it(up: Up) -> None:
    _, (red,) = draw(up, "a large red circle on a white background")
    uploaded = requests.post(
        f"{up.url}/v1/inputs", data=as_png(red), headers=bearer(up), timeout=ANSWER_SECONDS
    ).json()["input_id"]

    begun, (blue,) = draw(up, "a large blue circle on a white background", image=uploaded, strength=0.6)
    left = Image.new("L", red.size)
    left.paste(255, (0, 0, red.width // 2, red.height))
    mask = {"image": base64.b64encode(as_png(left)).decode(), "blur": 0}
    order = {"image": uploaded, "strength": 0.9, "mask": mask, "upscale": {"upscaler": "Nearest"}}
    _, (half,) = draw(up, "a large blue circle on a green background", **order)

    assert begun["status"] == "completed", begun
    assert begun["attempts"][0]["timings"]["fetching"] > 0
    assert check(blue, "a large blue circle on a white background").wrong == ()
    assert "Denoising strength: 0.6" in blue.info["parameters"]
    kept, drawn = (each.crop((each.width // 2, 0, each.width, each.height)).convert("RGB") for each in (red, half))
    assert kept.resize(drawn.size, Image.Resampling.NEAREST).tobytes() == drawn.tobytes()
    assert half.convert("RGB").getchannel("G").getpixel((20, 20)) > 100  # type: ignore[operator]  # one channel: a number


def as_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_a_picture_without_its_background_comes_back_over_http(up: Up) -> None:
    prompt = "a large red circle on a blue background"

    job, (picture,) = draw(up, prompt, remove_background=True)

    assert job["status"] == "completed", job["error"]
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", (128, 128))
    pixels = np.asarray(picture, np.int16)
    is_red, is_left = pixels[..., 0] > pixels[..., 2], pixels[..., 3] > 128
    assert (is_red & is_left).sum() / (is_red | is_left).sum() > 0.85
    receipt = up.get(f"v1/images/{job['images'][0]['image_id']}/receipt")["receipt"]
    assert "cutter" in {file["model_id"] for file in receipt["files"]}


def test_a_model_whose_hash_is_wrong_is_not_advertised_and_keeps_no_other_from_serving(up: Up) -> None:
    wrong = wait_for(up, "wrong-hash", "error")

    assert "0" * 64 in wrong["error"]["message"] or "hash" in wrong["error"]["code"]
    assert not (up.folder / "models" / "checkpoints" / "wrong-hash.dduf").exists()
    ready = up.get("ready")["models"]
    assert (ready[DEMO], "wrong-hash" in ready) == (1, False)


def test_an_unknown_model_is_reported(up: Up) -> None:
    unknown = wait_for(up, "nonexistent", "error")

    assert "nonexistent" in unknown["error"]["message"] or "not_found" in unknown["error"]["code"]
    assert "nonexistent" in up.process.said()


def test_a_damaged_file_leaves_its_queue_is_fetched_again_and_comes_back(up: Up) -> None:
    file = up.folder / "models" / "checkpoints" / "demo-shapes.dduf"
    right = file.read_bytes()
    provisioning = process_of(up, "provisioning")

    provisioning.suspend()  # it would mend the file before anybody could look
    try:
        file.write_bytes(right[:1000] + b"damage" + right[1006:])
        wait_until(lambda: up.holding(DEMO)["state"] != "ready", "the damaged model is not advertised")
        waiting = up.post("v1/jobs", {"model_id": DEMO, "prompt": PROMPT})
    finally:
        provisioning.resume()
    wait_for(up, DEMO, "ready")
    done = up.ended(waiting["job_id"])

    assert waiting["status"] == "queued"
    assert file.read_bytes() == right
    assert (done["status"], len(done["attempts"])) == ("completed", 1)


def process_of(up: Up, module: str) -> psutil.Process:
    """Find the process that runs a module."""
    children = psutil.Process(up.process.pid).children(recursive=True)
    (found,) = [child for child in children if module in command_of(child)]
    return found


SIZES = st.sampled_from([8, 16, 64, 72, 128])
STRENGTHS = st.sampled_from([0.0, 1e-9, 0.3, 1.0])
WORDS = st.lists(
    st.sampled_from(["a red circle", "((", ")", "[a:b:0.5]", "[a|b]", "(x:1e9)", "(x:-3)", "AND", "BREAK", "\\", ":"])
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    max_size=30,
).map(lambda words: " ".join(["a", *words]))
TAKEN = real_pictures().filter(lambda data: data.startswith((b"\x89PNG", b"\xff\xd8", b"RIFF")))
FILES = (TAKEN | TAKEN | pictures()).map(lambda data: base64.b64encode(data).decode())
"""Pictures of every mode and size, for the most part such as are taken."""


@st.composite
def orders(draw: st.DrawFn) -> dict[str, Any]:
    """Draw an order that a machine may well be given: odd in every field, and small."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "negative_prompt": WORDS,
        "width": SIZES,
        "height": SIZES,
        "n": st.integers(1, 2),
        "seed": st.sampled_from([0, 1, 2**32 - 1]),
        "subseed": st.integers(0, 2**32 - 1),
        "subseed_strength": st.sampled_from([0.0, 0.5, 1.0]),
        "guidance_scale": st.sampled_from([0.0, 1.0, 7.5, 30.0]),
        "clip_skip": st.integers(1, 12),
        "scheduler": st.sampled_from(SCHEDULERS),
        "image_format": st.sampled_from(["png", "jpeg", "webp"]),
        "hires": st.builds(dict, scale=st.sampled_from([1.0, 1.5]), strength=STRENGTHS),
        "upscale": st.builds(dict, factor=st.sampled_from([1.0, 1.3, 2.0]), upscaler=st.just("Lanczos")),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(fields)), max_size=6))
    found = {name: draw(fields[name]) for name in sorted(chosen)}
    if draw(st.booleans()):
        found |= {"image": draw(FILES), "strength": draw(STRENGTHS)}
        if draw(st.booleans()):
            found["mask"] = {"image": draw(FILES), "blur": draw(st.integers(0, 64))}
    return {"model_id": DEMO, "prompt": draw(WORDS), "steps": draw(st.integers(1, 3)), **found}


def test_whatever_is_ordered_and_accepted_the_machine_lives_on(up: Up) -> None:
    before, accepted = process_of(up, "tasks.machine").pid, list[str]()

    @settings(
        max_examples=1000 if LONG else 40,
        derandomize=not LONG,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # nothing is made smaller: what harms the machine harms it later, when it is drawn
        suppress_health_check=list(HealthCheck),
    )
    @given(orders())
    def order(body: dict[str, Any]) -> None:
        answer = requests.post(f"{up.url}/v1/jobs", json=body, headers=bearer(up), timeout=ANSWER_SECONDS)
        assert answer.status_code in {202, 413, 422}, answer.text
        if answer.status_code == 202:
            accepted.append(answer.json()["job_id"])

    order()
    ended = [up.ended(job_id, seconds=600) for job_id in accepted]

    surprises = [job["error"] for job in ended if job["status"] != "completed"]
    assert {error["code"] for error in surprises} <= {"cannot_draw"}, surprises
    assert len(ended) - len(surprises) >= 10, len(ended)
    assert process_of(up, "tasks.machine").pid == before
    assert draw(up)[0]["status"] == "completed"


def test_a_crashed_worker_is_started_anew_and_its_job_completes(up: Up) -> None:
    job = up.post("v1/jobs", {"model_id": DEMO, "prompt": PROMPT, "steps": 50, "n": 16, "width": 256, "height": 256})
    wait_until(lambda: up.get(f"v1/jobs/{job['job_id']}")["progress"] > 0, "the job is being drawn")
    worker = process_of(up, "tasks.machine")

    worker.kill()
    wait_until(lambda: up.get(f"v1/jobs/{job['job_id']}")["attempts"][0]["state"] == "lost", "it is lost")
    wait_until(lambda: len(up.get(f"v1/jobs/{job['job_id']}")["attempts"]) == 2, "a second attempt")
    up.post(f"v1/jobs/{job['job_id']}/cancel", {})

    assert draw(up)[0]["status"] == "completed"
