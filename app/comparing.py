"""How far two pictures are from each other: equal pixels, the largest and the mean difference, PSNR."""

import io
import math
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageStat

from app import pictures

LARGEST = 255
"""Of a channel of eight bits."""


class Incomparable(Exception):
    """These two cannot be held against each other; says why."""


@dataclass(frozen=True, slots=True)
class Distance:
    """Between the pixels of two pictures of one size, over all channels; each has values of 0 to 255."""

    largest: int
    mean: float
    psnr: float | None
    """Peak signal-to-noise ratio in dB: 48 and more is rounding. None: they are equal, and it is infinite."""

    @property
    def is_equal(self) -> bool:
        """Say whether all pixels are equal, bit for bit."""
        return self.largest == 0


def distance(first: bytes, again: bytes) -> Distance:
    """Compare the pixels of two files, whatever their formats; raises Incomparable."""
    one, two = _opened(first, "the first picture"), _opened(again, "the new picture")
    if one.size != two.size:
        raise Incomparable(f"the first picture has {_size(one)} pixels and the new one {_size(two)}")
    mode = "RGBA" if "RGBA" in {one.mode, two.mode} else "RGB"
    found = ImageChops.difference(one.convert(mode), two.convert(mode))
    statistics = ImageStat.Stat(found)
    values = sum(statistics.count)
    error = sum(statistics.sum2) / values
    return Distance(
        largest=max(int(most) for _, most in statistics.extrema),
        mean=sum(statistics.sum) / values,
        psnr=10 * math.log10(LARGEST**2 / error) if error else None,
    )


def _opened(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=[pictures.kind_to_open(data, Image.MAX_IMAGE_PIXELS or 0)])
        image.load()
    except (*pictures.BROKEN, pictures.UnusablePicture) as exc:
        raise Incomparable(f"{name} cannot be read: {exc}") from exc
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
