"""Which module of which network a LoRA's tensors belong to, whatever its trainer calls them. Pure.

kohya's files have names such as `lora_unet_down_blocks_0_attentions_0_proj_in`: the module's own with underscores for
dots, of diffusers' networks for Stable Diffusion 1 and 2, of the original ones for XL, SD 3 and FLUX. diffusers' and
PEFT's files have the modules' own names. diffusers can convert them too, but leaves out what it does not know with a
line in a log; here every name is found, or the file is refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

DENOISERS = ("unet", "transformer")

TEXT_ENCODERS: Mapping[str, tuple[str, ...]] = {
    "te": ("text_encoder",),
    "te1": ("text_encoder",),
    "te2": ("text_encoder_2",),
    # T5 is FLUX's second one.
    "te3": ("text_encoder_3", "text_encoder_2"),
}
"""kohya's names of text encoders."""

KOHYA = re.compile(r"lora_(?P<part>unet|transformer|te[123]?)_(?P<name>\w+)")

RESNET: Mapping[str, str] = {
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_TOP: Mapping[str, str] = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding.linear_1",
    "time_embed_2": "time_embedding.linear_2",
    "label_emb_0_0": "add_embedding.linear_1",
    "label_emb_0_2": "add_embedding.linear_2",
}
QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


def _attention(name: str, parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}.{part}" for part in parts)


DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_attn_qkv": _attention("attn", QKV),
    "txt_attn_qkv": _attention("attn", ADDED),
    "img_attn_proj": ("attn.to_out.0",),
    "txt_attn_proj": ("attn.to_add_out",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_mod_lin": ("norm1_context.linear",),
}
SINGLE: Mapping[str, tuple[str, ...]] = {
    "linear1": (*_attention("attn", QKV), "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
}
JOINT: Mapping[str, tuple[str, ...]] = {
    "x_block_attn_qkv": _attention("attn", QKV),
    "x_block_attn2_qkv": _attention("attn2", QKV),
    "context_block_attn_qkv": _attention("attn", ADDED),
    "x_block_attn_proj": ("attn.to_out.0",),
    "x_block_attn2_proj": ("attn2.to_out.0",),
    "context_block_attn_proj": ("attn.to_add_out",),
    "x_block_mlp_fc1": ("ff.net.0.proj",),
    "x_block_mlp_fc2": ("ff.net.2",),
    "context_block_mlp_fc1": ("ff_context.net.0.proj",),
    "context_block_mlp_fc2": ("ff_context.net.2",),
    "x_block_adaLN_modulation_1": ("norm1.linear",),
}
BLOCKS: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]] = {
    "double_blocks": ("transformer_blocks", DOUBLE),
    "single_blocks": ("single_transformer_blocks", SINGLE),
    "joint_blocks": ("transformer_blocks", JOINT),
}
"""Blocks of the original FLUX and SD 3 code: diffusers' name, and what each layer became; several: cut by rows."""

TRANSFORMER_TOP: Mapping[str, str] = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in_in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in_out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in_in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in_out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in_in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in_out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer_linear": "proj_out",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer of a file belongs."""

    component: str
    modules: tuple[str, ...] = ()
    """Several: the file's layer is those of the network in one, row after row. None: the network is not loaded."""


