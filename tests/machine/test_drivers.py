"""One contract, put to every driver in the table."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app import catalogue
from app.core.models import CatalogueEntry
from app.core.samplers import split
from app.core.spec import SCHEDULERS, GenerationSpec
from tasks.machine.drivers import DRIVERS, make_driver
from tasks.machine.drivers.automatic1111 import Automatic1111Driver
from tasks.machine.drivers.canny import canny
from tasks.machine.drivers.contract import (
    CannotDraw,
    DrawingCancelled,
    Driver,
    DriverSettings,
    ModelFiles,
    Order,
    Picture,
    Step,
)
from tests.shape_checker import check
from tests.support.webui import Webui, checkpoint

DEMO = "demo-shapes"
PROMPTS = (
    "a red circle on a blue background",
    "a large green square on a white background",
    "a yellow triangle on a black background",
)


# numpy's complaints about how torch hands over its tensors: between these two, and the pictures are right.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Draw with one thread: the model is so small that several only wait for each other on a busy computer."""
    import torch  # noqa: PLC0415  # seconds, which the other tests need not wait for

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def entry() -> CatalogueEntry:
    """Return the demo model's catalogue entry; the file lies beside it."""
    found = {entry.id: entry for entry in catalogue.built_in()}
    assert DEMO in found, "app/artifacts has no demo-shapes.json: run tools/train_demo_model.py"
    return found[DEMO]


@pytest.fixture(scope="module")
def model(entry: CatalogueEntry) -> ModelFiles:
    """Return the demo model as provisioning leaves it."""
    path = catalogue.artifacts() / entry.name
    assert path.is_file(), f"{path} is missing: run tools/train_demo_model.py"
    return ModelFiles(DEMO, path, str(entry.hash), entry.base)


@pytest.fixture(scope="module")
def webui() -> Iterator[Webui]:
    """Return the server that draws for the driver which only asks: a small one, that is strict."""
    found = Webui(checkpoints=[checkpoint(DEMO)]).open()
    yield found
    found.close()


@pytest.fixture(scope="module", params=DRIVERS)
def driver(request: pytest.FixtureRequest, webui: Webui) -> Driver:
    """Make each driver of the table once."""
    return make_driver(request.param, DriverSettings(device="cpu", server_url=webui.url))


@pytest.fixture(scope="module")
def held(driver: Driver, model: ModelFiles) -> ModelFiles:
    """Return the demo model as the driver knows it: by its file, or by what its server calls it."""
    is_asking = isinstance(driver, Automatic1111Driver)
    return replace(model, path=Path(checkpoint(DEMO)["title"])) if is_asking else model


Draw = Callable[..., list[Picture]]


@pytest.fixture
def draw(driver: Driver, held: ModelFiles, entry: CatalogueEntry) -> Draw:
    """Draw an order to its end."""

    def drawn(
        on_step: Callable[[Step], None] = lambda _: None, *, is_frugal: bool = False, **spec: Any
    ) -> list[Picture]:
        given: dict[str, Any] = {"prompt": PROMPTS[0], "seed": 1, "steps": 4, "width": 64, "height": 64} | spec
        order = GenerationSpec(model_id=DEMO, **given).with_defaults(entry.options)
        return list(driver.draw(Order(order, held, frugal=is_frugal), on_step))

    return drawn


def pixels(pictures: list[Picture]) -> list[bytes]:
    return [picture.image.convert("RGB").tobytes() for picture in pictures]


def test_as_many_pictures_are_drawn_as_ordered_each_with_its_seed(draw: Draw) -> None:
    pictures = draw(n=3, seed=40)

    assert [picture.seed for picture in pictures] == [40, 41, 42]
    assert len(set(pixels(pictures))) == 3


def test_pictures_have_the_size_ordered(draw: Draw) -> None:
    (picture,) = draw(width=128, height=64)

    assert picture.image.size == (128, 64)


def test_the_same_order_draws_the_same_pictures(draw: Draw) -> None:
    assert pixels(draw(n=2, seed=5)) == pixels(draw(n=2, seed=5))


def test_a_pictures_seed_draws_it_again_alone(draw: Draw) -> None:
    second = draw(n=2, seed=5)[1]

    assert pixels(draw(n=1, seed=second.seed)) == pixels([second])


def test_a_seed_at_the_end_of_the_range_is_drawn(draw: Draw) -> None:
    assert len(draw(seed=2**32 - 1, n=2)) == 2


