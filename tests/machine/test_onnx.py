"""Cutting out with ONNX files: on figures that are known, and with what real files differ in."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tasks.machine.drivers import onnx
from tasks.machine.drivers.contract import CannotDraw, ModelFiles
from tasks.machine.drivers.onnx import Recipe, Sessions, recipe_of, seen
from tests.support import onnx_files


@pytest.fixture(scope="module")
def cutter(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """Return a network that finds figures on a plain ground."""
    return ModelFiles(
        "cutter", onnx_files.cutter(tmp_path_factory.mktemp("onnx") / "cutter.onnx"), "p", options=onnx_files.OPTIONS
    )


def a_circle(size: tuple[int, int] = (128, 96)) -> Image.Image:
    picture = Image.new("RGB", size, "blue")
    ImageDraw.Draw(picture).ellipse((34, 18, 94, 78), fill="red")
    return picture


def test_what_is_in_front_is_found_at_the_pictures_own_size(cutter: ModelFiles) -> None:
    found = seen(cutter, a_circle(), recipe_of(cutter, "background"))

    truth = np.asarray(a_circle())[..., 0] > 128
    assert found.shape == (96, 128)
    assert 0 <= found.min() <= found.max() <= 1
    assert ((found > 0.5) & truth).sum() / ((found > 0.5) | truth).sum() > 0.9


def test_low_values_can_be_the_high_ones(cutter: ModelFiles) -> None:
    recipe = recipe_of(cutter, "background")

    found, inverted = (seen(cutter, a_circle(), replace(recipe, invert=invert)) for invert in (False, True))

    assert np.allclose(found, 1 - inverted, atol=1e-5)


def test_the_catalogues_word_comes_before_the_names() -> None:
    model = ModelFiles("birefnet-lite", Path("model.onnx"), "p", options={"background": {"size": 512}})

    found = recipe_of(model, "background")

    assert found == Recipe(512, sigmoid=True)


@pytest.mark.parametrize(
    ("name", "size", "mean"),
    [
        ("u2net.onnx", 320, onnx.IMAGENET_MEAN),
        ("isnet-general-use.onnx", 1024, (0.5, 0.5, 0.5)),
        ("BiRefNet_lite.onnx", 1024, onnx.IMAGENET_MEAN),
        ("RMBG-1.4.onnx", 1024, (0.5, 0.5, 0.5)),
        ("depth_anything_v2_small.onnx", 518, onnx.IMAGENET_MEAN),
        ("something-new.onnx", 1024, onnx.IMAGENET_MEAN),
    ],
)
def test_well_known_files_need_no_options(name: str, size: int, mean: tuple[float, ...]) -> None:
    found = recipe_of(ModelFiles("m", Path(name), "p"), "background")

    assert (found.size, found.mean) == (size, mean)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"size": "large"}, {"mean": [1, 2]}, {"std": [0, 1, 1]}, {"mean": 0.5}]
)
def test_options_that_are_none_are_refused_with_an_example(options: dict[str, object]) -> None:
    with pytest.raises(CannotDraw, match=r'options.background of m must be such as {"size": 1024'):
        recipe_of(ModelFiles("m", Path("m.onnx"), "p", options={"background": options}), "background")


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no network")

    with pytest.raises(CannotDraw, match="m is no ONNX file that can be run"):
        seen(ModelFiles("m", path, "p"), a_circle(), Recipe())


def test_a_repository_with_several_files_says_which_one_to_bring(tmp_path: Path, cutter: ModelFiles) -> None:
    (tmp_path / "onnx").mkdir()
    for name in ("one", "two"):
        (tmp_path / "onnx" / f"{name}.onnx").write_bytes(cutter.path.read_bytes())

    with pytest.raises(CannotDraw, match=r"2 ONNX files.*include=onnx/model.onnx"):
        seen(ModelFiles("m", tmp_path, "p"), a_circle(), Recipe())

    (tmp_path / "onnx" / "model.onnx").write_bytes(cutter.path.read_bytes())
    assert seen(ModelFiles("m", tmp_path, "p"), a_circle(), Recipe()).shape == (96, 128)


def test_files_stay_open_within_a_budget_and_are_opened_anew_when_they_change(cutter: ModelFiles) -> None:
    size = cutter.path.stat().st_size
    sessions = Sessions(budget=2 * size)
    models = [replace(cutter, proof=proof) for proof in "abc"]

    first = sessions.of(models[0])
    assert sessions.of(models[0]) is first
    assert sessions.of(models[1]) is not first
    sessions.of(models[2])

    assert len(sessions) == 2
    assert sessions.of(models[0]) is not first
