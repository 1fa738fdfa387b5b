"""Says what a picture of the demo model shows, from its pixels alone: no torch, no model, no renderer.

End-to-end tests use it to assert on the content of generated pictures, as in
`assert not check(image, "a red circle on a blue background").wrong`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Grid = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (210, 25, 35),
    "orange": (240, 120, 10),
    "yellow": (255, 230, 40),
    "green": (30, 160, 60),
    "blue": (30, 70, 220),
    "purple": (130, 40, 180),
    "pink": (255, 130, 180),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
}


def _in_star(x: Grid, y: Grid) -> Mask:
    """Tell which points of the box lie in a five-pointed star: inside all but one of five lines at most."""
    # A regular star's box is 1.902 wide and 1.809 high, with its centre 0.095 below the middle (unit radius).
    across, down = x * 0.951, y * 0.9045 - 0.0955
    turns = [2 * np.pi * i / 5 for i in range(5)]
    beyond = [np.sin(t) * across - np.cos(t) * down > 0.34 for t in turns]
    few: Mask = np.sum(beyond, axis=0) <= 1
    return few


def _in_heart(x: Grid, y: Grid) -> Mask:
    """Tell which points of the box lie in a heart: two round lobes over a tip."""
    lobes = (np.abs(x) - 0.5) ** 2 + ((y + 0.42) / 1.16) ** 2 <= 0.25
    return lobes | ((np.abs(x) <= 1.0 - (y + 0.25) * 0.8) & (y > -0.42))


SHAPES: dict[str, Callable[[Grid, Grid], Mask]] = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, _: np.abs(x) <= 1,
    "triangle": lambda x, y: np.abs(x) <= (y + 1) / 2,
    "diamond": lambda x, y: np.abs(x) + np.abs(y) <= 1,
    "star": _in_star,
    "heart": _in_heart,
    "cross": lambda x, y: np.minimum(np.abs(x), np.abs(y)) <= 0.33,
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.3),
}
"""Which points of a figure's own box, from -1 to 1 both ways with y downwards, belong to it."""

PLACES = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))


@dataclass(frozen=True, slots=True)
class Findings:
    """What a picture shows, and which of the wishes it misses; None where nothing could be made out."""

    colour: str | None
    background: str
    shape: str | None
    size: str | None
    place: str | None
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a prompt asks for; None where it leaves the choice open."""

    colour: str | None = None
    background: str | None = None
    shape: str | None = None
    size: str | None = None
    place: str | None = None


def parse(prompt: str) -> Wishes:
    """Read a caption such as "a large red circle on a blue background in the top left"."""
    text = prompt.lower().replace("grey", "gray").replace("centre", "center")
    colours, shapes = "|".join(COLOURS), "|".join(SHAPES)
    figure = re.search(rf"(?:({colours}) )?({shapes})\b", text)
    background = re.search(rf"\bon (?:an? )?({colours})\b", text)
    size = re.search(r"\b(small|medium|large)\b", text)
    place = re.search(r"\b(?:in|at|on) the ((?:top|bottom)(?: left| right)?|left|right|center)\b", text)
    return Wishes(
        colour=figure and figure[1],
        background=background and background[1],
        shape=figure and figure[2],
        size=size and size[1],
        place=place and place[1],
    )


def check(image: Image.Image, wishes: str | Wishes) -> Findings:
    """Look at a picture of any size, and name in `wrong` each wish that it does not fulfil."""
    if isinstance(wishes, str):
        wishes = parse(wishes)
    seen = look(image)
    names = ("colour", "background", "shape", "size", "place")
    wrong = tuple(n for n in names if getattr(wishes, n) not in (None, getattr(seen, n)))
    return Findings(seen.colour, seen.background, seen.shape, seen.size, seen.place, wrong)


def look(image: Image.Image) -> Findings:
    """Say what a picture shows, asking for nothing."""
    pixels = np.asarray(image.convert("RGB").resize((128, 128), Image.Resampling.BILINEAR), dtype=np.float64)
    edge = np.ones((128, 128), dtype=np.bool_)
    edge[3:-3, 3:-3] = False
    ground = np.median(pixels[edge], axis=0)
    background = _nearest_colour(ground)
    distance = np.linalg.norm(pixels - ground, axis=2)
    # Half of the strongest contrast is where a smooth edge has its middle; palette colours differ by 100.
    strongest = float(np.quantile(distance, 0.99))
    mask = distance > strongest / 2
    # Without contrast there is no figure; with a ragged edge there is no background that one could lie on.
    if strongest < 50 or mask.sum() < 100 or mask[edge].mean() > 0.1:
        return Findings(None, background, None, None, None)
    left, top, right, bottom = _box(mask)
    inner = distance > strongest * 0.85
    colour = _nearest_colour(np.median(pixels[inner], axis=0))
    half = max(right - left, bottom - top) / 2
    size = "small" if half < 23 else "medium" if half < 32.5 else "large"
    across, down = (left + right) / 2 - 64, (top + bottom) / 2 - 64
    # Figures beside the centre lie at least 14 pixels off, those in the centre at most 2.
    column, row = (0 if off < -8 else 2 if off > 8 else 1 for off in (across, down))
    return Findings(colour, background, _nearest_shape(mask[top:bottom, left:right]), size, PLACES[row][column])


def _nearest_colour(rgb: npt.NDArray[np.float64]) -> str:
    return min(COLOURS, key=lambda name: float(np.linalg.norm(rgb - np.array(COLOURS[name]))))


def _box(mask: Mask) -> tuple[int, int, int, int]:
    """Return the figure's box; rows and columns with one or two stray pixels do not count."""
    columns, rows = np.flatnonzero(mask.sum(axis=0) > 2), np.flatnonzero(mask.sum(axis=1) > 2)
    if not columns.size or not rows.size:
        return 0, 0, mask.shape[1], mask.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _nearest_shape(figure: Mask) -> str | None:
    """Compare a figure, cut out at its box, with the formula of each shape; the best overlap wins."""
    height, width = figure.shape
    y, x = np.meshgrid(
        (np.arange(height) + 0.5) / height * 2 - 1, (np.arange(width) + 0.5) / width * 2 - 1, indexing="ij"
    )
    overlaps = {name: _overlap(figure, inside(x, y)) for name, inside in SHAPES.items()}
    best = max(overlaps, key=lambda name: overlaps[name])
    # True shapes overlap their formula by 0.9 and more; a smear overlaps the square or the circle by about 0.6.
    return best if overlaps[best] > 0.7 else None


def _overlap(a: Mask, b: Mask) -> float:
    """Return the intersection over the union."""
    return float((a & b).sum() / max(1, (a | b).sum()))
