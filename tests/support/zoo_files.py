"""The zoo as single files in the layouts of the original code, and as folders of configuration without weights.

Each is the reverse of what `diffusers.loaders.single_file_utils` does when it reads such a file.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.support import zoo, zoo_variants

State = dict[str, torch.Tensor]
NETWORK = "model.diffusion_model."

RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
UNET = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
)
OPEN_CLIP = (
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.", "attn."),
)
FLUX = (
    ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
    ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
    ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
    ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
    ("context_embedder", "txt_in"),
    ("x_embedder", "img_in"),
    ("single_transformer_blocks.", "single_blocks."),
    ("transformer_blocks.", "double_blocks."),
    ("norm1_context.linear", "txt_mod.lin"),
    ("norm1.linear", "img_mod.lin"),
    (".norm.linear", ".modulation.lin"),
    ("attn.norm_added_q.weight", "txt_attn.norm.query_norm.scale"),
    ("attn.norm_added_k.weight", "txt_attn.norm.key_norm.scale"),
    ("attn.to_add_out", "txt_attn.proj"),
    ("attn.to_out.0", "img_attn.proj"),
    ("ff_context.net.0.proj", "txt_mlp.0"),
    ("ff_context.net.2", "txt_mlp.2"),
    ("ff.net.0.proj", "img_mlp.0"),
    ("ff.net.2", "img_mlp.2"),
)
SD3 = (
    ("pos_embed.pos_embed", "pos_embed"),
    ("pos_embed.proj", "x_embedder.proj"),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("transformer_blocks.", "joint_blocks."),
    ("attn2.to_out.0", "x_block.attn2.proj"),
    ("attn.to_out.0", "x_block.attn.proj"),
    ("attn.to_add_out", "context_block.attn.proj"),
    ("attn2.norm_q", "x_block.attn2.ln_q"),
    ("attn2.norm_k", "x_block.attn2.ln_k"),
    ("attn.norm_q", "x_block.attn.ln_q"),
    ("attn.norm_k", "x_block.attn.ln_k"),
    ("attn.norm_added_q", "context_block.attn.ln_q"),
    ("attn.norm_added_k", "context_block.attn.ln_k"),
    ("norm1_context.linear", "context_block.adaLN_modulation.1"),
    ("norm1.linear", "x_block.adaLN_modulation.1"),
    ("ff_context.net.0.proj", "context_block.mlp.fc1"),
    ("ff_context.net.2", "context_block.mlp.fc2"),
    ("ff.net.0.proj", "x_block.mlp.fc1"),
    ("ff.net.2", "x_block.mlp.fc2"),
    ("proj_out", "final_layer.linear"),
)


NOT_IN_FILE = {
    "sd3": ("text_encoder", "text_encoder_2", "text_encoder_3"),
    "sd35": ("text_encoder", "text_encoder_2", "text_encoder_3"),
    "flux": ("text_encoder", "text_encoder_2", "vae"),
    "schnell": ("text_encoder", "text_encoder_2", "vae"),
    "sana": ("text_encoder", "vae"),
}
"""What the files of a family are given out without; it lies beside their configuration."""


@dataclass(frozen=True)
class Zoo:
    """A folder in which each pipeline is made when it is asked for, once."""

    root: Path

    def folder(self, family: str) -> Path:
        """Return a pipeline as a diffusers folder."""
        path = self.root / family
        return path if path.exists() else (zoo.FAMILIES | zoo_variants.VARIANTS)[family](path)

    def file(self, family: str) -> Path:
        """Return a pipeline as a single file in the original layout."""
        path = self.root / f"{family}-single.safetensors"
        return path if path.exists() else single_file(family, self.folder(family), path)

    def pack(self, family: str, weights: tuple[str, ...] | None = None) -> Path:
        """Return the configuration for a family's single file, with the weights that the file lacks or those named."""
        kept = NOT_IN_FILE.get(family, ()) if weights is None else weights
        path = self.root / "-".join([family, "pack", *kept])
        return path if path.exists() else config_pack(self.folder(family), path, kept)


def single_file(family: str, folder: Path, path: Path) -> Path:
    """Write a folder of the zoo as one file, as its family is given out.

    SD and SDXL whole, SD 3 without its text encoders, FLUX the transformer alone.
    """
    states = {part.parent.name: load_file(part) for part in folder.glob("*/*.safetensors")}
    configs = {part.parent.name: json.loads(part.read_text()) for part in folder.glob("*/config.json")}
    if "unet" in states:
        state = {NETWORK + name: each for name, each in unet(states["unet"], configs["unet"]).items()}
        state |= {f"first_stage_model.{name}": each for name, each in vae(states["vae"], configs["vae"]).items()}
        state |= _text_encoders(family, states)
    elif family in {"sd3", "sd35"}:
        state = {NETWORK + name: each for name, each in sd3(states["transformer"]).items()}
        state |= {f"first_stage_model.{name}": each for name, each in vae(states["vae"], configs["vae"]).items()}
    else:
        state = (sana if family == "sana" else flux)(states["transformer"])
    save_file({name: each.contiguous().clone() for name, each in state.items()}, path)
    return path


