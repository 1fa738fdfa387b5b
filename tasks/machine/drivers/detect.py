"""What a model's file is, as it shows itself: kind, family, parts and precision. Reads headers and JSON, no tensors."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from tasks.machine.drivers import headers
from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.drivers.families import FAMILIES, of_pipeline
from tasks.machine.drivers.headers import Tensor, Tensors
from tasks.machine.drivers.signs import KINDS, SIGNS, TROUBLES, first_of, parts_of

PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
SAFE = frozenset({".safetensors", ".sft"})
INDEX = "model_index.json"
NOT_DRAWN_WITH = ("safety_checker", "feature_extractor")
"""Of a folder, not loaded."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found."""

    kind: str
    """As the catalogue's kinds: checkpoint, config, vae, lora, embedding, controlnet."""
    layout: str
    """`folder`, `dduf`, or `single`: one file in the layout of the original code."""
    family: str | None = None
    """A row of FAMILIES; None for a folder of another one, and for kinds that are not told apart."""
    pipeline: str | None = None
    """The class that a folder names."""
    parts: Mapping[str, list[Tensor]] = field(default_factory=dict)
    """The tensors of each component that it has weights for, by diffusers' names such as `unet`."""
    channels: int = 4
    """What a UNet takes in: 9 for an inpainting checkpoint of Stable Diffusion."""
    dtype: str | None = None
    """Of the greatest part of its bytes, in safetensors' spelling."""
    variant: str | None = None
    """fp16 or bf16 where a folder has its weights under such names only."""
    pickled: tuple[str, ...] = ()
    """Weights that there are as pickles only."""


def look_at(path: Path, *, allow_pickles: bool = False) -> Found:
    """Say what a file or a folder is; raises CannotDraw for what is no model, or none that is known."""
    if path.is_dir():
        return _folder(path)
    suffix = path.suffix.lower()
    if suffix == ".dduf":
        return _dduf(path)
    if suffix in PICKLES:
        refuse_pickles([path.name], allowed=allow_pickles)
        return Found("checkpoint", "single", pickled=(path.name,))
    if suffix in SAFE:
        return of_tensors(headers.read(path), path.name)
    raise CannotDraw(
        f"{path.name} is neither a diffusers folder nor a .dduf or .safetensors file, and nothing else is loaded"
    )


def refuse_pickles(names: Iterable[str], *, allowed: bool) -> None:
    """Raise CannotDraw if there are any, unless they are allowed: unpickling can run whatever the file says."""
    if (found := sorted(names)) and not allowed:
        raise CannotDraw(
            f"{found[0]} is in Python's pickle format, which can run code when it is opened: take the .safetensors "
            "file of the same model, or set ALLOW_PICKLES=1 on the machine"
        )


def of_tensors(tensors: Tensors, name: str) -> Found:
    """Say what a single file is by the names and shapes of its tensors; `name` is the file's, for sentences."""
    for kind, is_one in KINDS.items():
        if is_one(tensors):
            return Found(kind, "single", dtype=_greatest(tensors.values()))
    family = next((family for family, is_one in SIGNS.items() if is_one(tensors)), None)
    if family is None:
        some = ", ".join(sorted(tensors)[:3]) or "none at all"
        raise CannotDraw(f"{name} is of no family that is known here; its first tensors: {some}")
    for trouble, is_so in TROUBLES.items():
        if is_so(tensors):
            raise CannotDraw(f"{name} looks like {FAMILIES[family].label}, and cannot be loaded: {trouble}")
    first = first_of(tensors, "input_blocks.0.0.weight")
    return Found(
        "checkpoint",
        "single",
        family,
        parts=parts_of(tensors, family),
        channels=first.shape[1] if first and len(first.shape) > 1 else 4,
        dtype=_greatest(tensors.values()),
    )


def _greatest(tensors: Iterable[Tensor]) -> str | None:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.is_float:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return max(sizes, key=lambda dtype: sizes[dtype]) if sizes else None


def _folder(folder: Path) -> Found:
    index = json_of(folder / INDEX)
    if index is None:
        if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            return Found(_kind_of_part(folder), "folder")
        raise CannotDraw(f"{folder.name} is no diffusers folder: it has no {INDEX}")
    components = [
        name
        for name, each in index.items()
        if isinstance(each, list) and each[:1] != [None] and name not in NOT_DRAWN_WITH and (folder / name).is_dir()
    ]
    parts: dict[str, list[Tensor]] = {}
    variants: set[str | None] = set()
    pickled = []
    for name in components:
        safe = loaded_of(folder / name)
        variants |= {_variant_of(file.name) for file in safe}
        if not safe:
            pickled += [f"{name}/{file.name}" for file in weights_of(folder / name)]
        tensors = [tensor for file in safe for tensor in headers.read(file).values()]
        if tensors:
            parts[name] = tensors
    pipeline = str(index.get("_class_name"))
    return Found(
        "checkpoint" if parts or pickled else "config",
        "folder",
        _family_of_folder(pipeline, lambda name: json_of(folder / name)),
        pipeline,
        parts,
        _channels_of(json_of(folder / "unet" / "config.json")),
        dtype=_greatest(tensor for tensors in parts.values() for tensor in tensors),
        variant=None if None in variants else next((each for each in sorted(map(str, variants))), None),
        pickled=tuple(pickled),
    )


