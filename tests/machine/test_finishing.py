"""What happens to drawn pictures: the foreground is cut out, and the unsafe is blacked out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app import catalogue
from app.core.spec import GenerationSpec
from tasks.machine.drivers.contract import CannotDraw, DriverSettings, ModelFiles, Order, Picture, Step
from tests.shape_checker import check
from tests.support import onnx_files

if TYPE_CHECKING:
    from tasks.machine.drivers.diffusers import DiffusersDriver

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")

DEMO = "demo-shapes"
PROMPT = "a large red circle on a blue background"


@pytest.fixture(scope="module")
def driver() -> "DiffusersDriver":
    """Return a driver for all tests here, which draws with one thread."""
    import torch  # noqa: PLC0415  # seconds, which the other tests need not wait for

    from tasks.machine.drivers.diffusers import DiffusersDriver  # noqa: PLC0415  # as above

    torch.set_num_threads(1)
    return DiffusersDriver(DriverSettings(device="cpu"))


@pytest.fixture(scope="module")
def cutter(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """Return a network that finds the demo model's figures."""
    path = onnx_files.cutter(tmp_path_factory.mktemp("onnx") / "cutter.onnx")
    return ModelFiles("cutter", path, "p", options=onnx_files.OPTIONS)


@pytest.fixture(scope="module", params=["two folders", "one folder"])
def checkers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFiles]:
    """Return a checker that takes everything for unsafe, and one that takes nothing."""
    from tests.support import zoo_companions  # noqa: PLC0415  # imports torch, as above

    root = tmp_path_factory.mktemp("checkers")
    found = {}
    for name in ("strict", "lenient"):
        folder = zoo_companions.safety_checker(root / name, flags=name == "strict")
        if request.param == "one folder":
            folder = zoo_companions.flat(folder, root / f"{name}-flat")
        found[name] = ModelFiles(f"{name} {request.param}", folder, "p")
    return found


def draw(
    driver: "DiffusersDriver", companions: tuple[ModelFiles, ...] = (), on_step: Any = lambda _: None, **given: Any
) -> list[Picture]:
    """Draw with the demo model."""
    entry = next(entry for entry in catalogue.built_in() if entry.id == DEMO)
    model = ModelFiles(DEMO, catalogue.artifacts() / entry.name, str(entry.hash), entry.base)
    spec = GenerationSpec(model_id=DEMO, **{"prompt": PROMPT, "seed": 1, **given}).with_defaults(entry.options)
    return list(driver.draw(Order(spec, model, {each.model_id: each for each in companions}), on_step))


def test_the_figure_is_cut_out_of_every_picture(driver: "DiffusersDriver", cutter: ModelFiles) -> None:
    plain = draw(driver, n=2)

    cut = draw(driver, (cutter,), n=2, remove_background="cutter")

    assert [picture.image.mode for picture in cut] == ["RGBA", "RGBA"]
    for whole, without in zip(plain, cut, strict=True):
        assert not check(whole.image, PROMPT).wrong
        assert without.image.convert("RGB").tobytes() == whole.image.tobytes()
        assert overlap(without, red_parts(whole)) > 0.85


def overlap(cut: Picture, truth: Any) -> float:
    """Return how far what was left is what should be: the intersection over the union."""
    left = np.asarray(cut.image)[..., 3] > 128
    return float((left & truth).sum() / (left | truth).sum())


def red_parts(picture: Picture) -> Any:
    """Return where a picture of red on blue is red."""
    pixels = np.asarray(picture.image.convert("RGB"), np.int16)
    return pixels[..., 0] > pixels[..., 2]


def test_a_file_that_is_no_network_is_refused_and_nothing_is_handed_over(
    driver: "DiffusersDriver", tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")

    with pytest.raises(CannotDraw, match="m is no ONNX file"):
        draw(driver, (ModelFiles("m", tmp_path / "m.onnx", "p"),), remove_background="m", steps=1)


def test_what_the_checker_takes_for_unsafe_is_black_and_says_so(
    driver: "DiffusersDriver", checkers: dict[str, ModelFiles]
) -> None:
    strict, lenient = checkers["strict"], checkers["lenient"]

    flagged = draw(driver, (strict,), n=2, safety_check=True, safety_checker=strict.model_id)
    passed = draw(driver, (lenient,), n=2, safety_check=True, safety_checker=lenient.model_id)

    assert all(not np.asarray(picture.image).any() for picture in flagged)
    assert all("safety checker" in picture.notes[-1] for picture in flagged)
    assert {picture.image.size for picture in flagged} == {(128, 128)}
    plain = draw(driver, n=2)
    assert [each.image.tobytes() for each in passed] == [each.image.tobytes() for each in plain]
    assert [each.notes for each in passed] == [each.notes for each in plain]


def test_a_flagged_picture_is_not_cut_out(
    driver: "DiffusersDriver", checkers: dict[str, ModelFiles], cutter: ModelFiles
) -> None:
    strict = checkers["strict"]

    (picture,) = draw(
        driver, (strict, cutter), safety_check=True, safety_checker=strict.model_id, remove_background="cutter"
    )

    assert picture.image.mode == "RGBA"
    assert set(picture.image.get_flattened_data()) == {(0, 0, 0, 255)}


def test_a_preview_is_not_shown_of_what_is_still_to_be_checked(
    driver: "DiffusersDriver", checkers: dict[str, ModelFiles]
) -> None:
    lenient = checkers["lenient"]
    steps: list[Step] = []

    draw(driver, (lenient,), steps.append, safety_check=True, safety_checker=lenient.model_id)

    assert len([step for step in steps if step.phase == "denoising"]) > 3
    assert not any(step.preview for step in steps)


def test_the_checker_is_counted_among_what_is_in_memory(
    driver: "DiffusersDriver", checkers: dict[str, ModelFiles]
) -> None:
    lenient = checkers["lenient"]
    driver.free()

    draw(driver, (lenient,), safety_check=True, safety_checker=lenient.model_id, steps=1)

    assert driver.loaded() == [DEMO, lenient.model_id]


def test_nothing_is_drawn_unchecked_where_there_is_no_checker(driver: "DiffusersDriver", tmp_path: Path) -> None:
    with pytest.raises(CannotDraw, match="needs a model of kind safety"):
        draw(driver, safety_check=True)
    with pytest.raises(CannotDraw, match=r"empty is no safety checker: it has no config\.json; take hf://"):
        draw(driver, (ModelFiles("empty", tmp_path, "p"),), safety_check=True, safety_checker="empty")
