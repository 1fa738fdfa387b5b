"""A driver that draws plain colour fields without any model: for load tests and tests of the job's life."""

import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from PIL import Image

from tasks.machine.drivers.contract import DriverSettings, OnStep, Order, Picture, Step

STEP_SECONDS = 0.02
"""A fast GPU's denoising step."""

DEFAULT_SIZE = 64
DEFAULT_STEPS = 10


class FakeDriver:
    """Takes as many steps as asked for, and draws one colour that follows from model, prompt and seed."""

    def __init__(self, settings: DriverSettings) -> None:
        self._settings = settings

    def draw(self, order: Order, on_step: OnStep) -> Iterator[Picture]:
        """Draw colour fields; the same order gives the same pictures."""
        spec = order.spec
        steps = spec.steps or DEFAULT_STEPS
        for image in range(spec.n):
            for step in range(1, steps + 1):
                time.sleep(STEP_SECONDS)
                on_step(Step("denoising", step, steps, image))
            seed = (spec.seed or 0) + image
            colour = sha256(f"{spec.model_id}\n{spec.prompt}\n{seed}".encode()).digest()
            size = (spec.width or DEFAULT_SIZE, spec.height or DEFAULT_SIZE)
            yield Picture(Image.new("RGB", size, (colour[0], colour[1], colour[2])), seed)

    def device(self) -> dict[str, Any]:
        """Describe a device that is none."""
        return {"type": "fake", "name": "no device", "memory_total": 0, "memory_free": 0}

    def loaded(self) -> list[str]:
        """Hold nothing."""
        return []

    def free(self) -> None:
        """Have nothing to give back."""
