"""Canny's edges, in numpy and scipy: what a ControlNet of kind canny has learnt from.

Source: J. Canny 1986, "A Computational Approach to Edge Detection", with the choices of OpenCV's `Canny`: Sobel's
gradient over 3 x 3 pixels, its size as the sum of both sides, and no smoothing before it.
"""

from typing import Any

import numpy as np
from PIL.Image import Image, fromarray

LOW, HIGH = 100, 200
"""Sizes of gradients of pictures from 0 to 255, as the authors of the ControlNet for edges took them. Source:
lllyasviel/ControlNet, gradio_canny2image.py."""


def canny(picture: Image, low: int = LOW, high: int = HIGH) -> Image:
    """Draw the edges of a picture in white on black: those above `high`, and those above `low` that touch them."""
    from scipy import ndimage  # noqa: PLC0415  # for drawing workers only

    grey = np.asarray(picture.convert("L"), np.float32)
    across, down = ndimage.sobel(grey, axis=1, mode="nearest"), ndimage.sobel(grey, axis=0, mode="nearest")
    sizes = np.abs(across) + np.abs(down)
    thin = sizes * _is_ridge(sizes, across, down)
    lines, _ = ndimage.label(thin > low, structure=np.ones((3, 3)))
    strong = np.unique(lines[thin > high])
    edges = np.isin(lines, strong[strong > 0])
    return fromarray((edges * 255).astype(np.uint8)).convert("RGB")


def _is_ridge(sizes: Any, across: Any, down: Any) -> Any:
    """Say where the gradient is not smaller than at both neighbours that it points to: there the edge is."""
    padded = np.pad(sizes, 1)
    height, width = sizes.shape

    def neighbour(step_down: int, step_across: int) -> Any:
        return padded[1 + step_down : 1 + step_down + height, 1 + step_across : 1 + step_across + width]

    # Four directions, each for the angles within 22.5 degrees of it.
    steep = np.tan(np.pi / 8)
    is_flat = np.abs(down) <= steep * np.abs(across)
    is_upright = np.abs(across) <= steep * np.abs(down)
    is_falling = ~is_flat & ~is_upright & (across * down > 0)
    is_rising = ~is_flat & ~is_upright & ~is_falling
    rows = ((is_flat, (0, 1)), (is_upright, (1, 0)), (is_falling, (1, 1)), (is_rising, (1, -1)))
    ridge = np.zeros_like(sizes, bool)
    for where, (y, x) in rows:
        # Of two equal ones side by side, one remains.
        ridge |= where & (sizes > neighbour(-y, -x)) & (sizes >= neighbour(y, x))
    return ridge
