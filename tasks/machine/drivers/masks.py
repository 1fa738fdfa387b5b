"""The picture that a drawing begins with, its mask, and how what was drawn comes back into the picture.

What each field means is as in Automatic1111 (1.10, modules/processing.py), so that its clients get what they know.
Outside of the softened mask every pixel is the original's, bit for bit: the drawn picture is only laid over it.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from app.core.extras import Mask

WHITE = (255, 255, 255)
"""What lies under a picture that is see-through, as Automatic1111's img2img_background_color."""

CELL = 8
"""Pixels of a latent's side. A cell that the mask touches is drawn whole; what is too much of it is not laid over."""

HALF = 127
"""A mask is drawn over where it is brighter."""

SMEARS = (128, 32, 8, 2)
"""Radii, in pixels, by which colours run into what is to be filled; near ones lie over far ones."""

Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a drawing begins with, and what its result is laid over."""

    picture: Image.Image
    """RGB, in the size that is drawn."""
    mask: Image.Image | None = None
    """White is drawn anew, black is kept; of the same size. None: all of it is drawn anew."""
    whole: Image.Image | None = None
    """What the drawn picture is laid over; None: nothing shows but the drawn picture."""
    cover: Image.Image | None = None
    """How much of it shows, of `whole`'s size."""
    box: Box | None = None
    """The part of `whole` that is drawn; None: all of it."""
    notes: tuple[str, ...] = field(default=())

    def with_drawn(self, drawn: Image.Image) -> Image.Image:
        """Lay what was drawn over the original."""
        if self.whole is None or self.cover is None:
            return drawn
        layer = drawn.convert("RGB")
        if self.box is not None:
            left, upper, right, lower = self.box
            layer = self.whole.copy()
            layer.paste(drawn.convert("RGB").resize((right - left, lower - upper), Image.Resampling.LANCZOS), self.box)
        elif layer.size != self.whole.size:
            layer = layer.resize(self.whole.size, Image.Resampling.LANCZOS)
        return Image.composite(layer, self.whole, self.cover)


def ground(image: Image.Image, size: tuple[int, int], resize_mode: str) -> Ground:
    """Begin with a whole picture, brought to `size`, width and height in pixels."""
    return Ground(resized(flat(image), size, resize_mode))


def masked_ground(image: Image.Image, mask: Image.Image, how: Mask, size: tuple[int, int], resize_mode: str) -> Ground:
    """Begin with the part of a picture that its mask shows; a mask without anything in it masks nothing."""
    original, soft = flat(image), softened(brightness(mask), how)
    if soft.size != original.size:
        soft = soft.resize(original.size, Image.Resampling.LANCZOS)
    if soft.getbbox() is None:
        note = "the mask is empty: the whole picture was drawn anew"
        return Ground(resized(original, size, resize_mode), notes=(note,))
    if not how.only_masked:
        picture, sized = resized(original, size, resize_mode), resized(soft, size, resize_mode)
        # As there: the soft edge is laid over twice as strongly as it is, or the seam shows.
        cover = sized.point([min(255, 2 * value) for value in range(256)])
        return Ground(filled(picture, sized, how.fill), hardened(sized), picture, cover)
    box = around(soft, how.padding, size)
    part, sized = (resized(each.crop(box), size, "fill") for each in (original, soft))
    return Ground(filled(part, sized, how.fill), hardened(sized), original, soft, box)