def test_progress_is_told_for_every_step_of_every_picture(draw: Draw) -> None:
    steps: list[Step] = []

    draw(steps.append, n=2, steps=4)

    for image in range(2):
        told = [step for step in steps if step.image == image and step.phase == "denoising"]
        once = [step for k, step in enumerate(told) if k == 0 or told[k - 1] != step]
        assert [step.step for step in once] == list(range(told[-1].steps + 1))
        assert told[-1].steps >= 4


def test_a_phase_is_told_when_it_begins(draw: Draw) -> None:
    phases: list[tuple[str, int]] = []

    draw(lambda step: phases.append((step.phase, step.image)), n=2, steps=2)

    in_order = [each for k, each in enumerate(phases) if k == 0 or phases[k - 1] != each]
    of_each = [[("denoising", image), ("encoding", image)] for image in range(2)]
    assert in_order == [("loading", 0), *of_each[0], *of_each[1]]


def test_a_step_can_be_seen_while_it_is_drawn(draw: Draw) -> None:
    seen: list[Image.Image] = []

    draw(lambda step: seen.append(step.preview()) if step.preview else None, steps=4)

    assert len(seen) >= 4
    assert {picture.mode for picture in seen} == {"RGB"}


def test_a_frugal_drawing_has_the_same_shapes_and_leaves_no_trace(driver: Driver, draw: Draw) -> None:
    expected = pixels(draw(seed=3))

    frugal = draw(seed=3, is_frugal=True)

    assert [picture.image.size for picture in frugal] == [(64, 64)]
    assert pixels(draw(seed=3)) == expected


def test_a_drawing_is_stopped_at_the_next_step_and_the_driver_draws_on(draw: Draw) -> None:
    steps: list[Step] = []

    def stop_at_the_second(step: Step) -> None:
        steps.append(step)
        if step.phase == "denoising" and step.step == 2:
            raise DrawingCancelled

    with pytest.raises(DrawingCancelled):
        draw(stop_at_the_second, n=2)

    assert max(step.step for step in steps) == 2
    assert len(draw()) == 1


def test_a_cancelled_drawing_leaves_no_trace_in_the_next_one(draw: Draw) -> None:
    expected = pixels(draw(seed=9))

    def stop(step: Step) -> None:
        if step.phase == "denoising":
            raise DrawingCancelled

    with pytest.raises(DrawingCancelled):
        draw(stop, seed=3, scheduler="Euler a")

    assert pixels(draw(seed=9)) == expected


def test_a_picture_that_somebody_skips_is_handed_over_as_far_as_it_is_and_the_next_are_whole(
    draw: Draw, webui: Webui, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webui, "step_seconds", 0.1)  # a server is only seen now and then
    whole, steps = draw(seed=5, n=3, steps=4), list[Step]()

    def skip_the_second(step: Step) -> None:
        steps.append(step)
        if step.skip is not None and step.image == 1 and step.step in {1, 2}:
            step.skip()

    pictures = draw(skip_the_second, seed=5, n=3, steps=4)

    assert [picture.skipped_after in {1, 2} for picture in pictures] == [False, True, False]
    assert [bool(picture.notes) for picture in pictures] == [False, True, False]
    assert pixels([pictures[0], pictures[2]]) == pixels([whole[0], whole[2]])
    assert ("encoding", 1) in {(step.phase, step.image) for step in steps}
    assert pixels(draw(seed=5, steps=4)) == pixels(whole[:1])


def test_memory_is_given_back_and_drawing_goes_on(driver: Driver, draw: Draw) -> None:
    draw()
    assert set(driver.loaded()) <= {DEMO}

    driver.free()

    assert driver.loaded() == []
    assert len(draw()) == 1


def test_a_driver_says_what_it_draws_on(driver: Driver) -> None:
    assert {"type", "name", "memory_total", "memory_free"} <= set(driver.device())


def test_an_unknown_driver_is_named_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match="diffusers"):
        make_driver("paint", DriverSettings())


