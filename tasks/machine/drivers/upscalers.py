"""Making pictures larger: by resampling, or by a network of the ESRGAN kind, tile by tile.

The networks are read from their weights alone, with torch and nothing else: the packages for them need torchvision,
of which there is no build beside torch's for CPUs. Three layouts of RRDBNet are known (ESRGAN of 2018, its successor,
Real-ESRGAN) and Real-ESRGAN's compact one.
Source: https://github.com/xinntao/Real-ESRGAN and https://github.com/xinntao/BasicSR, archs/rrdbnet_arch.py and
srvgg_arch.py.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tasks.machine.drivers import pickles
from tasks.machine.drivers.contract import CannotDraw, ModelFiles
from tasks.machine.drivers.estimate import weight_of_files

RESAMPLING = {"Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST}

PRECISION = "float32"
"""Everywhere: these networks are small, and half of it leaves bands in the sky."""

TILE = 192
"""Pixels of a tile's side: 0.5 GB at most for a network that makes it four times as large, whatever the picture is."""

OVERLAP = 16
"""Pixels that a tile sees beyond what is taken of it, so that no seam shows."""

MOST_ROUNDS = 3
"""So often a network goes over a picture to reach the size asked for, as in Automatic1111."""

RENAMED = (
    # ESRGAN of 2018, a numbered sequence; the numbers after the trunk are settled by `_numbered`.
    (r"model\.0\.(.*)", r"conv_first.\1"),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(.*)", r"body.\1.rdb\2.conv\3.\4"),
    (r"model\.1\.sub\.\d+\.(weight|bias)", r"conv_body.\1"),
    # Its successor.
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.(.*)", r"body.\1.rdb\2.\3"),
    (r"trunk_conv\.(.*)", r"conv_body.\1"),
    (r"upconv(\d)\.(.*)", r"conv_up\1.\2"),
    (r"HRconv\.(.*)", r"conv_hr.\1"),
)
"""From older names to Real-ESRGAN's."""


