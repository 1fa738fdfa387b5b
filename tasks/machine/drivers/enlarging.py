"""Making pictures of an order larger: drawn ones, and those that are only given and not drawn over."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from app.core.extras import Upscale
from app.core.spec import nth_seed
from tasks.machine.drivers import annotators, upscalers
from tasks.machine.drivers.contract import CannotDraw, OnStep, Order, Picture, Step
from tasks.machine.drivers.finishing import finished
from tasks.machine.drivers.pipelines import Pipelines
from tasks.machine.drivers.upscalers import RESAMPLING

MOST_PIXELS = 150_000_000
"""Of a picture that is made larger: half a gigabyte in memory, and as much again while it is encoded."""


@dataclass(frozen=True, slots=True)
class Enlarger:
    """What makes the pictures of one order larger."""

    torch: Any
    pipelines: Pipelines
    order: Order

    def upscaled(self, image: Image, wanted: Upscale, position: int, on_step: OnStep) -> Image:
        """Make a picture larger as an order wants it, without drawing; raises CannotDraw."""
        size = round(image.width * wanted.factor), round(image.height * wanted.factor)
        if size[0] * size[1] > MOST_PIXELS:
            raise CannotDraw(f"upscale makes it {size[0]} x {size[1]} pixels, which is more than a machine holds")

        def on_tile() -> None:
            on_step(Step("upscaling", 1, 1, position))

        on_tile()
        return self.enlarged(image, size, wanted.upscaler, on_tile)

    def enlarged(self, image: Image, size: tuple[int, int], name: str, on_tile: Callable[[], None]) -> Image:
        """Bring a picture to a size in pixels by an upscaler's name or id; raises CannotDraw."""
        if name in RESAMPLING:
            return upscalers.resampled(image, size, name)
        model = self.order.companions.get(name)
        if model is None:
            raise CannotDraw(
                f"there is no upscaler {name!r}: {', '.join(RESAMPLING)} or the id of one in the catalogue"
            )

        def load(_dtype: Any, device: str) -> upscalers.Network:
            return upscalers.read(model, allow_pickles=self.pipelines.allow_pickles).to(device)

        with self.pipelines.beside(model, upscalers.PRECISION, upscalers.size_of_file(model), load) as network:
            return upscalers.enlarged(self.torch, network, image, size, on_tile)

    def kept(self, on_step: OnStep) -> Iterator[Picture]:
        """Hand over the picture that an order begins with and draws nothing over.

        It is made larger, cut out, shown as an annotator sees it, or stays as it is.

        No checkpoint is needed for it, so none is loaded. Raises CannotDraw.
        """
        spec = self.order.spec
        given = self.order.pictures[str(spec.image)]
        given = given if given.mode in {"RGB", "RGBA"} else given.convert("RGB")
        if spec.detect is not None:
            on_step(Step("annotating", 0, 1, 0))
            given = annotators.seen(given, spec.detect, spec.detector, self.order)
        for position in range(spec.n):
            on_step(Step("upscaling", 0, 1, position))
            image = self.upscaled(given, spec.upscale, position, on_step) if spec.upscale else given
            on_step(Step("encoding", 1, 1, position))
            whole, notes = finished(image, self.order, None)
            yield Picture(whole, nth_seed(spec.seed, position), notes, {"driver": "diffusers"})
