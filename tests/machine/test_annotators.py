"""From photos to control pictures: edges by our own hand, depth by an ONNX file, others where they are installed."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from app.core.extras import Control
from app.core.spec import GenerationSpec
from tasks.machine.drivers.annotators import control_picture
from tasks.machine.drivers.canny import canny
from tasks.machine.drivers.contract import CannotDraw, ModelFiles, Order
from tests.support import onnx_files

SHA = "a" * 64


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Return a red box on a blue ground."""
    drawn = Image.new("RGB", (80, 60), "blue")
    ImageDraw.Draw(drawn).rectangle((20, 15, 59, 44), fill="red")
    return drawn


def made(photo: Image.Image, kind: str, annotator: ModelFiles | None = None, *, annotate: bool = True) -> Image.Image:
    """Make the control picture of an order."""
    control = Control(model_id="net", image=SHA, kind=kind, annotate=annotate)
    control = replace(control, annotator=annotator.model_id if annotator else None)
    spec = GenerationSpec(model_id="m", prompt="p", controls=(control,))
    companions = {annotator.model_id: annotator} if annotator else {}
    return control_picture(control, Order(spec, ModelFiles("m", Path("m"), "p"), companions, {SHA: photo}))


def test_a_ready_control_picture_is_taken_as_it_is(photo: Image.Image) -> None:
    assert made(photo, "openpose", annotate=False).tobytes() == photo.tobytes()


def test_edges_are_one_pixel_wide_lines_where_the_picture_has_them(photo: Image.Image) -> None:
    white = np.asarray(made(photo, "canny"))[..., 0] == 255

    ys, xs = np.nonzero(white)
    near = (np.minimum(abs(xs - 19.5), abs(xs - 59.5)) < 1.1) | (np.minimum(abs(ys - 14.5), abs(ys - 44.5)) < 1.1)
    assert near.all()
    assert white[30].sum() == 2
    assert white[:, 40].sum() == 2
    assert 120 < white.sum() < 150  # the box has a rim of 140 pixels


def test_a_plain_picture_has_no_edges() -> None:
    assert not np.asarray(canny(Image.new("RGB", (32, 32), "green"))).any()


def test_a_weak_edge_is_drawn_only_where_it_goes_on_from_a_strong_one() -> None:
    drawn = Image.new("L", (60, 60))
    pencil = ImageDraw.Draw(drawn)
    pencil.rectangle((-9, -9, 29, 69), fill=45)  # 180 at its rim: between the two limits
    weak = np.asarray(canny(drawn))[..., 0]
    pencil.rectangle((-9, 30, 29, 69), fill=120)  # strong, and it goes on from the weak one

    both = np.asarray(canny(drawn))[..., 0]

    assert not weak.any()
    assert (both[:28, 29] | both[:28, 30]).all()


@pytest.mark.parametrize("angle", [0, 30, 45, 75, 90, 135])
def test_edges_of_every_direction_are_found_once(angle: int) -> None:
    half = Image.new("L", (200, 200))
    ImageDraw.Draw(half).rectangle((0, 0, 200, 99), fill=255)
    turned = half.rotate(angle, Image.Resampling.BILINEAR).crop((60, 60, 140, 140))

    edges = np.asarray(canny(turned))[..., 0] > 0

    # A straight line through a square of 80 pixels, at most 2 wide where it steps.
    assert 70 <= edges.sum() <= 170
    blurred = np.asarray(turned.filter(ImageFilter.BoxBlur(3)), np.float32)
    assert ((blurred[edges] > 20) & (blurred[edges] < 235)).all()


def test_depth_is_drawn_by_an_onnx_file_of_the_catalogue(photo: Image.Image, tmp_path: Path) -> None:
    options = {"annotator": onnx_files.OPTIONS["background"]}
    model = ModelFiles("depth", onnx_files.cutter(tmp_path / "depth.onnx"), "p", options=options)

    drawn = np.asarray(made(photo, "depth", model))

    assert drawn.shape == (60, 80, 3)
    assert drawn[30, 40].min() > 200
    assert drawn[5, 5].max() < 50


def test_depth_without_such_a_file_says_what_to_add(photo: Image.Image) -> None:
    with pytest.raises(CannotDraw, match=r"needs a model of kind onnx.*leave annotate out"):
        made(photo, "depth")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("openpose", "pip install controlnet-aux"),
        ("mediapipe_face", "pip install mediapipe controlnet-aux"),
        ("mediapipe_pose", "take openpose"),
    ],
)
def test_what_is_not_installed_is_named(
    photo: Image.Image, kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("controlnet_aux", "mediapipe"):
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(CannotDraw, match=words):
        made(photo, kind)


class Detector:
    """Keeps the contract of controlnet_aux's detectors, which cannot be installed beside a torch for CPUs."""

    def __init__(self, folder: str = "") -> None:
        self.folder = folder

    from_pretrained = classmethod(lambda cls, folder: cls(folder))

    def __call__(self, picture: Image.Image, output_type: str) -> Image.Image:
        assert output_type == "pil"
        return picture.resize((512, 384)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def test_a_detector_that_is_installed_draws_at_the_photos_size(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module: Any = ModuleType("controlnet_aux")
    module.OpenposeDetector = Detector
    monkeypatch.setitem(sys.modules, "controlnet_aux", module)

    drawn = made(photo, "openpose", ModelFiles("annotators", tmp_path, "p"))

    assert drawn.size == photo.size
    with pytest.raises(CannotDraw, match="lllyasviel/Annotators"):
        made(photo, "openpose")
