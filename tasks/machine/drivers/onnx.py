"""Networks in ONNX files that look at a picture and say something about each pixel: what is in front, how near it is.

All public ones have one contract: numbers of the shape 1 x 3 x H x W go in, normalised by channel, and one value for
each pixel comes out first. What differs, the catalogue says in `options`, or the file's name does.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image, Resampling, fromarray

from tasks.machine.drivers.contract import CannotDraw, ModelFiles

log = logging.getLogger(__name__)

Floats = np.ndarray[Any, np.dtype[np.float32]]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pictures that most of these networks have learnt from. Source: torchvision's documentation, "Models"."""

SESSIONS_BYTES = 2_000_000_000
"""Files that stay open may have so many bytes together; the one in use stays, whatever its size."""

LARGEST = 8192
"""Pixels of a side that a network may want."""

THREADS = 4
"""Of one session: these networks are small, and drawing wants the other cores."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network wants its picture, and what comes out."""

    size: int = 1024
    """Pixels of a side, where the file does not fix it."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    sigmoid: bool | None = None
    """Whether what comes out is still to be squeezed between 0 and 1; None: if it goes beyond them."""
    invert: bool = False
    """Low values are high ones."""


KNOWN: Mapping[str, Recipe] = {
    "u2net": Recipe(320, sigmoid=False),
    "silueta": Recipe(320, sigmoid=False),
    "isnet": Recipe(1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), sigmoid=False),
    "rmbg-1": Recipe(1024, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), sigmoid=False),
    "rmbg": Recipe(1024, sigmoid=False),
    "birefnet": Recipe(1024, sigmoid=True),
    "midas": Recipe(256, sigmoid=False),
    "depth-anything": Recipe(518, sigmoid=False),
}
"""By words in the names of files and ids, in small letters; the first that fits. Source of the numbers: rembg 2.0,
rembg/sessions; cards on huggingface.co; isl-org/MiDaS, the transforms of its hub."""


def recipe_of(model: ModelFiles, option: str) -> Recipe:
    """Return what the catalogue's `options` say under a name such as `background`, over what the file's name says.

    Raises CannotDraw for options that are none.
    """
    said = model.options.get(option) or {}
    names = [name.lower().replace("_", "-") for name in (model.model_id, model.path.name)]
    known = next((recipe for word, recipe in KNOWN.items() if any(word in name for name in names)), Recipe())
    if not isinstance(said, Mapping):
        return known
    try:
        return replace(known, **{name: READ[name](value) for name, value in said.items() if name in READ})
    except (TypeError, ValueError) as exc:
        raise CannotDraw(
            f'options.{option} of {model.model_id} must be such as {{"size": 1024, "mean": [0.5, 0.5, 0.5], "std": '
            f'[1, 1, 1], "sigmoid": true}}: {exc}'
        ) from exc


def _side(value: Any) -> int:
    if not 0 < int(value) <= LARGEST:
        raise ValueError(f"size is {value}")
    return int(value)


def _three(value: Any) -> tuple[float, ...]:
    red, green, blue = (float(each) for each in value)
    return red, green, blue


def _divisors(value: Any) -> tuple[float, ...]:
    if 0 in (found := _three(value)):
        raise ValueError("std has a zero")
    return found


READ: Mapping[str, Callable[[Any], Any]] = {
    "size": _side,
    "mean": _three,
    "std": _divisors,
    "sigmoid": bool,
    "invert": bool,
}
"""What options may say, and how it is read."""


def seen(model: ModelFiles, picture: Image, recipe: Recipe) -> Floats:
    """Let a network look at a picture; returns a value for each pixel, 0 to 1, of the shape (height, width).

    Raises CannotDraw where onnxruntime is missing, and for files that are no such network.
    """
    session = SESSIONS.of(model)
    given = session.get_inputs()
    height, width = (side if isinstance(side, int) and side > 0 else recipe.size for side in _sides(given, model))
    small = picture.convert("RGB").resize((width, height), Resampling.BILINEAR)
    numbers = (np.asarray(small, np.float32) / 255 - np.array(recipe.mean)) / np.array(recipe.std)
    dtype = np.float16 if given[0].type == "tensor(float16)" else np.float32
    try:
        answer = session.run(None, {given[0].name: numbers.transpose(2, 0, 1)[None].astype(dtype)})[0]
        values = np.asarray(answer, np.float32).reshape(np.shape(answer)[-2:])
    except Exception as exc:  # onnxruntime has no common class of what it raises
        raise CannotDraw(f"{model.model_id} cannot look at pictures: {_first_line(exc)}") from exc
    return _as_large_as(picture, _between_0_and_1(values, recipe))


def _sides(given: Any, model: ModelFiles) -> Any:
    shape = given[0].shape if given else ()
    if len(shape) != 4:
        raise CannotDraw(
            f"{model.model_id} is no network for pictures: it takes {len(given)} inputs, the first {shape}"
        )
    return shape[2:]


def _between_0_and_1(values: Floats, recipe: Recipe) -> Floats:
    is_raw = recipe.sigmoid if recipe.sigmoid is not None else bool(values.min() < 0 or values.max() > 1)
    if is_raw:
        values = np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))), np.float32)
    least, most = float(values.min()), float(values.max())
    # As rembg does: the most certain pixel of every picture is wholly in front. One without contrast stays as it is.
    values = (values - least) / (most - least) if most - least > 1e-6 else np.clip(values, 0, 1)
    return 1 - values if recipe.invert else values


def _as_large_as(picture: Image, values: Floats) -> Floats:
    grown = fromarray(values.astype(np.float32)).resize(picture.size, Resampling.BICUBIC)
    return np.clip(np.asarray(grown, np.float32), 0, 1)


class Sessions:
    """Files that stay open, the one used least recently first."""

    def __init__(self, budget: int = SESSIONS_BYTES) -> None:
        self._budget = budget
        self._open: OrderedDict[tuple[Path, str], tuple[Any, int]] = OrderedDict()

    def of(self, model: ModelFiles) -> Any:
        """Open a file, or find it open; raises CannotDraw."""
        key = (model.path, model.proof)
        if key not in self._open:
            path = file_of(model)
            self._open[key] = _opened(path, model), path.stat().st_size
        self._open.move_to_end(key)
        while len(self._open) > 1 and sum(size for _, size in self._open.values()) > self._budget:
            self._open.popitem(last=False)
        return self._open[key][0]

    def clear(self) -> None:
        """Close them all."""
        self._open.clear()

    def __len__(self) -> int:
        return len(self._open)


SESSIONS = Sessions()
"""Of this process: a machine draws with one thread."""


def file_of(model: ModelFiles) -> Path:
    """Return the ONNX file of a model: itself, or the only one in its folder; raises CannotDraw."""
    if not model.path.is_dir():
        return model.path
    found = sorted(model.path.rglob("*.onnx"))
    named = [path for path in found if path.name == "model.onnx"]
    if len(found) != 1 and len(named) != 1:
        raise CannotDraw(
            f"{model.model_id} has {len(found)} ONNX files; let its address bring one, such as ?include=onnx/model.onnx"
        )
    return named[0] if len(named) == 1 else found[0]


def _opened(path: Path, model: ModelFiles) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415  # for drawing workers only
    except ImportError as exc:
        raise CannotDraw(
            f"{model.model_id} is an ONNX file, and this machine cannot run it: pip install onnxruntime"
        ) from exc
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3  # warnings about shapes that every export has
    try:
        # On the CPU also beside a GPU: its memory is for drawing, and a cut-out is one short look.
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # as above
        raise CannotDraw(f"{model.model_id} is no ONNX file that can be run: {_first_line(exc)}") from exc


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
