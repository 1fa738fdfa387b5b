"""Pictures that are only made larger: in their own size, without a checkpoint, and stopped like a drawing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from app.core.extras import Upscale
from app.core.spec import GenerationSpec
from tasks.machine.drivers.contract import CannotDraw, DrawingCancelled, DriverSettings, ModelFiles, Order, Step
from tasks.machine.drivers.fake import FakeDriver

if TYPE_CHECKING:
    from tasks.machine.drivers.contract import Driver

PHOTO = "a" * 64


@pytest.fixture(scope="module", params=["diffusers", "fake"])
def driver(request: pytest.FixtureRequest) -> "Driver":
    """Return each driver that makes pictures larger itself."""
    if request.param == "fake":
        return FakeDriver(DriverSettings(step_seconds=0.0))
    from tasks.machine.drivers.diffusers import DiffusersDriver  # noqa: PLC0415  # seconds, which others need not wait for

    return DiffusersDriver(DriverSettings(device="cpu"))


def an_order(photo: Image.Image, **more: Any) -> Order:
    """Order a picture that nothing is drawn over, with a checkpoint of which there is no file."""
    spec = GenerationSpec(model_id="nowhere", prompt="", image=PHOTO, strength=0.0, seed=7, **more)
    return Order(spec, ModelFiles("nowhere", Path("/nowhere"), "p"), pictures={PHOTO: photo})


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_picture_keeps_its_own_size_and_what_is_in_it(driver: "Driver", mode: str) -> None:
    photo = Image.effect_noise((51, 33), 80).convert(mode)

    kept, *_ = driver.draw(an_order(photo), lambda _: None)
    larger, *_ = driver.draw(an_order(photo, upscale=Upscale(factor=2, upscaler="Nearest")), lambda _: None)

    assert kept.image.convert("RGB").tobytes() == photo.convert("RGB").tobytes()
    assert larger.image.size == (102, 66)
    assert driver.loaded() in ([], ["nowhere"])  # the second is the fake's, which has no files
    if not isinstance(driver, FakeDriver):
        assert larger.image.convert("RGB").resize((51, 33), 0).tobytes() == photo.convert("RGB").tobytes()


def test_what_no_machine_holds_and_what_is_not_there_is_refused() -> None:
    from tasks.machine.drivers.diffusers import DiffusersDriver  # noqa: PLC0415  # as above

    driver = DiffusersDriver(DriverSettings(device="cpu"))
    wide, small = Image.new("RGB", (6000, 2000)), Image.new("RGB", (8, 8))

    with pytest.raises(CannotDraw, match="more than a machine holds"):
        list(driver.draw(an_order(wide, upscale=Upscale(factor=8)), lambda _: None))
    with pytest.raises(CannotDraw, match="there is no upscaler 'nobody'"):
        list(driver.draw(an_order(small, upscale=Upscale(upscaler="nobody")), lambda _: None))


def test_it_is_stopped_like_a_drawing(driver: "Driver") -> None:
    def stop(step: Step) -> None:
        if step.phase != "loading":
            raise DrawingCancelled

    with pytest.raises(DrawingCancelled):
        list(driver.draw(an_order(Image.new("RGB", (8, 8)), upscale=Upscale()), stop))