@pytest.fixture(scope="module")
def diffusers() -> Driver:
    """Return the driver that really draws."""
    return make_driver("diffusers", DriverSettings(device="cpu"))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_demo_model_draws_what_is_asked_for(
    diffusers: Driver, model: ModelFiles, entry: CatalogueEntry, prompt: str
) -> None:
    order = GenerationSpec(model_id=DEMO, prompt=prompt, seed=1, n=3).with_defaults(entry.options)

    pictures = list(diffusers.draw(Order(order, model), lambda _: None))

    right = [picture for picture in pictures if not check(picture.image, prompt).wrong]
    assert len(right) >= 2
    assert {picture.image.size for picture in pictures} == {(128, 128)}


LEARNT = [name for name in SCHEDULERS if split(name)[1] in {None, "SGM Uniform"}]
"""Those that suit the demo model: it has learnt from ten times as much noise as Stable Diffusion, through which the
other schedules hurry. test_samplers.py shows that all of them are right."""


@pytest.mark.parametrize("scheduler", [*LEARNT, "DPM++ 2M Karras", "Euler Exponential", "DPM++ 2M KL Optimal"])
def test_every_sampler_draws_what_is_asked_for(
    diffusers: Driver, model: ModelFiles, entry: CatalogueEntry, scheduler: str
) -> None:
    order = GenerationSpec(model_id=DEMO, prompt=PROMPTS[0], seed=1, steps=10, width=128, height=128)
    order = replace(order, scheduler=scheduler).with_defaults(entry.options)

    (picture,) = diffusers.draw(Order(order, model), lambda _: None)

    seen = check(picture.image, PROMPTS[0])
    assert (seen.colour, seen.background) == ("red", "blue")


@pytest.mark.parametrize("name", ["broken.dduf", "weights.ckpt", "folder"])
def test_what_is_no_model_cannot_be_drawn_with_and_harms_nothing(
    diffusers: Driver, model: ModelFiles, entry: CatalogueEntry, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"no model at all")
    spec = GenerationSpec(model_id="broken", prompt=PROMPTS[0], seed=1, steps=4, width=64, height=64)

    with pytest.raises(CannotDraw) as refused:
        list(diffusers.draw(Order(spec, ModelFiles("broken", path, "proof")), lambda _: None))

    assert refused.value.permanent
    right = replace(spec, model_id=DEMO).with_defaults(entry.options)
    assert len(list(diffusers.draw(Order(right, model), lambda _: None))) == 1


def test_a_model_that_changed_on_disk_is_loaded_anew(
    diffusers: Driver, model: ModelFiles, entry: CatalogueEntry
) -> None:
    spec = GenerationSpec(model_id=DEMO, prompt=PROMPTS[0], seed=1, steps=4, width=64, height=64)
    order = Order(spec.with_defaults(entry.options), model)
    phases: list[str] = []

    list(diffusers.draw(order, lambda _: None))
    list(diffusers.draw(replace(order, model=replace(model, proof="another")), lambda step: phases.append(step.phase)))

    assert diffusers.loaded() == [DEMO]
    assert "denoising" in phases


def test_what_an_annotator_sees_is_shown_and_nothing_drawn(
    diffusers: Driver, model: ModelFiles, entry: CatalogueEntry
) -> None:
    photo = Image.new("RGB", (48, 40), "red")
    photo.paste("blue", (8, 8, 24, 24))
    spec = GenerationSpec(model_id=DEMO, prompt="", image="a" * 64, strength=0.0, detect="canny")
    order = Order(spec.with_defaults(entry.options), model, pictures={"a" * 64: photo})

    (shown,) = diffusers.draw(order, lambda _: None)

    assert shown.image.convert("RGB").tobytes() == canny(photo).tobytes()
    assert shown.image.size == photo.size


def test_giving_memory_back_leaves_no_network_that_looked_and_no_lora(
    diffusers: Driver, model: ModelFiles, entry: CatalogueEntry, tmp_path: Path
) -> None:
    from tasks.machine.drivers import onnx  # noqa: PLC0415  # of this test alone
    from tests.support import onnx_files  # noqa: PLC0415  # as above

    cutter = ModelFiles("cutter", onnx_files.cutter(tmp_path / "cutter.onnx"), "p")
    spec = GenerationSpec(model_id=DEMO, prompt=PROMPTS[0], seed=1, steps=1, width=64, height=64)
    spec = replace(spec.with_defaults(entry.options), remove_background="cutter")
    list(diffusers.draw(Order(spec, model, {"cutter": cutter}), lambda _: None))
    assert len(onnx.SESSIONS) > 0

    diffusers.free()

    assert len(onnx.SESSIONS) == 0
