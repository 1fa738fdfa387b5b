"""What goes along with the zoo's pipelines: ControlNets and safety checkers. Made here, nothing is fetched."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    FluxControlNetModel,
    FluxTransformer2DModel,
    SanaControlNetModel,
    SanaTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

from tests.support import zoo_files

ORIGINAL = (
    ("controlnet_cond_embedding.conv_in", "input_hint_block.0"),
    ("controlnet_cond_embedding.conv_out", "input_hint_block.14"),
    ("controlnet_mid_block", "middle_block_out.0"),
)
"""Names of a ControlNet's own tensors in diffusers, and in the original code."""

LOUD = 0.3
"""How large what begins as zeroes is drawn here: enough to change a picture in two steps."""


def controlnet(family: str, base: Path, folder: Path, seed: int = 0) -> Path:
    """Make a ControlNet for a pipeline of the zoo, which lies at `base`, as a diffusers folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BUILDS[family](base)
        with torch.no_grad():
            for parameter in network.parameters():
                if not parameter.any():  # ControlNets begin as zeroes, and steer nothing then
                    parameter.normal_(std=LOUD)
    network.eval().save_pretrained(folder)
    return folder


def _of_unet(base: Path) -> Any:
    return ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(base / "unet"))


def _of_sd3(base: Path) -> Any:
    transformer = SD3Transformer2DModel.from_pretrained(base / "transformer")
    return SD3ControlNetModel.from_transformer(transformer, num_layers=1, num_extra_conditioning_channels=0)


def _of_flux(base: Path) -> Any:
    transformer = FluxTransformer2DModel.from_pretrained(base / "transformer")
    config = transformer.config
    return FluxControlNetModel.from_transformer(
        transformer,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=config.attention_head_dim,
        num_attention_heads=config.num_attention_heads,
    )


def _of_sana(base: Path) -> Any:
    config = SanaTransformer2DModel.load_config(base / "transformer")
    known = {name: config[name] for name in SANA if name in config}
    return SanaControlNetModel(**{**known, "num_layers": 1})


SANA = [
    "in_channels",
    "out_channels",
    "num_attention_heads",
    "attention_head_dim",
    "num_cross_attention_heads",
    "cross_attention_head_dim",
    "cross_attention_dim",
    "caption_channels",
    "mlp_ratio",
    "sample_size",
    "patch_size",
    "norm_eps",
    "interpolation_scale",
]

BUILDS: Mapping[str, Callable[[Path], Any]] = {
    "sd15": _of_unet,
    "sd2": _of_unet,
    "sdxl": _of_unet,
    "refiner": _of_unet,
    "sd3": _of_sd3,
    "sd35": _of_sd3,
    "flux": _of_flux,
    "schnell": _of_flux,
    "sana": _of_sana,
    "sana_sprint": _of_sana,
}


def controlnet_file(folder: Path, base: Path, path: Path) -> Path:
    """Write a ControlNet's folder as one file in the layout of the original code."""
    config = json.loads((base / "unet" / "config.json").read_text())
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    own = {name: each for name, each in state.items() if name.startswith("controlnet_")}
    found = zoo_files.unet({name: each for name, each in state.items() if name not in own}, config)
    for name, each in own.items():
        found[_original(name)] = each
    save_file({f"control_model.{name}": each.contiguous().clone() for name, each in found.items()}, path)
    return path


def _original(name: str) -> str:
    for ours, theirs in ORIGINAL:
        name = name.replace(ours, theirs)
    head, _, rest = name.partition(".")
    if head == "controlnet_down_blocks":
        index, _, ending = rest.partition(".")
        return f"zero_convs.{index}.0.{ending}"
    if name.startswith("controlnet_cond_embedding.blocks."):
        index, _, ending = name.removeprefix("controlnet_cond_embedding.blocks.").partition(".")
        return f"input_hint_block.{2 * int(index) + 2}.{ending}"
    return name


def safety_checker(folder: Path, *, flags: bool) -> Path:
    """Make a safety checker with random weights that takes everything for unsafe, or nothing.

    As in Stable Diffusion's repositories: the network in one folder, how pictures are made ready for it in another.
    """
    config = CLIPConfig(
        text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
        },
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = StableDiffusionSafetyChecker(config)
    with torch.no_grad():
        # Likeness lies between -1 and 1: a threshold below is always passed, one above never.
        for thresholds in (network.concept_embeds_weights, network.special_care_embeds_weights):
            thresholds.fill_(-2.0 if flags else 2.0)
    network.eval().save_pretrained(folder / "safety_checker")
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder / "feature_extractor")
    return folder


def flat(folder: Path, target: Path) -> Path:
    """Lay a safety checker out as its own repository does: everything in one folder."""
    target.mkdir(parents=True)
    for part in ("safety_checker", "feature_extractor"):
        for source in (folder / part).iterdir():
            shutil.copyfile(source, target / source.name)
    return target
