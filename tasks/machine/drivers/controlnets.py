"""ControlNets: which family one is for, what it takes in memory, and loading it without a network."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.machine.drivers import detect, headers
from tasks.machine.drivers.contract import CannotDraw, ModelFiles
from tasks.machine.drivers.estimate import weight
from tasks.machine.drivers.families import FAMILIES, of_base
from tasks.machine.drivers.headers import Tensor, Tensors
from tasks.machine.drivers.loading import broken_files_refused, tensors_of_pickle
from tasks.machine.drivers.pipelines import Loaded

CLASSES: Mapping[str, tuple[str, ...]] = {
    "ControlNetModel": ("sd15", "sd2", "sdxl"),
    "SD3ControlNetModel": ("sd3",),
    "FluxControlNetModel": ("flux-dev", "flux-schnell"),
    "SanaControlNetModel": ("sana",),
}
"""diffusers' classes, and the rows of FAMILIES whose networks they steer."""

MUST_AGREE = ("cross_attention_dim", "joint_attention_dim", "pooled_projection_dim", "caption_channels")
"""What a ControlNet's configuration and that of the network it steers must have in common, where both say it."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a ControlNet shows itself to be."""

    class_name: str
    families: tuple[str, ...]
    config: Mapping[str, Any]
    """Of a folder; empty for a single file."""
    tensors: list[Tensor]
    pickled: bool = False


def look_at(model: ModelFiles, *, allow_pickles: bool) -> Found:
    """Say what a file or a folder is; raises CannotDraw for what is no ControlNet, or none that can be loaded."""
    found = (_folder if model.path.is_dir() else _file)(model, allow_pickles=allow_pickles)
    meant = {row.looks_like for row in of_base(model.base)}
    if meant and not meant & set(found.families):
        raise CannotDraw(
            f"the catalogue says that the base of {model.model_id} is {model.base}, and it is a ControlNet for "
            f"{_labels(found.families)}: set base to {found.families[0]} there, or leave it out"
        )
    return found


def _folder(model: ModelFiles, *, allow_pickles: bool) -> Found:
    config = detect.json_of(model.path / "config.json") or {}
    name = str(config.get("_class_name"))
    if name not in CLASSES:
        raise CannotDraw(
            f"{model.model_id} is no ControlNet that can be drawn with: its config.json says {name}, and known are "
            f"{', '.join(CLASSES)}"
        )
    if config.get("num_control_type"):
        raise CannotDraw(f"{model.model_id} is a ControlNet Union, which this version does not load; take a plain one")
    safe = detect.loaded_of(model.path)
    if not safe:
        detect.refuse_pickles([file.name for file in detect.weights_of(model.path)], allowed=allow_pickles)
    tensors = [tensor for file in safe for tensor in headers.read(file).values()]
    families = CLASSES[name]
    if name == "ControlNetModel":
        is_xl = config.get("addition_embed_type") == "text_time"
        families = ("sdxl",) if is_xl else ("sd2",) if config.get("cross_attention_dim") == 1024 else ("sd15",)
    return Found(name, families, config, tensors, pickled=not safe)


def _file(model: ModelFiles, *, allow_pickles: bool) -> Found:
    pickled = model.path.suffix.lower() in detect.PICKLES
    if pickled:
        detect.refuse_pickles([model.path.name], allowed=allow_pickles)
    tensors = tensors_of_pickle(model.path) if pickled else headers.read(model.path)
    names = {name.removeprefix("control_model.") for name in tensors}
    if not names & {"input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight"}:
        raise CannotDraw(
            f"{model.path.name} is no ControlNet of Stable Diffusion 1, 2 or XL, whose single files can be loaded; of "
            "other families take the diffusers folder"
        )
    return Found("ControlNetModel", (_family_of(tensors, names),), {}, list(tensors.values()), pickled)


def _family_of(tensors: Tensors, names: set[str]) -> str:
    if names & {"label_emb.0.0.weight", "add_embedding.linear_1.weight"}:
        return "sdxl"
    ends = "transformer_blocks.0.attn2.to_k.weight"
    context = next((each.shape[-1] for name, each in tensors.items() if name.endswith(ends)), None)
    return "sd2" if context == 1024 else "sd15"


