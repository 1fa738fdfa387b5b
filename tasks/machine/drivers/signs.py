"""By what the files of each family are known: names and shapes of tensors in the layouts of the original code."""

from collections.abc import Callable, Mapping

from tasks.machine.drivers.families import FAMILIES
from tasks.machine.drivers.headers import Tensor, Tensors

NETWORK = "model.diffusion_model."
"""Where the network that denoises lies in the original layouts; FLUX, SD 3 and Sana come without it as well."""


def _has(*names: str) -> Callable[[Tensors], bool]:
    """Return what says whether all of these tensors are there, with or without the network's prefix."""
    return lambda tensors: all(first_of(tensors, name) is not None for name in names)


def first_of(tensors: Tensors, name: str) -> Tensor | None:
    """Return a tensor of the network that denoises, with or without its prefix."""
    return tensors.get(NETWORK + name) or tensors.get(name)


def _any_ends(*ends: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(name.endswith(ends) for name in tensors)


def _any_starts(*starts: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(name.startswith(starts) for name in tensors)


def _all_start(*starts: str) -> Callable[[Tensors], bool]:
    return lambda tensors: bool(tensors) and all(name.startswith(starts) for name in tensors)


def _context_of(tensors: Tensors) -> int | None:
    """Return the width of the text that a UNet attends to; None where there is no UNet in the original layout."""
    ends = "transformer_blocks.0.attn2.to_k.weight"
    found = (each.shape[-1] for name, each in tensors.items() if name.startswith(NETWORK) and name.endswith(ends))
    return next(found, None)


def _is_unet(tensors: Tensors) -> bool:
    return NETWORK + "input_blocks.0.0.weight" in tensors


def _is_xl(tensors: Tensors) -> bool:
    return _is_unet(tensors) and (
        _any_starts("conditioner.embedders.")(tensors) or NETWORK + "label_emb.0.0.weight" in tensors
    )


def _is_refiner(tensors: Tensors) -> bool:
    # One text encoder of the larger kind stands where XL has the smaller one: generative-models, configs/inference.
    large = _any_starts("conditioner.embedders.0.model.")(tensors)
    return _is_xl(tensors) and (large or _context_of(tensors) == 1280)


def _is_sd2(tensors: Tensors) -> bool:
    return _is_unet(tensors) and (_any_starts("cond_stage_model.model.")(tensors) or _context_of(tensors) == 1024)


def _is_sd15(tensors: Tensors) -> bool:
    return _is_unet(tensors) and (_any_starts("cond_stage_model.transformer.")(tensors) or _context_of(tensors) == 768)


_is_flux = _has("double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight", "vector_in.in_layer.weight")

SIGNS: Mapping[str, Callable[[Tensors], bool]] = {
    "flux-dev": lambda tensors: _is_flux(tensors) and _has("guidance_in.in_layer.weight")(tensors),
    "flux-schnell": _is_flux,
    "sd3": _has("joint_blocks.0.context_block.adaLN_modulation.1.bias", "context_embedder.weight"),
    "sana-sprint": _has(
        "blocks.0.mlp.inverted_conv.conv.weight", "attention_y_norm.weight", "cfg_embedder.mlp.0.weight"
    ),
    "sana": _has("blocks.0.mlp.inverted_conv.conv.weight", "attention_y_norm.weight"),
    "sdxl-refiner": _is_refiner,
    "sdxl": _is_xl,
    "sd2": _is_sd2,
    "sd15": _is_sd15,
}
"""The first that is so says the family."""

KINDS: Mapping[str, Callable[[Tensors], bool]] = {
    "lora": _any_ends("lora_up.weight", "lora_A.weight", "lora_B.weight", "lora.up.weight", "lora_A.default.weight"),
    "embedding": lambda tensors: bool(tensors) and set(tensors) <= {"emb_params", "clip_l", "clip_g", "t5"},
    "controlnet": _any_starts("control_model.", "controlnet_cond_embedding.", "controlnet_x_embedder."),
    "vae": lambda tensors: (
        _all_start("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "loss.")(tensors)
        or _all_start("first_stage_model.", "vae.")(tensors)
    ),
}
"""What goes along with a checkpoint."""

TROUBLES: Mapping[str, Callable[[Tensors], bool]] = {
    "it is quantised by bitsandbytes; take the file in fp16, bf16 or fp8": _any_ends(".absmax", ".quant_map"),
    "it is in fp8 with scales of its own; take the file in fp16, bf16 or plain fp8": _any_ends("scaled_fp8"),
    "it fills or follows a picture (FLUX tools), which no task here does": lambda tensors: (
        _is_flux(tensors)
        and (first_of(tensors, "img_in.weight") or Tensor("F16", (0, 64))).shape[1] != 64
        and (first_of(tensors, "img_in.weight") or Tensor("F16", (0, 64))).shape[1] in {128, 196, 384}
    ),
}
"""What keeps a file of a known family from being loaded, in words."""

PARTS: Mapping[str, Mapping[str, str]] = {
    "first_stage_model.": dict.fromkeys(FAMILIES, "vae"),
    "vae.": dict.fromkeys(FAMILIES, "vae"),
    "cond_stage_model.": dict.fromkeys(("sd15", "sd2"), "text_encoder"),
    "conditioner.embedders.0.": {"sdxl": "text_encoder", "sdxl-refiner": "text_encoder_2"},
    "conditioner.embedders.1.": {"sdxl": "text_encoder_2"},
    "text_encoders.clip_l.": dict.fromkeys(("sd3", "flux-dev", "flux-schnell"), "text_encoder"),
    "text_encoders.clip_g.": {"sd3": "text_encoder_2"},
    "text_encoders.t5xxl.": {
        "sd3": "text_encoder_3",
        "flux-dev": "text_encoder_2",
        "flux-schnell": "text_encoder_2",
    },
}
"""Which component the tensors below a prefix belong to, by family; others are the network's that denoises."""

NOT_LOADED = ("model_ema.", "conditioner.embedders.2", "loss.")


def parts_of(tensors: Tensors, family: str) -> dict[str, list[Tensor]]:
    """Sort the tensors of a single file by component, as diffusers names them; what is not loaded is left out."""
    network = "unet" if family.startswith("sd") and family != "sd3" else "transformer"
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in PARTS if name.startswith(prefix)), None)
        part = PARTS[prefix].get(family) if prefix else network
        bare_of_unet = network == "unet" and not prefix and not name.startswith(NETWORK)  # alphas_cumprod and the like
        if part and not name.startswith(NOT_LOADED) and not bare_of_unet:
            parts.setdefault(part, []).append(tensor)
    return parts