@dataclass(slots=True)
class Network:
    """An upscaling network, as the cache of pipelines holds networks: its tensors can be counted and moved."""

    weights: dict[str, Any]
    scale: int
    unshuffle: int = 1
    """How many pixels of a side it takes at once."""
    is_compact: bool = False
    others: list[Any] = field(default_factory=list)

    def parameters(self) -> Iterator[Any]:
        """Return its tensors."""
        return iter(self.weights.values())

    def buffers(self) -> Iterator[Any]:
        """Return nothing: all of it are weights."""
        return iter(self.others)

    def to(self, device: str) -> "Network":
        """Move it."""
        self.weights = {name: tensor.to(device) for name, tensor in self.weights.items()}
        return self

    def __call__(self, torch: Any, pixels: Any) -> Any:
        """Enlarge pixels of shape (1, 3, height, width), 0 to 1."""
        functions = torch.nn.functional
        if self.is_compact:
            return self._compact(functions, pixels)
        if self.unshuffle > 1:
            pixels = functions.pixel_unshuffle(pixels, self.unshuffle)
        first = self._conv(functions, "conv_first", pixels)
        found = first
        for block in range(self._count(r"body\.(\d+)\.")):
            found = self._block(torch, found, f"body.{block}")
        found = first + self._conv(functions, "conv_body", found)
        for number in range(1, self._count(r"conv_up(\d+)\.", first=1)):
            larger = functions.interpolate(found, scale_factor=2, mode="nearest")
            found = functions.leaky_relu(self._conv(functions, f"conv_up{number}", larger), 0.2)
        found = functions.leaky_relu(self._conv(functions, "conv_hr", found), 0.2)
        return self._conv(functions, "conv_last", found)

    def _block(self, torch: Any, start: Any, name: str) -> Any:
        """Go through a residual block of three dense ones."""
        functions, found = torch.nn.functional, start
        for dense in range(1, 4):
            seen = [found]
            for step in range(1, 5):
                outcome = self._conv(functions, f"{name}.rdb{dense}.conv{step}", torch.cat(seen, 1))
                seen.append(functions.leaky_relu(outcome, 0.2))
            found = found + 0.2 * self._conv(functions, f"{name}.rdb{dense}.conv5", torch.cat(seen, 1))
        return start + 0.2 * found

    def _compact(self, functions: Any, pixels: Any) -> Any:
        """Go through convolutions with activations between them, and shuffle what comes out into pixels."""
        found = pixels
        for number in range(self._count(r"body\.(\d+)\.")):
            weight = self.weights[f"body.{number}.weight"]
            is_activation = weight.ndim == 1
            found = functions.prelu(found, weight) if is_activation else self._conv(functions, f"body.{number}", found)
        larger = functions.interpolate(pixels, scale_factor=self.scale, mode="nearest")
        return functions.pixel_shuffle(found, self.scale) + larger

    def _conv(self, functions: Any, name: str, pixels: Any) -> Any:
        weight = self.weights[f"{name}.weight"]
        return functions.conv2d(pixels, weight, self.weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def _count(self, pattern: str, first: int = 0) -> int:
        numbers = [int(found[1]) for name in self.weights if (found := re.match(pattern, name))]
        return max(numbers, default=first - 1) + 1


def read(model: ModelFiles, *, allow_pickles: bool = False) -> Network:
    """Read a network from its file; raises CannotDraw for one that is none of those."""
    path = _file_of(model)
    weights = _renamed(_weights_of(path, allow_pickles=allow_pickles))
    try:
        return _network(weights)
    except (KeyError, ValueError) as exc:
        raise CannotDraw(
            f"{model.model_id} is no upscaler that can be read: RRDBNet (ESRGAN, Real-ESRGAN) and Real-ESRGAN's "
            f"compact networks can, in .safetensors; here {exc} is missing"
        ) from exc


def _file_of(model: ModelFiles) -> Path:
    if not model.path.is_dir():
        return model.path
    files = sorted(each for each in model.path.iterdir() if each.suffix in {".safetensors", ".pth", ".pt"})
    if not files:
        raise CannotDraw(f"{model.model_id} has no .safetensors file in it")
    return files[0]


def _weights_of(path: Path, *, allow_pickles: bool) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError  # noqa: PLC0415  # for drawing workers only
        from safetensors.torch import load_file  # noqa: PLC0415  # as above

        try:
            return dict(load_file(path))
        except SafetensorError as exc:
            raise CannotDraw(f"{path.name} cannot be read: {exc}") from exc
    return pickles.read(path, allowed=allow_pickles)


def _renamed(weights: Mapping[str, Any]) -> dict[str, Any]:
    weights = _numbered(weights)
    found = {}
    for name, tensor in weights.items():
        plain = name.removeprefix("module.")
        for pattern, replacement in RENAMED:
            if re.fullmatch(pattern, plain):
                plain = re.sub(pattern, replacement, plain)
                break
        found[plain] = tensor
    return found


def _numbered(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name what follows the trunk in ESRGAN's numbered sequence: one or more for enlarging, then two more."""
    after = sorted({int(found[1]) for name in weights if (found := re.fullmatch(r"model\.(\d+)\.weight", name))} - {0})
    if len(after) < 2:
        return weights
    names = {after[-1]: "conv_last", after[-2]: "conv_hr"}
    names |= {number: f"conv_up{place}" for place, number in enumerate(after[:-2], 1)}
    renamed: dict[str, Any] = {}
    for name, tensor in weights.items():
        match = re.fullmatch(r"model\.(\d+)\.(weight|bias)", name)
        known = match and names.get(int(match[1]))
        renamed[f"{known}.{match[2]}" if match and known else name] = tensor
    return renamed


def _network(weights: dict[str, Any]) -> Network:
    tensors = {name: tensor.float() for name, tensor in weights.items() if hasattr(tensor, "ndim")}
    if "conv_first.weight" not in tensors and "body.0.weight" in tensors:
        numbers = [int(found[1]) for name in tensors if (found := re.fullmatch(r"body\.(\d+)\.weight", name))]
        colours = tensors[f"body.{max(numbers)}.weight"].shape[0]
        return Network(tensors, math.isqrt(colours // 3), is_compact=True)
    for name in ("conv_first", "body.0.rdb1.conv1", "conv_body", "conv_hr", "conv_last"):
        if f"{name}.weight" not in tensors:
            raise KeyError(name)
    unshuffle = math.isqrt(tensors["conv_first.weight"].shape[1] // 3)
    ups = sum(1 for name in tensors if re.fullmatch(r"conv_up\d\.weight", name))
    if tensors["conv_first.weight"].shape[1] != 3 * unshuffle**2 or 2**ups < unshuffle:
        raise ValueError("a shape that enlarges colours")
    return Network(tensors, 2**ups // unshuffle, unshuffle)


def resampled(image: Image.Image, size: tuple[int, int], name: str) -> Image.Image:
    """Bring a picture to a size without a network; raises KeyError for an unknown name."""
    return image.resize(size, RESAMPLING[name])


def enlarged(
    torch: Any, network: Network, image: Image.Image, size: tuple[int, int], on_tile: Callable[[], None]
) -> Image.Image:
    """Bring a picture to a size with a network: as often as it takes, then down to it. `on_tile` may stop it."""
    found = image.convert("RGB")
    for _ in range(MOST_ROUNDS):
        if network.scale < 2 or (found.width >= size[0] and found.height >= size[1]):
            break
        found = _once(torch, network, found, on_tile)
    return found if found.size == size else found.resize(size, Image.Resampling.LANCZOS)


def _once(torch: Any, network: Network, image: Image.Image, on_tile: Callable[[], None]) -> Image.Image:
    """Enlarge a picture by the network's factor, tile by tile."""
    scale = network.scale
    result = Image.new("RGB", (image.width * scale, image.height * scale))
    for upper in range(0, image.height, TILE):
        for left in range(0, image.width, TILE):
            on_tile()
            right, lower = min(left + TILE, image.width), min(upper + TILE, image.height)
            seen = (
                max(0, left - OVERLAP),
                max(0, upper - OVERLAP),
                min(image.width, right + OVERLAP),
                min(image.height, lower + OVERLAP),
            )
            tile = _tile(torch, network, image.crop(seen))
            x, y = seen[:2]
            inner = (left - x) * scale, (upper - y) * scale, (right - x) * scale, (lower - y) * scale
            result.paste(tile.crop(inner), (left * scale, upper * scale))
    return result


def _tile(torch: Any, network: Network, tile: Image.Image) -> Image.Image:
    import numpy as np  # noqa: PLC0415  # for drawing workers only

    weight = next(network.parameters())
    with torch.no_grad():
        pixels = torch.from_numpy(np.asarray(tile).copy()).to(weight.device).float() / 255
        pixels = pixels.permute(2, 0, 1)[None]
        below, beside = (-tile.height % network.unshuffle, -tile.width % network.unshuffle)
        if below or beside:
            pixels = torch.nn.functional.pad(pixels, (0, beside, 0, below), mode="replicate")
        found = network(torch, pixels)[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    height, width = tile.height * network.scale, tile.width * network.scale
    return Image.fromarray(found[:height, :width], "RGB")


def size_of_file(model: ModelFiles) -> int:
    """Return what a network will take in memory, bytes."""
    return weight_of_files(_file_of(model), PRECISION)
