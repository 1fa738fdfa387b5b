"""Reads LoRA files, of kohya's trainers, of PEFT and of diffusers, into the layers of a pipeline's networks.

A file is read whole or refused: a network of which only a part is applied draws something that nobody trained.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.core import bases
from tasks.machine.drivers import detect, headers, pickles
from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.drivers.lora_names import Names

PEFT_CONFIG = "adapter_config.json"

OTHER_KINDS: Mapping[str, str] = {
    r"\.hada_": "a LoHa network",
    r"\.lokr_": "a LoKr network",
    r"\.oft_": "an OFT network",
    r"\.lora_mid\.": "a LoCon network with a Tucker decomposition",
    r"\.diff(_b)?$": "a network of whole differences",
}
"""By what in their tensors' names other networks beside a model are known."""

KEY = re.compile(
    r"(?P<stem>.+?)"
    r"(?:\.lora_(?P<peft>A|B)(?:\.default)?\.weight"
    r"|(?:\.lora|\.lora_linear_layer|(?P<old>_lora))\.(?P<diffusers>down|up)\.weight"
    r"|\.lora_(?P<kohya>down|up)\.weight"
    r"|\.lora_magnitude_vector(?:\.default)?(?P<magnitude>(?:\.weight)?)"
    r"|\.(?P<scale>alpha|dora_scale))"
)

ARCHITECTURES: Mapping[str, str] = {
    "stable-diffusion-v1": "sd15",
    "sd_v1": "sd15",
    "stable-diffusion-v2": "sd2",
    "sd_v2": "sd2",
    "stable-diffusion-xl": "sdxl",
    "sdxl": "sdxl",
    "stable-diffusion-3": "sd3",
    "stable-diffusion-v3": "sd3",
    "sd3": "sd3",
    "flux": "flux-dev",
    "sana": "sana",
}
"""How the metadata of files begin: `modelspec.architecture` (github.com/Stability-AI/ModelSpec) and kohya's
`ss_base_model_version`."""

WIDTHS: Mapping[int, str] = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
"""How wide the text is that a UNet attends to, by family."""


@dataclass(slots=True)
class Layer:
    """One layer of a LoRA, ready for a module."""

    down: Any
    """Tensor of shape (rank, in), or (rank, in, height, width) for a convolution."""
    up: Any
    """Tensor of shape (out, rank), its scale multiplied in."""
    magnitude: Any = None
    """Of a DoRA: the length of each row, of shape (out,)."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA, sorted by network and module."""

    layers: Mapping[str, Mapping[str, Layer]]
    notes: tuple[str, ...] = ()
    size: int = 0
    """Bytes."""


def read(path: Path, name: str, pipeline: Any, family: str, *, allow_pickles: bool = False) -> Adapter:
    """Read a LoRA for a pipeline; `family` is what its model is of, and `name` the LoRA's, for sentences.

    Raises CannotDraw for what is no LoRA, or one for other networks.
    """
    file = _file_of(path, name)
    tensors, metadata = _content(file, allow_pickles=allow_pickles)
    for sign, kind in OTHER_KINDS.items():
        if any(re.search(sign, key) for key in tensors):
            raise CannotDraw(f"{name} is {kind}, which this version cannot draw with; take a LoRA")
    made_for = family_of(tensors, metadata)
    if made_for and family in bases.WORDS and not bases.fit(made_for, family):
        raise CannotDraw(_misfit(name, made_for, family))
    stems = _Stems(tensors, name)
    config = _peft_config(file, metadata)
    names = _names_of(pipeline)
    found: dict[str, dict[str, Layer]] = {}
    left_out: set[str] = set()
    lost: list[str] = []
    for stem, roles in stems.parts.items():
        place = names.place(stem)
        if place is None:
            lost.append(stem)
        elif not place.modules:
            left_out.add(place.component)
        else:
            network = getattr(pipeline, place.component)
            modules = {module: network.get_submodule(module) for module in place.modules}
            fitted = _fitted(roles, modules, _scale_of(config, place.component, place.modules[0], roles))
            if fitted is None:
                lost.append(stem)
            else:
                found.setdefault(place.component, {}).update(fitted)
    if lost:
        what = f"{len(lost)} of its {len(stems.parts)} layers have no place there, such as {lost[0]}"
        raise CannotDraw(f"{_misfit(name, made_for, family)}: {what}")
    notes = [f"{name}: its part for {each} was left out, which this model has not" for each in sorted(left_out)]
    size = sum(each.down.nbytes + each.up.nbytes for layers in found.values() for each in layers.values())
    return Adapter(found, tuple(notes), size)


def _misfit(name: str, made_for: str | None, family: str) -> str:
    here = bases.label_of(family) if family in bases.WORDS else family
    there = (
        f"made for {bases.label_of(made_for)}" if made_for and not bases.fit(made_for, family) else "for other networks"
    )
    return f"the LoRA {name} is {there}, and the model is one of {here}"


def _file_of(path: Path, name: str) -> Path:
    if not path.is_dir():
        return path
    files = [file for file in sorted(path.rglob("*")) if file.suffix in detect.SAFE]
    if len(files) != 1:
        raise CannotDraw(f"{name} should have one .safetensors file, and has {len(files)}: name one in its address")
    return files[0]


