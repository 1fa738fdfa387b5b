"""How much memory drawing with a model takes, before it is loaded: from the headers of its files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.machine.drivers import detect, headers
from tasks.machine.drivers.headers import Tensor
from tasks.machine.drivers.plan import Plan

WIDTHS: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number, by torch's name of its type."""

DEFAULT_ACTIVATIONS = 2.5
"""GB, for a family that has no row."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes."""

    weights: Mapping[str, int]
    """Of each component."""
    activations: int
    """What one picture takes beside the weights, at its peak."""

    @property
    def all_weights(self) -> int:
        """Return what all components take."""
        return sum(self.weights.values())

    @property
    def total(self) -> int:
        """Return what has to be free before the model is loaded and drawn with."""
        return self.all_weights + self.activations


def estimate(plan: Plan, dtype: str, width: int | None = None, height: int | None = None) -> Estimate:
    """Estimate what a plan takes when drawn with in `dtype`, one picture of `width` by `height` pixels at a time.

    Weights are exact to some percent: what a file holds, in the precision that it is loaded in. Activations are a
    family's figure, scaled with the pixels and the precision.
    """
    weights = {name: weight(component.tensors, dtype) for name, component in plan.components.items()}
    return Estimate(weights, activations(plan, dtype, width, height))


def weight(tensors: list[Tensor], dtype: str) -> int:
    """Return what tensors take in memory, bytes: numbers with a point in `dtype`, others as they are."""
    return sum(tensor.count * WIDTHS[dtype] if tensor.is_float else tensor.size for tensor in tensors)


def weight_of_files(path: Path, dtype: str) -> int:
    """Return what the networks in a file, or in a folder of files, take in memory, bytes; of pickles at most.

    Raises CannotDraw for broken headers.
    """
    folders = sorted({file.parent for file in path.rglob("*") if file.is_file()}) if path.is_dir() else []
    files = [file for folder in folders for file in detect.loaded_of(folder) or detect.weights_of(folder)]
    return sum(
        weight(list(headers.read(file).values()), dtype) if file.suffix in detect.SAFE else 2 * file.stat().st_size
        for file in (files if path.is_dir() else [path])
    )


def activations(plan: Plan, dtype: str, width: int | None, height: int | None) -> int:
    """Return what one picture takes beside the weights, bytes."""
    family = plan.family
    if family is None:
        return int(DEFAULT_ACTIVATIONS * 1e9 * WIDTHS[dtype] / 2)
    pixels = (width or family.size) * (height or family.size)
    return int(family.activations * 1e9 * pixels / family.size**2 * WIDTHS[dtype] / 2)
