"""From what a server answers to pictures. It is not believed: number, form and size are looked at. Pure."""

import base64
import binascii
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from tasks.machine.drivers.a1111.errors import ServerFailed


@dataclass(frozen=True, slots=True)
class Drawn:
    """The pictures of one answer."""

    images: tuple[Image.Image, ...]
    seeds: tuple[int, ...]
    """As many as the server told, at most one for each picture."""
    steps: int | None
    about: Mapping[str, str]
    """What the server says that it drew with, for the pictures' receipts."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How far the server is with what it draws at the moment."""

    step: int
    """Of all passes together."""
    steps: int
    picture: str | None
    """In base64, where it shows one."""


def drawn(answer: Any, wanted: int, size: tuple[int, int] | None) -> Drawn:
    """Read the answer to a request that draws; raises ServerFailed when it is not what was ordered."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("images"), list):
        raise ServerFailed("the answer has no list of images")
    info = _info(answer.get("info"))
    first = _number(info.get("index_of_first_image")) or 0  # a grid of them all may come first
    files = answer["images"][first:]
    if len(files) < wanted:
        raise ServerFailed(f"{len(files)} of {wanted} pictures came back; somebody may have interrupted it there")
    images = tuple(picture(file) for file in files[:wanted])
    for image in images:
        if size is not None and image.size != size:
            raise ServerFailed(f"a picture of {size[0]}x{size[1]} was ordered, and one of {_by(image.size)} came back")
    seeds = info.get("all_seeds")
    known = [_number(seed) for seed in seeds[:wanted]] if isinstance(seeds, list) else []
    return Drawn(images, tuple(seed for seed in known if seed is not None), _number(info.get("steps")), _about(info))


def picture(file: Any) -> Image.Image:
    """Decode a picture in base64, with or without `data:...,` before it; raises ServerFailed."""
    if not isinstance(file, str):
        raise ServerFailed("what should be a picture in base64 is no text")
    try:
        data = base64.b64decode(file.partition(",")[2] if file.startswith("data:") else file, validate=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            found = Image.open(io.BytesIO(data))
            found.load()
    except (
        binascii.Error,
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,  # of Pillow's, for a broken PNG
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as exc:
        raise ServerFailed(f"a picture that came back cannot be read: {exc}") from exc
    return found if found.mode in {"RGB", "RGBA"} else found.convert("RGB")


def moment(answer: Any) -> Moment | None:
    """Read how far it is; None where it draws nothing, or loads a model."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("state"), Mapping):
        return None
    state = answer["state"]
    steps, jobs = _number(state.get("sampling_steps")) or 0, _number(state.get("job_count")) or 0
    if steps < 1 or jobs < 1:
        return None
    # A pass is a job of its own: the second one of the high-res fix, and each picture of a batch in turn.
    done = min(_number(state.get("job_no")) or 0, jobs - 1) * steps + min(
        _number(state.get("sampling_step")) or 0, steps
    )
    shown = answer.get("current_image")
    return Moment(done, steps * jobs, shown if isinstance(shown, str) and shown else None)


def _info(text: Any) -> Mapping[str, Any]:
    try:
        info = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return {}
    return info if isinstance(info, Mapping) else {}


TOLD = ("version", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash", "sampler_name")


def _about(info: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(info[name])[:200] for name in TOLD if info.get(name)}


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 else None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
