"""A driver that draws plain colour fields without any model: for load tests and tests of the job's life."""

import time
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from typing import Any

from PIL import Image

from app.core.spec import nth_seed
from tasks.machine.drivers.contract import DriverSettings, OnStep, Order, Picture, Step

DEFAULT_SIZE = 64
DEFAULT_STEPS = 10
PREVIEW_SIZE = (32, 32)

Colour = tuple[int, int, int]


class FakeDriver:
    """Takes as many steps as asked for, and draws one colour that follows from model, prompt and seed.

    It holds one model, as a small GPU does, and bringing in another one takes as long as it is told.
    """

    def __init__(self, settings: DriverSettings) -> None:
        self._settings = settings
        self._held: str | None = None

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw colour fields; the same order gives the same pictures."""
        spec = order.spec
        steps = spec.steps or DEFAULT_STEPS
        on_step(Step("loading", 0, 0, 0))
        self._hold(spec.model_id)
        for image in range(spec.n):
            seed = nth_seed(spec.seed, image)
            drawn = sha256(f"{spec.model_id}\n{spec.prompt}\n{seed}".encode()).digest()
            colour = (drawn[0], drawn[1], drawn[2])
            on_step(Step("denoising", 0, steps, image))
            for step in range(1, steps + 1):
                time.sleep(self._settings.step_seconds)
                on_step(Step("denoising", step, steps, image, partial(_preview, colour, step / steps)))
            on_step(Step("encoding", steps, steps, image))
            size = (spec.width or DEFAULT_SIZE, spec.height or DEFAULT_SIZE)
            yield Picture(Image.new("RGB", size, colour), seed)

    def _hold(self, model_id: str) -> None:
        if self._held == model_id:
            return
        self._held = None
        time.sleep(self._settings.load_seconds)
        self._held = model_id

    def device(self) -> dict[str, Any]:
        """Describe a device that is none."""
        return {"type": "fake", "name": "no device", "memory_total": 0, "memory_free": 0}

    def loaded(self) -> list[str]:
        """Name the model that was drawn with last."""
        return [self._held] if self._held else []

    def free(self) -> None:
        """Let go of it."""
        self._held = None


def _preview(colour: Colour, done: float) -> Image.Image:
    """Show the colour coming out of grey."""
    red, green, blue = (round(128 + (value - 128) * done) for value in colour)
    return Image.new("RGB", PREVIEW_SIZE, (red, green, blue))
