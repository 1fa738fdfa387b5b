"""Weights in Python's pickle format, where a machine allows it: read so that nothing else is unpickled."""

from pathlib import Path
from typing import Any

from tasks.machine.drivers import detect
from tasks.machine.drivers.contract import CannotDraw

WRAPPERS = ("state_dict", "params_ema", "params", "string_to_param")
"""Under which names trainers put the weights: of checkpoints, of upscalers, of Automatic1111's embeddings."""


def read(path: Path, *, allowed: bool, device: str = "cpu") -> dict[str, Any]:
    """Return the tensors of a file by name; on the device `meta` without what is in them.

    Raises CannotDraw where pickles are not allowed, and for what holds no weights: torch, `torch.load`, `weights_only`.
    """
    import torch  # noqa: PLC0415  # for drawing workers only

    detect.refuse_pickles([path.name], allowed=allowed)
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as exc:  # a broken pickle raises whatever it stumbles over
        first = str(exc).strip().partition("\n")[0] or type(exc).__name__
        raise CannotDraw(f"{path.name} holds no weights that can be loaded safely: {first}") from exc
    while isinstance(content, dict) and (inside := _within(content)) is not None:
        content = inside
    if not isinstance(content, dict):
        raise CannotDraw(f"{path.name} holds no weights by name")
    return {str(name): each for name, each in content.items() if isinstance(each, torch.Tensor)}


def _within(content: dict[Any, Any]) -> dict[Any, Any] | None:
    return next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), None)
