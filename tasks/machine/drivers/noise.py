"""The noise that a picture begins with, between those of two seeds: Automatic1111's variation seeds.

Source: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/rng.py.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tasks.machine.drivers.contract import CannotDraw

LEAST_SINE = 1e-6
"""Of the angle between two noises, which random ones never come near to."""


@contextmanager
def variation(pipeline: Any, subseeds: Sequence[int], strength: float) -> Iterator[None]:
    """Let a pipeline begin with noise on the way from its own to that of the subseeds, one for each picture of a batch.

    A strength of 0 is its own noise, and 1 that of the subseeds, bit for bit. Within this the pipeline is called once;
    the pipelines of one process draw one after the other. Raises CannotDraw.

    Pipelines of all families and tasks draw that noise first, by a function of their module. Putting another one there
    leaves shapes, precision and packing to them.
    """
    if not strength:
        yield
        return
    names = getattr(getattr(type(pipeline), "prepare_latents", None), "__globals__", {})
    draw = names.get("randn_tensor")
    if draw is None:
        raise CannotDraw("variation seeds are not for this kind of model; leave subseed_strength out")
    is_first = True

    def between(shape: Any, generator: Any = None, **more: Any) -> Any:
        nonlocal is_first
        noise = draw(shape, generator=generator, **more)
        if not is_first:
            return noise
        is_first = False
        return _between(noise, draw(shape, generator=_generators(subseeds), **more), strength)

    names["randn_tensor"] = between
    try:
        yield
    finally:
        names["randn_tensor"] = draw


def _generators(seeds: Sequence[int]) -> list[Any]:
    import torch  # noqa: PLC0415  # for drawing workers only

    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def _between(noise: Any, other: Any, strength: float) -> Any:
    """Go along the arc from one to the other; along the straight line there would be less noise in between.

    Both have the shape (batch, channels, height, width). As there, each column of a channel has an arc of its own.
    """
    import torch  # noqa: PLC0415  # for drawing workers only

    if strength == 1:
        return other
    low, high = noise.float(), other.float()
    norms = [torch.linalg.vector_norm(each, dim=2, keepdim=True) for each in (low, high)]
    cosine = (low * high).sum(dim=2, keepdim=True) / (norms[0] * norms[1])
    angle = torch.acos(cosine.clamp(-1, 1))
    sine = torch.sin(angle).clamp(min=LEAST_SINE)
    arc = (torch.sin((1 - strength) * angle) * low + torch.sin(strength * angle) * high) / sine
    return arc.to(noise.dtype)