def flat(image: Image.Image) -> Image.Image:
    """Return a picture without transparency, laid on white."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), layer).convert("RGB")


def brightness(mask: Image.Image) -> Image.Image:
    """Return what a mask says: its transparency where it has any, or else its brightness, as in Automatic1111."""
    if "A" in mask.getbands() and mask.getchannel("A").getextrema() != (255, 255):
        return mask.getchannel("A").point([255 * (value > HALF + 1) for value in range(256)])
    return mask.convert("L")


def softened(mask: Image.Image, how: Mask) -> Image.Image:
    """Turn a mask round where that is asked for, and blur its edge."""
    turned = ImageOps.invert(mask) if how.inverted else mask
    return turned.filter(ImageFilter.GaussianBlur(how.blur)) if how.blur else turned


def hardened(mask: Image.Image) -> Image.Image:
    """Return which latents are drawn anew: white or black, the same for a whole cell."""
    chosen = np.asarray(mask) > HALF
    height, width = chosen.shape
    rows, columns = -(-height // CELL), -(-width // CELL)
    room = np.zeros((rows * CELL, columns * CELL), bool)
    room[:height, :width] = chosen
    cells = room.reshape(rows, CELL, columns, CELL).any(axis=(1, 3))
    if not cells.any():  # a mask of a few soft pixels still asks for something
        room[:height, :width] = np.asarray(mask) > 0
        cells = room.reshape(rows, CELL, columns, CELL).any(axis=(1, 3))
    spread = cells.repeat(CELL, axis=0).repeat(CELL, axis=1)[:height, :width]
    return Image.fromarray(spread.astype(np.uint8) * 255, "L")


def filled(picture: Image.Image, mask: Image.Image, fill: str) -> Image.Image:
    """Smear the colours around a mask into it; noise and nothing come over that as latents, see `passes`."""
    if fill == "original":
        return picture
    known = ImageOps.invert(mask)
    seen = Image.composite(picture, Image.new("RGB", picture.size), known)
    found = np.zeros((picture.height, picture.width, 3))
    for radius in SMEARS:
        blur = ImageFilter.GaussianBlur(radius)
        share = np.asarray(known.filter(blur), dtype=np.float64)[..., None] / 255
        colours = np.asarray(seen.filter(blur), dtype=np.float64) / np.maximum(share, 1 / 255)
        found = np.where(share > 1 / 255, np.clip(colours, 0, 255) * share + found * (1 - share), found)
    smeared = Image.fromarray(found.astype(np.uint8), "RGB")
    return Image.composite(picture, smeared, known)


def around(mask: Image.Image, padding: int, size: tuple[int, int]) -> Box:
    """Return the part of a picture that is looked at: what the mask shows, padded, in the shape of `size`.

    Where the picture has room, the part is widened to that shape, so that nothing is distorted; where it has not, the
    part keeps the shape that it has.
    """
    left, upper, right, lower = mask.getbbox() or (0, 0, *mask.size)
    left, upper = max(0, left - padding), max(0, upper - padding)
    right, lower = min(mask.width, right + padding), min(mask.height, lower + padding)
    width, height = right - left, lower - upper
    wanted = size[0] / size[1]
    if width / height < wanted:
        left, right = _widened(left, right, round(height * wanted), mask.width)
    else:
        upper, lower = _widened(upper, lower, round(width / wanted), mask.height)
    return left, upper, right, lower


def _widened(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """Make a stretch as long as wanted around its middle, within 0 to `limit`."""
    length = max(end - start, min(length, limit))
    begin = min(max(0, start - (length - (end - start)) // 2), limit - length)
    return begin, begin + length


def resized(image: Image.Image, size: tuple[int, int], mode: str) -> Image.Image:
    """Bring a picture to a size: distorted (`stretch`), cut (`crop`), or with its edges drawn out (`fill`)."""
    if image.size == size:
        return image
    width, height = size
    if mode == "stretch":
        return image.resize(size, Image.Resampling.LANCZOS)
    if mode == "crop":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    scale = min(width / image.width, height / image.height)
    inner = max(1, min(width, round(image.width * scale))), max(1, min(height, round(image.height * scale)))
    small = image.resize(inner, Image.Resampling.LANCZOS)
    left, upper = (width - inner[0]) // 2, (height - inner[1]) // 2
    padding = ((upper, height - inner[1] - upper), (left, width - inner[0] - left))
    pixels = np.asarray(small)
    spread = np.pad(pixels, padding + ((0, 0),) * (pixels.ndim - 2), mode="edge")
    return Image.fromarray(spread, image.mode)


def is_same(one: Image.Image, other: Image.Image) -> bool:
    """Say whether two pictures are equal, bit for bit."""
    return one.size == other.size and ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox() is None
