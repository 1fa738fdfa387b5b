"""The smoke test: a model is advertised only when a picture drawn with it is as it should be."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.machine.drivers.contract import ModelFiles, OnStep, Order, Picture, Step
from tasks.machine.errors import FleetAway, ModelNotProven
from tasks.machine.smoke import SmokeTest

PATIENCE = 10.0


class PaintingDriver:
    """Draws one and the same picture for every order, and counts how often."""

    def __init__(self, picture: Image.Image) -> None:
        self.picture = picture
        self.drawn = 0

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        on_step(Step("denoising", 1, 1, 0))
        self.drawn += 1
        yield Picture(self.picture, order.spec.seed or 0)

    def device(self) -> dict[str, Any]:
        return {"type": "cpu", "name": "test device", "memory_total": 0, "memory_free": 0}

    def loaded(self) -> list[str]:
        return []

    def free(self) -> None:
        """Hold nothing."""


def a_picture(*, step: int = 4) -> Image.Image:
    return Image.radial_gradient("L").resize((64, 64)).point(lambda value: value * step // 4).convert("RGB")


def a_smoke_test(folder: Path, driver: PaintingDriver, *, kind: Callable[[str], bool] = lambda _: True) -> SmokeTest:
    return SmokeTest(
        driver=lambda: driver,
        files_of=lambda model_id: ModelFiles(model_id, folder / "file", "sha256:00ff"),
        is_drawable=kind,
        folder=folder,
        device_lock=threading.Lock(),
    )


def settled(smoke: SmokeTest, model_id: str) -> bool:
    """Ask until there is a verdict."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if smoke.allows(model_id):
            return True
        if smoke.problem_of(model_id):
            return False
        time.sleep(0.01)
    pytest.fail("the smoke test came to no verdict")


def test_a_model_that_draws_is_advertised_and_tried_once_only(tmp_path: Path) -> None:
    driver = PaintingDriver(a_picture())
    smoke = a_smoke_test(tmp_path, driver)

    first, again = settled(smoke, "m"), smoke.allows("m")

    assert first
    assert again
    assert driver.drawn == 1


def test_a_model_that_draws_nothing_but_black_is_not_advertised_and_says_why(tmp_path: Path) -> None:
    smoke = a_smoke_test(tmp_path, PaintingDriver(Image.new("RGB", (64, 64))))

    assert not settled(smoke, "m")
    assert "flat" in (smoke.problem_of("m") or "")


def test_the_same_picture_as_last_time_passes_after_a_restart(tmp_path: Path) -> None:
    assert settled(a_smoke_test(tmp_path, PaintingDriver(a_picture())), "m")

    assert settled(a_smoke_test(tmp_path, PaintingDriver(a_picture())), "m")


def test_another_picture_than_last_time_is_refused_and_names_the_file_to_delete(tmp_path: Path) -> None:
    assert settled(a_smoke_test(tmp_path, PaintingDriver(a_picture())), "m")
    changed = a_smoke_test(tmp_path, PaintingDriver(a_picture(step=2)))

    assert not settled(changed, "m")
    assert str(next(tmp_path.glob("*.png"))) in (changed.problem_of("m") or "")


def test_a_lora_is_advertised_without_drawing_since_nothing_is_drawn_with_it_alone(tmp_path: Path) -> None:
    driver = PaintingDriver(a_picture())

    assert settled(a_smoke_test(tmp_path, driver, kind=lambda _: False), "a-lora")
    assert driver.drawn == 0


def test_a_catalogue_that_is_away_is_asked_again_and_is_no_verdict(tmp_path: Path) -> None:
    answers = iter([False])

    def kind(_: str) -> bool:
        if not next(answers, True):
            raise FleetAway
        return True

    smoke = a_smoke_test(tmp_path, PaintingDriver(a_picture()), kind=kind)

    assert settled(smoke, "m")


def test_a_model_whose_proof_is_gone_is_not_tried(tmp_path: Path) -> None:
    driver = PaintingDriver(a_picture())
    smoke = a_smoke_test(tmp_path, driver)

    def unproven(model_id: str) -> ModelFiles:
        raise ModelNotProven(model_id)

    smoke.files_of = unproven

    assert not smoke.allows("m")
    assert driver.drawn == 0