def refuse_unless_fitting(found: Found, model: ModelFiles, loaded: Loaded) -> None:
    """Raise CannotDraw if a ControlNet is for another base than the checkpoint; names both."""
    base, family = loaded.plan.model.model_id, loaded.family
    if family is None or family.looks_like not in found.families:
        label = family.label if family else type(loaded.pipeline).__name__
        raise CannotDraw(
            f"{model.model_id} is a ControlNet for {_labels(found.families)}, and {base} is {label}: take one that is "
            "made for it"
        )
    own = network_of(loaded).config
    for name in MUST_AGREE:
        ours, theirs = own.get(name), found.config.get(name)
        if ours is not None and theirs is not None and ours != theirs:
            raise CannotDraw(
                f"{model.model_id} is a ControlNet for another size of {family.label} than {base}: its {name} is "
                f"{theirs}, not {ours}"
            )


def _labels(families: tuple[str, ...]) -> str:
    return " or ".join(FAMILIES[name].label for name in families)


def network_of(loaded: Loaded) -> Any:
    """Return the network that denoises."""
    parts = loaded.pipeline.components
    return parts.get("unet") or parts["transformer"]


def size_of_files(found: Found, dtype: str) -> int:
    """Return what a ControlNet will take in memory in torch's `dtype`, bytes."""
    return weight(found.tensors, dtype)


def load(model: ModelFiles, found: Found, loaded: Loaded, dtype: Any, device: str) -> Any:
    """Load a ControlNet to where it draws. `dtype` is torch's; raises CannotDraw for broken files."""
    import diffusers  # noqa: PLC0415  # for drawing workers only

    made_for = getattr(diffusers, found.class_name)
    with broken_files_refused(model.model_id):
        if model.path.is_dir():
            network = made_for.from_pretrained(
                model.path,
                dtype=dtype,
                local_files_only=True,
                variant=detect.variant_of(model.path),
                use_safetensors=not found.pickled,
            )
        else:
            with _config_for(model, loaded) as config:
                network = made_for.from_single_file(
                    _content_of(model.path, config), config=str(config), local_files_only=True, torch_dtype=dtype
                )
        if holes := [name for name, tensor in network.named_parameters() if tensor.is_meta]:
            raise CannotDraw(f"{model.model_id} lacks {len(holes)} of its tensors, such as {holes[0]}")
        return network.eval().to(device)


XL_ONLY = (("label_emb.0.0.", "add_embedding.linear_1."), ("label_emb.0.2.", "add_embedding.linear_2."))
"""Names in the original code, and in diffusers, that diffusers' own conversion of ControlNets leaves out (0.42.1)."""


def _content_of(path: Path, config: Path) -> Any:
    """Return what `from_single_file` takes: the path, or for XL in the original layout the tensors by new names."""
    if path.suffix.lower() not in detect.SAFE or not any("label_emb." in name for name in headers.read(path)):
        return str(path)
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint  # noqa: PLC0415  # for drawing workers
    from safetensors.torch import load_file  # noqa: PLC0415  # as above

    tensors = {name.removeprefix("control_model."): each for name, each in load_file(path).items()}
    found = convert_controlnet_checkpoint(dict(tensors), detect.json_of(config / "config.json"))
    for name, each in tensors.items():
        for theirs, ours in XL_ONLY:
            if name.startswith(theirs):
                found[name.replace(theirs, ours)] = each
    return found


@contextmanager
def _config_for(model: ModelFiles, loaded: Loaded) -> Iterator[Path]:
    """Lay out the configuration of a single file: one that it depends on, or else that of the UNet it steers.

    A ControlNet is a copy of one half of its UNet; only smaller ones, such as XL's "mid" and "small", differ.
    """
    for part in model.parts:
        if (detect.json_of(part.path / "config.json") or {}).get("_class_name") in CLASSES:
            yield part.path
            return
    from accelerate import init_empty_weights  # noqa: PLC0415  # for drawing workers only
    from diffusers import ControlNetModel  # noqa: PLC0415  # as above

    with tempfile.TemporaryDirectory(prefix="imagefleet-") as folder:
        with init_empty_weights():
            ControlNetModel.from_unet(network_of(loaded), load_weights_from_unet=False).save_config(folder)
        yield Path(folder)
