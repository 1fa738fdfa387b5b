"""Background removal with real processes: an order over HTTP, a file fetched on demand, a see-through picture back."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import yaml
from PIL import Image

from tests.support import onnx_files
from tests.support.processes import wait_until
from tests.support.servers import Up

DEMO = "demo-shapes"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Start everything on this computer; the catalogue has a cut-out that the machine does not hold yet."""
    root = tmp_path_factory.mktemp("cut-out")
    folder, origin = root / "data", root / "origin"
    for each in (folder, origin):
        each.mkdir()
    file = onnx_files.cutter(origin / "cutter.onnx")
    (folder / "config.yaml").write_text(yaml.safe_dump({"models": [an_entry(file)]}))
    running = Up(
        folder,
        environ={
            "MACHINE_ID": "gpu-1",
            "MACHINE_MODELS_NEEDED": DEMO,
            "DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",  # the model is so small that several threads only wait for each other
        },
    )
    try:
        running.wait_until_serving()
        wait_until(lambda: running.holding(DEMO)["state"] == "ready", "the model is ready", seconds=90)
        yield running
    finally:
        running.process.stop()


def an_entry(file: Path) -> dict[str, object]:
    """Return the cut-out's line in the catalogue."""
    return {
        "id": "cutter",
        "name": file.name,
        "kind": "onnx",
        "download_url": f"file://{file}",
        "save_path": f"onnx/{file.name}",
        "hash": f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}",
        "tags": ["background"],
        "options": onnx_files.OPTIONS,
    }


def test_a_picture_without_its_background_comes_back_over_http(up: Up) -> None:
    prompt = "a large red circle on a blue background"
    order = {"model_id": DEMO, "prompt": prompt, "seed": 1, "remove_background": True}

    job = up.ended(up.post("v1/jobs", order)["job_id"], seconds=120)

    assert job["status"] == "completed", job["error"]["message"]
    picture = Image.open(io.BytesIO(requests.get(job["images"][0]["url"], timeout=10).content))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", (128, 128))
    pixels = np.asarray(picture, np.int16)
    is_red, is_left = pixels[..., 0] > pixels[..., 2], pixels[..., 3] > 128
    assert (is_red & is_left).sum() / (is_red | is_left).sum() > 0.85
    receipt = requests.get(f"{job['images'][0]['url']}/receipt", timeout=10).json()["receipt"]
    assert "cutter" in {file["model_id"] for file in receipt["files"]}
