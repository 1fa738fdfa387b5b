"""Draws the pictures that the demo model learns: one flat figure on one flat background."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
RGB = tuple[int, int, int]

SIDE = 128
"""Native width and height of a picture, in pixels: 16 latents of 8 pixels each."""

SUPERSAMPLING = 3
"""Masks are drawn this much larger and reduced, so that edges are smooth; Pillow draws hard edges."""

# Any two lie at least 100 apart in RGB, so that a colour is still the nearest one after a lossy decoder.
COLOURS: dict[str, RGB] = {
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

SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "ring")

SIZES: dict[str, tuple[float, float]] = {"small": (18.0, 21.0), "medium": (26.0, 31.0), "large": (36.0, 41.0)}
"""Half the longer side of a figure in pixels, from and to: sizes never overlap."""

PLACES: dict[str, tuple[int, int]] = {
    "top left": (-1, -1),
    "top": (0, -1),
    "top right": (1, -1),
    "left": (-1, 0),
    "center": (0, 0),
    "right": (1, 0),
    "bottom left": (-1, 1),
    "bottom": (0, 1),
    "bottom right": (1, 1),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """What one picture shows, in words."""

    shape: str
    colour: str
    background: str
    size: str = "large"
    place: str = "center"


def draw(scene: Scene, rng: np.random.Generator | None = None, side: int = SIDE) -> Image.Image:
    """Draw a scene as an RGB picture of `side` by `side` pixels.

    With `rng`, the figure's radius and centre vary inside what the words allow; without it they are the middle.
    """
    smallest, largest = SIZES[scene.size]
    radius, shift = (smallest + largest) / 2, (0.0, 0.0)
    if rng is not None:
        radius = float(rng.uniform(smallest, largest))
        shift = (float(rng.uniform(-2, 2)), float(rng.uniform(-2, 2)))
    # Large figures stay 5 pixels away from the edge; small ones keep more background around them.
    reach = min(38.0, SIDE / 2 - 7 - radius)
    across, down = PLACES[scene.place]
    centre = (SIDE / 2 + across * reach + shift[0], SIDE / 2 + down * reach + shift[1])
    scale = SUPERSAMPLING * side / SIDE
    mask = Image.new("L", (SUPERSAMPLING * side, SUPERSAMPLING * side), 0)
    pencil = ImageDraw.Draw(mask)
    for ink, outline in zip((255, 0), outlines(scene.shape), strict=False):
        pencil.polygon(
            [((centre[0] + radius * x) * scale, (centre[1] + radius * y) * scale) for x, y in outline], fill=ink
        )
    mask = mask.reduce(SUPERSAMPLING)
    background = Image.new("RGB", (side, side), COLOURS[scene.background])
    background.paste(COLOURS[scene.colour], (0, 0), mask)
    return background


def outlines(shape: str) -> tuple[list[Point], ...]:
    """Return the outer outline, and the hole if there is one, in a box from -1 to 1 (y grows downwards)."""
    half = [(-0.33, -1.0), (0.33, -1.0), (0.33, -0.33), (1.0, -0.33), (1.0, 0.33), (0.33, 0.33)]
    return {
        "circle": (_circle(1.0),),
        "square": ([(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)],),
        "triangle": ([(0.0, -0.95), (1.0, 0.95), (-1.0, 0.95)],),
        "diamond": ([(0.0, -1.0), (0.85, 0.0), (0.0, 1.0), (-0.85, 0.0)],),
        "star": (_fill_box([_polar(1.0 if i % 2 == 0 else 0.42, i / 10) for i in range(10)]),),
        "heart": (_fill_box([_heart(i / 64) for i in range(64)]),),
        "cross": (half + [(-x, -y) for x, y in half],),
        "ring": (_circle(1.0), _circle(0.55)),
    }[shape]


def _polar(radius: float, turn: float) -> Point:
    """Return the point at a fraction of a full turn, clockwise from the top."""
    return radius * math.sin(math.tau * turn), -radius * math.cos(math.tau * turn)


def _circle(radius: float) -> list[Point]:
    return [_polar(radius, i / 64) for i in range(64)]


def _heart(turn: float) -> Point:
    """Return a point of the well-known heart curve (Wolfram MathWorld, "Heart Curve")."""
    t = math.tau * turn
    return 16 * math.sin(t) ** 3, -13 * math.cos(t) + 5 * math.cos(2 * t) + 2 * math.cos(3 * t) + math.cos(4 * t)


def _fill_box(points: list[Point]) -> list[Point]:
    """Move and scale an outline so that its longer side spans -1 to 1 and its middle is the origin."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    middle = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2
    return [((x - middle[0]) / half, (y - middle[1]) / half) for x, y in points]