@dataclass(slots=True)
class Names:
    """The modules of a pipeline's networks, by the names that files may have for them."""

    modules: Mapping[str, Iterable[str]]
    """The layers of each network that is loaded, by diffusers' names of both."""
    absent: frozenset[str] = frozenset()
    """Networks that the pipeline could have, and has not."""
    layers_per_block: int = 2
    """Of the UNet."""
    _flat: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._flat = {
            component: {name.replace(".", "_"): name for name in names} for component, names in self.modules.items()
        }

    @property
    def denoiser(self) -> str:
        """Return the network that denoises."""
        return next(name for name in DENOISERS if name in self._flat)

    def place(self, stem: str) -> Place | None:
        """Find where a layer belongs; None where nothing here is called so."""
        if kohya := KOHYA.fullmatch(stem):
            return self._of_kohya(kohya["part"], kohya["name"])
        name = stem.removeprefix("base_model.model.")
        component, _, rest = name.partition(".")
        if component in self.absent:
            return Place(component)
        if component == "diffusion_model":
            return self._original(self.denoiser, rest.replace(".", "_"))
        if component not in self._flat:
            is_text = name.startswith("text_model.") and "text_encoder" in self._flat
            component, rest = ("text_encoder" if is_text else self.denoiser), name
        found = self._plain(component, _modern(rest, is_text=component not in DENOISERS).replace(".", "_"))
        return found or self._original(component, rest.replace(".", "_"))

    def _of_kohya(self, part: str, name: str) -> Place | None:
        if part not in TEXT_ENCODERS:
            return self._plain(self.denoiser, name) or self._original(self.denoiser, name)
        for component in TEXT_ENCODERS[part]:
            if component in self._flat and (found := self._plain(component, name)):
                return found
        missing = next((each for each in TEXT_ENCODERS[part] if each in self.absent), None)
        return Place(missing) if missing else None

    def _plain(self, component: str, flat: str) -> Place | None:
        # transformers 5 has done away with a level that files still name.
        for each in (flat, flat.removeprefix("text_model_"), f"text_model_{flat}"):
            if each in self._flat[component]:
                return Place(component, (self._flat[component][each],))
        return None

    def _original(self, component: str, flat: str) -> Place | None:
        """Find a layer that has its name from the original code of its family."""
        if component == "unet":
            wanted: tuple[str, ...] = (self._of_original_unet(flat),)
        elif component == "transformer":
            wanted = _of_original_transformer(flat)
        else:
            return None
        flats = [each.replace(".", "_") for each in wanted]
        known = self._flat[component]
        return Place(component, tuple(known[each] for each in flats)) if all(each in known for each in flats) else None

    def _of_original_unet(self, flat: str) -> str:
        if flat in UNET_TOP:
            return UNET_TOP[flat]
        if found := re.fullmatch(r"middle_block_([012])_(\w+)", flat):
            kind = "attentions.0" if found[1] == "1" else f"resnets.{int(found[1]) // 2}"
            return f"mid_block.{kind}.{RESNET.get(found[2], found[2])}"
        if not (found := re.fullmatch(r"(input|output)_blocks_(\d+)_(\d)_(\w+)", flat)):
            return flat
        side, at, layer, rest = found[1], int(found[2]), found[3], found[4]
        level, index = divmod(at - 1 if side == "input" else at, self.layers_per_block + 1)
        block = f"{'down' if side == 'input' else 'up'}_blocks.{level}"
        if rest == "op":
            return f"{block}.downsamplers.0.conv"
        if rest == "conv":
            return f"{block}.upsamplers.0.conv"
        return (
            f"{block}.resnets.{index}.{RESNET.get(rest, rest)}"
            if layer == "0"
            else f"{block}.attentions.{index}.{rest}"
        )


def _of_original_transformer(flat: str) -> tuple[str, ...]:
    if found := re.fullmatch(r"(\w+_blocks)_(\d+)_(\w+)", flat):
        ours, layers = BLOCKS.get(found[1], ("", {}))
        return tuple(f"{ours}.{found[2]}.{layer}" for layer in layers.get(found[3], (found[3],)))
    return (TRANSFORMER_TOP.get(flat, flat),)


def _modern(name: str, *, is_text: bool) -> str:
    """Undo how diffusers called layers before 0.20: by attention processors."""
    name = name.replace(".processor.", ".")
    if is_text:
        name = re.sub(r"\.to_([qkv])_lora$", r".\1_proj", name)
        return re.sub(r"\.to_out_lora$", ".out_proj", name)
    return re.sub(r"\.to_out_lora$", ".to_out.0", re.sub(r"\.to_([qkv])_lora$", r".to_\1", name))