def weights_of(folder: Path) -> list[Path]:
    """Return the files with weights of a component, of its folder alone."""
    return sorted(file for file in folder.iterdir() if file.suffix in SAFE | PICKLES)


def loaded_of(folder: Path) -> list[Path]:
    """Return the safetensors of a component that are loaded: of a plain and an fp16 set, the plain one."""
    wanted = variant_of(folder)
    return [file for file in weights_of(folder) if file.suffix in SAFE and _variant_of(file.name) == wanted]


def variant_of(folder: Path) -> str | None:
    """Return under which name a component's weights lie: None for a plain one, fp16 where there is no other."""
    files = weights_of(folder)
    # Pickles are no choice where there is anything else.
    variants = {_variant_of(file.name) for file in [file for file in files if file.suffix in SAFE] or files}
    return None if None in variants else next(iter(sorted(map(str, variants))), None)


def _variant_of(name: str) -> str | None:
    """Return `fp16` for model.fp16.safetensors and model.fp16-00001-of-00002.safetensors, None for a plain name."""
    words = name.split(".")[1:-1]
    return re.sub(r"-\d+-of-\d+$", "", words[0]) if words else None


def _kind_of_part(folder: Path) -> str:
    name = str((json_of(folder / "config.json") or {}).get("_class_name", ""))
    if (folder / "adapter_config.json").is_file():
        return "lora"
    if name.startswith(("Autoencoder", "AsymmetricAutoencoder", "ConsistencyDecoder")):
        return "vae"
    return "controlnet" if "ControlNet" in name else "other"


def _dduf(path: Path) -> Found:
    """Look into a DDUF file: a diffusers folder in an uncompressed ZIP. Source: huggingface.co/docs/hub/dduf."""
    try:
        with ZipFile(path) as file:
            names = set(file.namelist())

            def content(name: str) -> dict[str, Any] | None:
                return json.loads(file.read(name)) if name in names else None

            index = content(INDEX) or {}
            parts: dict[str, list[Tensor]] = {}
            for name in sorted(names):
                if Path(name).suffix in SAFE:
                    with file.open(name) as entry:
                        length = int.from_bytes(entry.read(8), "little")
                        tensors = json.loads(entry.read(length)) if length <= headers.HEADER_LIMIT else {}
                    found = [headers.tensor_of(each) for key, each in tensors.items() if key != "__metadata__"]
                    parts.setdefault(name.partition("/")[0], []).extend(found)
            pipeline = str(index.get("_class_name"))
            family = _family_of_folder(pipeline, content)
            channels = _channels_of(content("unet/config.json"))
    except (BadZipFile, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CannotDraw(f"{path.name} is no DDUF file: {exc}") from exc
    dtype = _greatest(tensor for tensors in parts.values() for tensor in tensors)
    return Found("checkpoint", "dduf", family, pipeline, parts, channels, dtype=dtype)


def _channels_of(config: Mapping[str, Any] | None) -> int:
    return int((config or {}).get("in_channels", 4))


def _family_of_folder(pipeline: str, content: Callable[[str], dict[str, Any] | None]) -> str | None:
    """Tell families apart that share a class; None for a class that has no row."""
    rows = [row.name for row in of_pipeline(pipeline) if row.looks_like == row.name]
    unet = content("unet/config.json") or {}
    transformer = content("transformer/config.json") or {}
    if "sd15" in rows:
        return "sd2" if unet.get("cross_attention_dim") == 1024 else "sd15"
    if "flux-dev" in rows:
        return "flux-dev" if transformer.get("guidance_embeds") else "flux-schnell"
    if "sdxl-refiner" in rows:
        index = content(INDEX) or {}
        return "sdxl" if (index.get("text_encoder") or [None])[0] else "sdxl-refiner"
    return rows[0] if rows else None


def json_of(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file. Raises CannotDraw for what is no JSON."""
    try:
        found = json.loads(path.read_bytes())
    except OSError:
        return None
    except ValueError as exc:
        raise CannotDraw(f"{path.name} of {path.parent.name} is not JSON: {exc}") from exc
    return found if isinstance(found, dict) else None
