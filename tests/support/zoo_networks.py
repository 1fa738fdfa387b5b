"""What goes along with the pipelines of the zoo: LoRAs in the formats of their trainers, embeddings, autoencoders.

The LoRAs of one pipeline all say the same, whatever their format: whoever reads them right draws the same picture.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support import zoo_files

State = dict[str, torch.Tensor]

RANK = 4
ALPHA = 2.0
"""Half of the rank: a reader that forgets it applies twice as much."""

DENOISERS = ("unet", "transformer")
T5_LAYERS = ("SelfAttention", "DenseReluDense")
LAYERS = (
    *T5_LAYERS,
    "attn",
    "ff.",
    "conv1",
    "conv2",
    "proj_mlp",
    "single_transformer_blocks.0.proj_out",
    "mlp.fc",
    "self_attn",
)
NOT_THESE = (
    "relative_attention_bias",
    "norm",
    "conv_in",
    "conv_out",
    "conv_inverted",
    "conv_depth",
    "conv_point",
    "lora",
)

KOHYA_TEXT = {
    "text_encoder": "lora_te1",
    "text_encoder_2": "lora_te2",
}


@dataclass
class Matrices:
    """A LoRA's numbers, by network and module."""

    down: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    up: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    magnitude: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)


def weights_of(folder: Path, component: str) -> State:
    """Read the tensors of a network of a pipeline."""
    return {name: each for file in (folder / component).glob("*.safetensors") for name, each in load_file(file).items()}


def matrices(
    folder: Path, *, text: bool = True, seed: int = 1, dora: bool = False, parts: Sequence[str] = ()
) -> Matrices:
    """Make a LoRA's numbers for a pipeline's attention and feed-forward layers, and convolutions.

    `parts` names the networks; without it what denoises is one, and with `text` the encoders of CLIP's kind.
    Layers of equal width share the first matrix: where the original code has several in one, their LoRA has one too.
    """
    generator = torch.Generator().manual_seed(seed)
    made = Matrices()
    shared: dict[tuple[int, ...], torch.Tensor] = {}
    there = [each for each in (*DENOISERS, *KOHYA_TEXT) if (folder / each).is_dir()]
    usual = [each for each in there if each in DENOISERS or (text and _is_clip(folder, each))]
    for component in parts or usual:
        for name, weight in sorted(weights_of(folder, component).items()):
            module = name.removesuffix(".weight")
            known = name.endswith(".weight") and any(each in module for each in LAYERS)
            if not known or weight.ndim < 2 or any(each in module for each in NOT_THESE):
                continue
            inside = tuple(weight.shape[1:])
            if inside not in shared:
                shared[inside] = torch.randn(RANK, *inside, generator=generator) / 8
            key = (component, module)
            made.down[key] = shared[inside]
            made.up[key] = torch.randn(weight.shape[0], RANK, *[1] * (weight.ndim - 2), generator=generator) / 4
            if dora:
                flat = weight.flatten(1)
                made.magnitude[key] = flat.norm(dim=1) * 1.5
    return made


def _is_clip(folder: Path, component: str) -> bool:
    return str(json.loads((folder / component / "config.json").read_text())["architectures"][0]).startswith("CLIP")


