"""Previews: from latents to colours by one small matrix, cheap enough to be made while the picture is drawn.

A latent's channels are close to a linear map of the colours of the pixels that it stands for. For two old families
that map is published; for all others, and to be better than what is published, it is learnt from the pictures that a
pipeline has drawn.
"""

import logging
import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

log = logging.getLogger(__name__)

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]

RIDGE = 0.02
"""How strongly a map is held at what is published, or small, where the pictures leave it open: one colour does."""

ENOUGH_PICTURES = 8
"""After so many pictures a pipeline's map no longer changes visibly."""

MOST_SAMPLES = 1024
"""Of each picture; 16 channels have 17 unknowns a colour."""

KNOWN: Mapping[tuple[int, float], tuple[tuple[float, float, float], ...]] = {
    # Stable Diffusion 1 and 2: https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204
    (4, 0.18215): (
        (0.298, 0.207, 0.208),
        (0.187, 0.286, 0.173),
        (-0.158, 0.189, 0.264),
        (-0.184, -0.271, -0.473),
        (0.0, 0.0, 0.0),
    ),
    # Stable Diffusion XL: diffusers' documentation, "Pipeline callbacks", "Display image after each generation step";
    # there in 0 to 255, here in -1 to 1.
    (4, 0.13025): (
        (0.471, 0.471, 0.471),
        (-0.471, -0.039, 0.078),
        (0.196, 0.118, -0.039),
        (-0.549, -0.392, -0.275),
        (0.176, 0.098, 0.02),
    ),
}
"""By channels and scaling factor of the autoencoder: a row for each channel, a last one for what is added; -1 to 1."""


class LatentColours:
    """What the latents of one pipeline look like. One thread draws and lets it learn, another asks for previews."""

    def __init__(self, scaling_factor: float = 0.0) -> None:
        self._scaling_factor = scaling_factor
        self._squares: Floats | None = None
        self._products: Floats | None = None
        self._pictures = 0
        self._lock = threading.Lock()

    def picture(self, latents: Floats) -> Image.Image:
        """Show latents of shape (channels, height, width): a picture of height by width pixels."""
        channels, height, width = latents.shape
        samples = _with_one(latents.reshape(channels, -1).T)
        matrix = self._matrix(channels)
        colours = _spread(samples[:, :-1]) if matrix is None else np.nan_to_num(samples @ matrix)
        pixels = np.clip((colours + 1) * 127.5, 0, 255).astype(np.uint8)
        return Image.fromarray(pixels.reshape(height, width, 3), "RGB")

    def learn(self, latents: Floats, picture: Image.Image) -> None:
        """Learn from the last latents of a picture what they look like."""
        if self._pictures >= ENOUGH_PICTURES:
            return
        channels, height, width = latents.shape
        small = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
        wanted = np.asarray(small, dtype=np.float64).reshape(-1, 3) / 127.5 - 1
        stride = max(1, math.ceil(height * width / MOST_SAMPLES))
        samples = _with_one(latents.reshape(channels, -1).T)[::stride]
        if not np.isfinite(samples).all():
            return  # a broken picture teaches nothing
        wanted = wanted[::stride]
        with self._lock:
            if self._squares is None or self._products is None or len(self._squares) != channels + 1:
                self._squares = np.zeros((channels + 1, channels + 1))
                self._products = np.zeros((channels + 1, 3))
            self._squares = self._squares + samples.T @ samples / len(samples)
            self._products = self._products + samples.T @ wanted / len(samples)
            self._pictures += 1

    def _matrix(self, channels: int) -> Floats | None:
        published = KNOWN.get((channels, round(self._scaling_factor, 5)))
        known = None if published is None else np.array(published)
        with self._lock:
            squares, products = self._squares, self._products
        if squares is None or products is None or len(squares) != channels + 1:
            return known
        held = np.zeros((channels + 1, 3)) if known is None else known
        return np.linalg.solve(squares + RIDGE * np.eye(channels + 1), products + RIDGE * held)


def image_shaped(latents: Floats, width: int | None, height: int | None) -> Floats:
    """Bring one picture's latents into the shape (channels, height, width).

    Flux packs squares of four latents into one row of a sequence: diffusers, `FluxPipeline._pack_latents`. Width and
    height of the picture say how long its lines are; without them it is taken for a square.
    """
    if latents.ndim == 3:
        return latents
    length, packed = latents.shape
    ratio = width / height if width and height else 1.0
    rows = max(1, round(math.sqrt(length / ratio)))
    while length % rows:
        rows -= 1
    columns = length // rows
    squares = latents.reshape(rows, columns, packed // 4, 2, 2)
    return squares.transpose(2, 0, 3, 1, 4).reshape(packed // 4, rows * 2, columns * 2)


def _with_one(samples: Floats) -> Floats:
    return np.concatenate([samples, np.ones((len(samples), 1))], axis=1).astype(np.float64)


def _spread(channels: Floats) -> Floats:
    """Show the first three channels, each spread over the whole range: nothing better is known."""
    three = np.nan_to_num(channels[:, [min(k, channels.shape[1] - 1) for k in range(3)]])
    middle, width = three.mean(axis=0), three.std(axis=0)
    spread: Floats = (three - middle) / np.maximum(2 * width, 1e-6)
    return spread
