"""The smoke test: no model is advertised whose pictures are not as they should be."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.machine.drivers.contract import ModelFiles, OnStep, Order, OutOfMemory, Picture
from tasks.machine.errors import ModelNotProven
from tasks.machine.smoke import SmokeTest
from tests.support.processes import wait_until


@dataclass
class Painter:
    """A driver that draws what it is told to."""

    paint: Callable[[], Image.Image]

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw it."""
        yield Picture(self.paint(), order.spec.seed or 0)

    def device(self) -> dict[str, Any]:
        """Describe a device."""
        return {"name": "Test GPU"}

    def loaded(self) -> list[str]:
        """Hold nothing."""
        return []

    def free(self) -> None:
        """Have nothing to give back."""


def halves(left: str, right: str) -> Image.Image:
    image = Image.new("RGB", (64, 64), left)
    image.paste(right, (32, 0, 64, 64))
    return image


def a_smoke_test(folder: Path, paint: Callable[[], Image.Image], proof: str = "sha256:ab", **more: Any) -> SmokeTest:
    given: dict[str, Any] = {
        "driver": lambda: Painter(paint),
        "files_of": lambda model_id: ModelFiles(model_id, Path("model.bin"), proof),
        "is_drawable": lambda _: True,
        "folder": folder,
        "device_lock": threading.Lock(),
    }
    return SmokeTest(**(given | more))


def verdict(smoke: SmokeTest) -> str | None:
    """Ask until there is an answer; returns the reason of a failure, None where it passed."""
    wait_until(lambda: smoke.allows("a-model") or smoke.problem_of("a-model"), "the smoke test has an answer")
    return smoke.problem_of("a-model")


def test_a_picture_with_contrast_passes_and_is_kept(tmp_path: Path) -> None:
    smoke = a_smoke_test(tmp_path, lambda: halves("red", "blue"))

    assert verdict(smoke) is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]


@pytest.mark.parametrize("colour", ["black", "white", "gray"])
def test_a_flat_picture_fails(tmp_path: Path, colour: str) -> None:
    smoke = a_smoke_test(tmp_path, lambda: Image.new("RGB", (64, 64), colour))

    assert "flat" in str(verdict(smoke))
    assert not smoke.allows("a-model")


def test_the_same_picture_as_last_time_passes_and_another_one_fails(tmp_path: Path) -> None:
    assert verdict(a_smoke_test(tmp_path, lambda: halves("red", "blue"))) is None

    same = verdict(a_smoke_test(tmp_path, lambda: halves("red", "blue")))
    other = verdict(a_smoke_test(tmp_path, lambda: halves("red", "green")))
    new_file = verdict(a_smoke_test(tmp_path, lambda: halves("red", "green"), proof="sha256:cd"))

    assert same is None
    assert "differs" in str(other)
    assert new_file is None


def test_a_driver_that_fails_is_told(tmp_path: Path) -> None:
    def fail() -> Image.Image:
        raise OutOfMemory(needed=9 * 10**9, available=8 * 10**9)

    assert "8.0 GB" in str(verdict(a_smoke_test(tmp_path, fail)))


def test_what_is_not_drawn_with_needs_no_picture(tmp_path: Path) -> None:
    def fail() -> Image.Image:
        raise AssertionError("nobody draws with a LoRA alone")

    assert verdict(a_smoke_test(tmp_path, fail, is_drawable=lambda _: False)) is None


def test_a_model_without_a_proof_is_not_tried(tmp_path: Path) -> None:
    def unproven(model_id: str) -> ModelFiles:
        raise ModelNotProven(model_id)

    smoke = a_smoke_test(tmp_path, lambda: halves("red", "blue"), files_of=unproven)

    assert not smoke.allows("a-model")
    assert smoke.problem_of("a-model") is None