def kohya(made: Matrices, path: Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write as kohya's trainer does for networks that have diffusers' names in it: Stable Diffusion 1 and 2."""
    names = {key: key[1] for key in made.down}
    return _kohya(made, names, path, metadata)


def _kohya(
    made: Matrices, names: Mapping[tuple[str, str], str], path: Path, metadata: Mapping[str, str] | None = None
) -> Path:
    state: State = {}
    has_second = any(component == "text_encoder_2" for component, _ in names)
    for key, called in names.items():
        component, name = key[0], called
        prefix = KOHYA_TEXT.get(component, "lora_unet")
        if component == "text_encoder" and not has_second:
            prefix = "lora_te"
        if any(each in name for each in T5_LAYERS):
            prefix = "lora_te3"
        elif component in KOHYA_TEXT:
            name = f"text_model.{name.removeprefix('text_model.')}"
        stem = f"{prefix}_{name.replace('.', '_')}"
        state[f"{stem}.lora_down.weight"] = made.down[key].clone()
        state[f"{stem}.lora_up.weight"] = made.up[key].clone()
        state[f"{stem}.alpha"] = torch.tensor(ALPHA)
        if key in made.magnitude:
            state[f"{stem}.dora_scale"] = made.magnitude[key][:, None].clone()
    save_file(state, path, metadata=dict(metadata) if metadata else None)
    return path


def kohya_original(made: Matrices, folder: Path, family: str, path: Path) -> Path:
    """Write as kohya's trainer does for networks that have the original code's names in it: XL, SD 3 and FLUX."""
    text = {key: key[1] for key in made.down if key[0] in KOHYA_TEXT}
    if family == "sdxl":
        state = weights_of(folder, "unet")
        config = json.loads((folder / "unet" / "config.json").read_text())
        original = dict(zip(state, zoo_files.unet(state, config), strict=True))
        names = {key: original[f"{key[1]}.weight"].removesuffix(".weight") for key in made.down if key[0] == "unet"}
        return _kohya(made, names | text, path)
    # What the original code has in one layer has the rows of its second matrices in one, too.
    ups = {f"{module}.weight": up for (component, module), up in made.up.items() if component == "transformer"}
    fused = (zoo_files.flux if family == "flux" else zoo_files.sd3)(ups)
    whole = Matrices(dict(made.down), dict(made.up))
    names = dict(text)
    for name, up in fused.items():
        module = name.removesuffix(".weight")
        key = ("transformer", f"fused.{module}")
        whole.up[key] = up
        whole.down[key] = _down_for(name, ups, fused, made)
        names[key] = module
    return _kohya(whole, names, path)


def _down_for(
    name: str, ups: Mapping[str, torch.Tensor], fused: Mapping[str, torch.Tensor], made: Matrices
) -> torch.Tensor:
    """Find the first matrix of a layer of the original code: by the first rows of its second one."""
    rows = fused[name]
    for module, up in ups.items():
        if torch.equal(rows[: len(up)], up):
            return made.down[("transformer", module.removesuffix(".weight"))]
    raise AssertionError(f"{name} is made of no layer that is known")


def peft(made: Matrices, path: Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write as diffusers does with PEFT's names; without alpha, which is in the matrices then."""
    return _dotted(made, path, ".lora_A.weight", ".lora_B.weight", metadata)


def diffusers(made: Matrices, path: Path) -> Path:
    """Write as diffusers did before it had PEFT."""
    return _dotted(made, path, ".lora.down.weight", ".lora.up.weight", None)


def bare(made: Matrices, path: Path) -> Path:
    """Write a folder as PEFT itself does: of one network, which nothing names, and with alpha in a file beside it."""
    path.mkdir()
    state: State = {}
    for (component, module), down in made.down.items():
        if component not in KOHYA_TEXT:
            state[f"base_model.model.{module}.lora_A.weight"] = down.clone()
            state[f"base_model.model.{module}.lora_B.weight"] = made.up[(component, module)].clone()
    save_file(state, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA"}))
    return path


def _dotted(made: Matrices, path: Path, down: str, up: str, metadata: Mapping[str, str] | None) -> Path:
    state: State = {}
    for (component, module), matrix in made.down.items():
        state[f"{component}.{module}{down}"] = matrix.clone()
        state[f"{component}.{module}{up}"] = made.up[(component, module)] * (ALPHA / RANK)
        if (component, module) in made.magnitude:
            state[f"{component}.{module}.lora_magnitude_vector"] = made.magnitude[(component, module)].clone()
    save_file(state, path, metadata=dict(metadata) if metadata else None)
    return path


def embedding(folder: Path, path: Path, *, count: int = 2, seed: int = 3) -> Path:
    """Write a textual inversion for a pipeline: for two text encoders as XL's are, or else for one."""
    generator = torch.Generator().manual_seed(seed)

    def vectors(component: str) -> torch.Tensor:
        config = json.loads((folder / component / "config.json").read_text())
        return torch.randn(count, config["hidden_size"], generator=generator) / 8

    names = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
    is_xl = (folder / "text_encoder_2").is_dir()
    state = {key: vectors(each) for key, each in names.items()} if is_xl else {"emb_params": vectors("text_encoder")}
    save_file(state, path)
    return path


def other_vae(folder: Path, path: Path, *, layout: str = "folder", seed: int = 5) -> Path:
    """Write an autoencoder like a pipeline's own with other weights: as a folder, or a file in either layout."""
    state = weights_of(folder, "vae")
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: each + torch.randn(each.shape, generator=generator) / 20 if name.startswith("decoder.conv_out") else each
        for name, each in state.items()
    }
    config = json.loads((folder / "vae" / "config.json").read_text())
    if layout == "folder":
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        save_file(state, path / "diffusion_pytorch_model.safetensors")
    else:
        named = zoo_files.vae(state, config) if layout == "original" else state
        save_file({name: each.contiguous().clone() for name, each in named.items()}, path)
    return path