def _content(file: Path, *, allow_pickles: bool) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Read a file's tensors into memory, not mapped: it may be evicted while they are kept."""
    if file.suffix.lower() in detect.PICKLES:
        return pickles.read(file, allowed=allow_pickles), {}
    from safetensors.torch import load  # noqa: PLC0415  # imports torch

    headers.read(file)
    return load(file.read_bytes()), headers.metadata_of(file)


@dataclass(slots=True)
class _Stems:
    """The tensors of a file by the layer that they belong to."""

    tensors: Mapping[str, Any]
    name: str
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, tensor in self.tensors.items():
            found = KEY.fullmatch(key)
            if found is None:
                raise CannotDraw(f"{self.name} is no LoRA that is known here: it has a tensor {key}")
            stem = found["stem"] + (found["old"] or "")
            role = found["peft"] or found["diffusers"] or found["kohya"] or found["scale"] or "magnitude"
            role = {"A": "down", "B": "up"}.get(role, role)
            self.parts.setdefault(stem, {})[role] = tensor
        for stem, roles in self.parts.items():
            if not {"down", "up"} <= set(roles):
                raise CannotDraw(
                    f"{self.name} is no LoRA that is known here: {stem} has no matrices, only {min(roles)}"
                )


def _names_of(pipeline: Any) -> Names:
    import torch  # noqa: PLC0415  # for drawing workers only

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    networks = {name: each for name, each in pipeline.components.items() if name.startswith(COMPONENTS)}
    layers = {
        name: [path for path, module in network.named_modules() if isinstance(module, kinds)]
        for name, network in networks.items()
        if isinstance(network, torch.nn.Module)
    }
    unet = networks.get("unet")
    per_block = int(unet.config.layers_per_block) if unet is not None else 2
    return Names(layers, frozenset(networks) - frozenset(layers), per_block)


COMPONENTS = ("unet", "transformer", "text_encoder")


def _fitted(roles: Mapping[str, Any], modules: Mapping[str, Any], scale: float) -> dict[str, Layer] | None:
    """Cut a layer for its modules; None where its shape is another."""
    down, up, magnitude = roles["down"], roles["up"], _magnitude(roles)
    rows = [module.weight.shape[0] for module in modules.values()]
    if up.shape[0] != sum(rows) or up.shape[1] != down.shape[0]:
        return None
    found, at = {}, 0
    for (name, module), count in zip(modules.items(), rows, strict=True):
        of_module = _shaped(down, up[at : at + count], module.weight)
        if of_module is None or (magnitude is not None and len(magnitude) != sum(rows)):
            return None
        of_module.up = of_module.up * scale
        of_module.magnitude = None if magnitude is None else magnitude[at : at + count]
        found[name] = of_module
        at += count
    return found


def _shaped(down: Any, up: Any, weight: Any) -> Layer | None:
    """Give matrices the form that their module has: a convolution of 1 x 1 is a matrix too."""
    rank, kernel = down.shape[0], weight.shape[2:]
    if tuple(down.shape[1:]) != tuple(weight.shape[1:]):
        if math.prod(down.shape[1:]) != math.prod(weight.shape[1:]) or math.prod(kernel) != 1:
            return None
        down = down.reshape(rank, *weight.shape[1:])
    if math.prod(up.shape[2:]) != 1:
        return None
    return Layer(down, up.reshape(up.shape[0], rank, *[1] * len(kernel)))


def _magnitude(roles: Mapping[str, Any]) -> Any:
    found = roles.get("magnitude", roles.get("dora_scale"))
    return None if found is None else found.reshape(-1)


def _scale_of(config: Mapping[str, Any], component: str, module: str, roles: Mapping[str, Any]) -> float:
    """Return what a layer is multiplied with: its alpha through its rank."""
    rank = int(roles["down"].shape[0])
    if "alpha" in roles:
        return float(roles["alpha"]) / rank
    of_component = {key.removeprefix(f"{component}."): each for key, each in config.items()}
    alpha = of_component.get("lora_alpha", rank)
    for pattern, other in (of_component.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern.removeprefix('^')})", module):
            alpha = other
    return float(alpha) / (math.sqrt(rank) if of_component.get("use_rslora") else rank)


def _peft_config(file: Path, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Return PEFT's configuration, which lies beside its files, or in the metadata of diffusers'."""
    beside = detect.json_of(file.parent / PEFT_CONFIG) if file.name.startswith("adapter_model") else None
    try:
        within = json.loads(metadata.get("lora_adapter_metadata") or "{}")
    except ValueError:
        within = {}
    return beside or (within if isinstance(within, dict) else {})


def family_of(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> str | None:
    """Say which family a LoRA was made for, as its metadata say or its tensors show; None where neither does."""
    for key in ("modelspec.architecture", "ss_base_model_version"):
        told = metadata.get(key, "").lower()
        if family := next((each for begin, each in ARCHITECTURES.items() if told.startswith(begin)), None):
            return family
    keys = list(tensors)
    if any("joint_blocks" in key for key in keys):
        return "sd3"
    if any(re.search(r"double_blocks|single_blocks|single_transformer_blocks", key) for key in keys):
        return "flux-dev"
    widths = set(_widths(tensors))
    return WIDTHS.get(widths.pop()) if len(widths) == 1 else None


def _widths(tensors: Mapping[str, Any]) -> Iterator[int]:
    for key, tensor in tensors.items():
        if re.search(r"attn2[._](processor\.)?to_k.*(lora_down|lora_A|lora\.down)", key):
            yield int(tensor.shape[1])