def config_pack(folder: Path, pack: Path, weights: tuple[str, ...] = ()) -> Path:
    """Copy a folder of the zoo without its weights, but for those of the components named."""
    for source in folder.rglob("*"):
        inside = source.relative_to(folder)
        if source.is_file() and (source.suffix != ".safetensors" or inside.parts[0] in weights):
            (pack / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, pack / inside)
    return pack


def _text_encoders(family: str, states: Mapping[str, State]) -> State:
    if family == "refiner":
        return {
            f"conditioner.embedders.0.model.{name}": each for name, each in open_clip(states["text_encoder_2"]).items()
        }
    if family == "sd2":
        return {f"cond_stage_model.model.{name}": each for name, each in open_clip(states["text_encoder"]).items()}
    clip = {f"text_model.{name.removeprefix('text_model.')}": each for name, each in states["text_encoder"].items()}
    is_xl = "text_encoder_2" in states
    prefix = "conditioner.embedders.0." if is_xl else "cond_stage_model."
    state = {f"{prefix}transformer.{name}": each for name, each in clip.items()}
    if is_xl:
        second = open_clip(states["text_encoder_2"])
        state |= {f"conditioner.embedders.1.model.{name}": each for name, each in second.items()}
    return state


def unet(state: State, config: Mapping[str, Any]) -> State:
    """Name a UNet's tensors as the original code does."""
    each_level = int(config["layers_per_block"]) + 1

    def renamed(name: str) -> str:
        for ours, theirs in UNET:
            name = re.sub(rf"^{re.escape(ours)}\b", theirs, name)
        if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)", name):
            side, level, kind, layer = found[1], int(found[2]), found[3], int(found[4])
            rest = name[found.end() :]
            if side == "down":
                at = 1 + level * each_level + (each_level - 1 if kind == "downsamplers" else layer)
                inner = f"0.op{rest.removeprefix('.conv')}" if kind == "downsamplers" else None
                name = f"input_blocks.{at}." + (inner or f"{int(kind == 'attentions')}{rest}")
            else:
                at = level * each_level + (each_level - 1 if kind == "upsamplers" else layer)
                has_attention = f"up_blocks.{level}.attentions.0.norm.weight" in state
                index = 1 + int(has_attention) if kind == "upsamplers" else int(kind == "attentions")
                name = f"output_blocks.{at}.{index}{rest}"
        if re.match(r"(input|output)_blocks\.\d+\.0\.|middle_block\.[02]\.", name):
            for ours, theirs in RESNET:
                name = name.replace(f".{ours}.", f".{theirs}.")
        return name

    return {renamed(name): each for name, each in state.items()}


def vae(state: State, config: Mapping[str, Any]) -> State:
    """Name an autoencoder's tensors as the original code does."""
    levels = len(config["block_out_channels"])

    def renamed(name: str) -> str:
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        for ours, theirs in (
            ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
            ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
            ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
            ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
            ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
            ("conv_norm_out", "norm_out"),
            ("conv_shortcut", "nin_shortcut"),
        ):
            name = name.replace(ours, theirs)
        return name

    renamed_state = {renamed(name): each for name, each in state.items()}
    return {
        name: each[:, :, None, None] if ".attn_1." in name and each.ndim == 2 else each
        for name, each in renamed_state.items()
    }


def open_clip(state: State) -> State:
    """Name a text encoder's tensors as OpenCLIP does."""
    found: State = {}
    for name, each in state.items():
        key = name.removeprefix("text_model.")
        for ours, theirs in OPEN_CLIP:
            key = key.replace(ours, theirs)
        found["text_projection" if key == "text_projection.weight" else key] = each
    if "text_projection" in found:
        found["text_projection"] = found["text_projection"].T
    for name in [name for name in found if ".attn.q_proj." in name]:
        parts = [found.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        found[re.sub(r"q_proj\.(weight|bias)", r"in_proj_\1", name)] = torch.cat(parts)
    return found


def flux(state: State) -> State:
    """Name a FLUX transformer's tensors as the original code does."""
    found: State = {}
    for name, each in state.items():
        key = name
        for ours, theirs in FLUX:
            key = key.replace(ours, theirs)
        key = re.sub(r"(double_blocks\.\d+)\.attn\.norm_([qk])\.weight", _scale(r"img_attn."), key)
        key = re.sub(r"(single_blocks\.\d+)\.attn\.norm_([qk])\.weight", _scale(""), key)
        key = re.sub(r"(single_blocks\.\d+)\.proj_out", r"\1.linear2", key)
        key = re.sub(r"^proj_out", "final_layer.linear", key)
        key = re.sub(r"^norm_out\.linear", "final_layer.adaLN_modulation.1", key)
        found[key] = each
    for name in [name for name in found if re.search(r"\.attn\.(to|add)_q", name)]:
        parts = [found.pop(re.sub(r"_q(_proj)?\.", rf"_{letter}\1.", name)) for letter in "qkv"]
        if name.startswith("single_blocks."):
            block, ending = name.split(".attn.")[0], name.rpartition(".")[2]
            found[f"{block}.linear1.{ending}"] = torch.cat([*parts, found.pop(f"{block}.proj_mlp.{ending}")])
        else:
            side = "txt" if "add_q_proj" in name else "img"
            found[re.sub(r"\.attn\.(to_q|add_q_proj)", f".{side}_attn.qkv", name)] = torch.cat(parts)
    return {name: _swapped(each) if name.startswith("final_layer.ada") else each for name, each in found.items()}


def sd3(state: State) -> State:
    """Name a Stable Diffusion 3 transformer's tensors as the original code does."""
    last = max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    found: State = {}
    for name, each in state.items():
        key = name
        for ours, theirs in SD3:
            key = key.replace(ours, theirs)
        found[re.sub(r"^norm_out\.linear", "final_layer.adaLN_modulation.1", key)] = each
    for name in [name for name in found if re.search(r"\.attn2?\.(to|add)_q", name)]:
        parts = [found.pop(re.sub(r"_q(_proj)?\.", rf"_{letter}\1.", name)) for letter in "qkv"]
        block = "context_block" if "add_q_proj" in name else "x_block"
        found[re.sub(r"\.(attn2?)\.(to_q|add_q_proj)", rf".{block}.\1.qkv", name)] = torch.cat(parts)
    swapped = ("final_layer.adaLN", f"joint_blocks.{last}.context_block.adaLN")
    return {name: _swapped(each) if name.startswith(swapped) else each for name, each in found.items()}


SANA = (
    ("patch_embed.proj", "x_embedder.proj"),
    ("time_embed.emb.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_embed.emb.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_embed.linear", "t_block.1"),
    ("caption_projection.linear_1", "y_embedder.y_proj.fc1"),
    ("caption_projection.linear_2", "y_embedder.y_proj.fc2"),
    ("caption_norm", "attention_y_norm"),
    ("transformer_blocks.", "blocks."),
    ("attn1.to_out.0", "attn.proj"),
    ("attn2.to_q", "cross_attn.q_linear"),
    ("attn2.to_out.0", "cross_attn.proj"),
    ("ff.conv_inverted", "mlp.inverted_conv.conv"),
    ("ff.conv_depth", "mlp.depth_conv.conv"),
    ("ff.conv_point", "mlp.point_conv.conv"),
)


def sana(state: State) -> State:
    """Name a Sana transformer's tensors as the original code does."""
    found: State = {"pos_embed": torch.zeros(1), "y_embedder.y_embedding": torch.zeros(1)}
    for name, each in state.items():
        key = name
        for ours, theirs in SANA:
            key = key.replace(ours, theirs)
        if key.startswith(("proj_out", "scale_shift_table")):
            key = f"final_layer.{key.replace('proj_out', 'linear')}"
        found[key] = each
    for name in [name for name in found if ".attn1.to_q" in name]:
        parts = [found.pop(name.replace("to_q", f"to_{letter}")) for letter in "qkv"]
        found[name.replace("attn1.to_q", "attn.qkv")] = torch.cat(parts)
    for name in [name for name in found if ".attn2.to_k" in name]:
        parts = [found.pop(name.replace("to_k", f"to_{letter}")) for letter in "kv"]
        found[name.replace("attn2.to_k", "cross_attn.kv_linear")] = torch.cat(parts)
    return found


def _scale(side: str) -> Any:
    names = {"q": "query_norm", "k": "key_norm"}
    return lambda m: f"{m[1]}.{side}norm.{names[m[2]]}.scale"


def _swapped(tensor: torch.Tensor) -> torch.Tensor:
    """Exchange scale and shift, which the original code has the other way round."""
    first, second = tensor.chunk(2, dim=0)
    return torch.cat([second, first])
