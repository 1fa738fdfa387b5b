"""What a model's file is, told from its header: no torch, no network, and never a guess that is wrong."""

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import run
from typing import TYPE_CHECKING

import pytest

from tasks.machine.drivers import detect, headers
from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.drivers.families import FAMILIES, settled

if TYPE_CHECKING:
    from tests.support.zoo_files import Zoo

UNET = "model.diffusion_model."
ATTENTION = f"{UNET}input_blocks.{{}}.1.transformer_blocks.0.attn2.to_k.weight"

REAL: Mapping[str, tuple[str, Mapping[str, tuple[int, ...]]]] = {
    # Names and shapes as in the files that are given out for each.
    "v1-5-pruned-emaonly": (
        "sd15",
        {
            f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
            ATTENTION.format(1): (320, 768),
            "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
            "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        },
    ),
    "a unet alone": ("sd15", {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), ATTENTION.format(1): (320, 768)}),
    "v2-1_768-ema-pruned": (
        "sd2",
        {
            f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
            ATTENTION.format(1): (320, 1024),
            "cond_stage_model.model.positional_embedding": (77, 1024),
        },
    ),
    "sd_xl_base_1.0": (
        "sdxl",
        {
            f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
            f"{UNET}label_emb.0.0.weight": (1280, 2816),
            ATTENTION.format(4): (640, 2048),
            "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
            "conditioner.embedders.1.model.positional_embedding": (77, 1280),
        },
    ),
    "sd_xl_refiner_1.0": (
        "sdxl-refiner",
        {
            f"{UNET}input_blocks.0.0.weight": (384, 4, 3, 3),
            f"{UNET}label_emb.0.0.weight": (1536, 2560),
            ATTENTION.format(4): (768, 1280),
            "conditioner.embedders.0.model.positional_embedding": (77, 1280),
        },
    ),
    "sd3.5_large": (
        "sd3",
        {
            f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias": (14592,),
            f"{UNET}context_embedder.weight": (2432, 4096),
            f"{UNET}joint_blocks.0.x_block.attn.ln_q.weight": (64,),
        },
    ),
    "flux1-dev": (
        "flux-dev",
        {
            "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
            "img_in.weight": (3072, 64),
            "vector_in.in_layer.weight": (3072, 768),
            "guidance_in.in_layer.weight": (3072, 256),
        },
    ),
    "flux1-schnell in ComfyUI's layout": (
        "flux-schnell",
        {
            f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale": (128,),
            f"{UNET}img_in.weight": (3072, 64),
            f"{UNET}vector_in.in_layer.weight": (3072, 768),
            "text_encoders.t5xxl.transformer.shared.weight": (32128, 4096),
            "vae.decoder.conv_in.weight": (512, 16, 3, 3),
        },
    ),
    "Sana_1600M_1024px": (
        "sana",
        {"blocks.0.mlp.inverted_conv.conv.weight": (11200, 2240, 1, 1), "attention_y_norm.weight": (2304,)},
    ),
    "Sana_Sprint_1.6B": (
        "sana-sprint",
        {
            "blocks.0.mlp.inverted_conv.conv.weight": (11200, 2240, 1, 1),
            "attention_y_norm.weight": (2304,),
            "cfg_embedder.mlp.0.weight": (2240, 256),
        },
    ),
}


def a_file(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "F16") -> Path:
    """Write a safetensors file of these shapes; its tensors are holes that take no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = headers.Tensor(dtype, shape).size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.mark.parametrize(("family", "shapes"), REAL.values(), ids=list(REAL))
def test_a_single_file_shows_its_family(tmp_path: Path, family: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    found = detect.look_at(a_file(tmp_path / "model.safetensors", shapes, "BF16"))

    assert (found.kind, found.layout, found.family, found.dtype) == ("checkpoint", "single", family, "BF16")


def test_every_family_that_has_files_of_its_own_is_told_apart() -> None:
    assert {family for family, _ in REAL.values()} == {row.looks_like for row in FAMILIES.values()}


def test_the_components_in_a_single_file_are_named_as_diffusers_names_them(tmp_path: Path) -> None:
    whole = detect.look_at(a_file(tmp_path / "a.safetensors", REAL["flux1-schnell in ComfyUI's layout"][1]))
    xl = detect.look_at(a_file(tmp_path / "b.safetensors", REAL["sd_xl_base_1.0"][1]))

    assert set(whole.parts) == {"transformer", "text_encoder_2", "vae"}
    assert set(xl.parts) == {"unet", "text_encoder", "text_encoder_2"}


def test_an_inpainting_checkpoint_is_known_by_its_nine_channels(tmp_path: Path) -> None:
    shapes = {**REAL["a unet alone"][1], f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}

    assert detect.look_at(a_file(tmp_path / "model.safetensors", shapes)).channels == 9


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("lora", ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"]),
        ("lora", ["unet.down_blocks.0.attentions.0.attn1.to_q.lora_A.weight"]),
        ("embedding", ["emb_params"]),
        ("embedding", ["clip_l", "clip_g"]),
        ("controlnet", ["control_model.input_blocks.0.0.weight"]),
        ("controlnet", ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"]),
        ("vae", ["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"]),
        ("vae", ["first_stage_model.decoder.conv_in.weight"]),
    ],
)
def test_what_only_goes_along_with_a_checkpoint_is_told_from_one(tmp_path: Path, kind: str, names: list[str]) -> None:
    path = a_file(tmp_path / "part.safetensors", dict.fromkeys(names, (4, 4)))

    assert detect.look_at(path).kind == kind


KNOWN = {
    "sd15": "sd15",
    "sd15_inpaint": "sd15",
    "sd2": "sd2",
    "sdxl": "sdxl",
    "sdxl_inpaint": "sdxl",
    "refiner": "sdxl-refiner",
    "sd3": "sd3",
    "sd35": "sd3",
    "flux": "flux-dev",
    "schnell": "flux-schnell",
    "sana": "sana",
    "sana_sprint": "sana-sprint",
}
"""What the zoo calls its pipelines, and the rows that they show to be of."""


@pytest.mark.parametrize("family", KNOWN)
def test_a_folder_shows_its_family(zoo: "Zoo", family: str) -> None:
    found = detect.look_at(zoo.folder(family))

    known = KNOWN[family]
    assert (found.kind, found.layout, found.family, found.dtype) == ("checkpoint", "folder", known, "F32")


@pytest.mark.parametrize(
    ("family", "file", "change", "expected"),
    [
        ("sd15", "unet/config.json", {"cross_attention_dim": 1024}, "sd2"),
        ("flux", "transformer/config.json", {"guidance_embeds": False}, "flux-schnell"),
        (
            "sdxl",
            "model_index.json",
            {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]},
            "sdxl-refiner",
        ),
        ("sd15", "model_index.json", {"_class_name": "KandinskyPipeline"}, None),
    ],
)
def test_families_that_share_a_class_are_told_apart_by_their_configuration(
    zoo: "Zoo", tmp_path: Path, family: str, file: str, change: dict[str, object], expected: str | None
) -> None:
    pack = tmp_path / "pack"
    for source in zoo.pack(family, ()).rglob("*.json"):
        target = pack / source.relative_to(zoo.pack(family, ()))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    (pack / file).write_text(json.dumps(json.loads((pack / file).read_text()) | change))

    found = detect.look_at(pack)

    assert (found.kind, found.family) == ("config", expected)


@pytest.mark.parametrize("family", [name for name in KNOWN if name != "sana_sprint"])
def test_a_single_file_of_the_zoo_shows_its_family(zoo: "Zoo", family: str) -> None:
    found = detect.look_at(zoo.file(family))

    assert (found.family, found.channels) == (KNOWN[family], 9 if "inpaint" in family else 4)


def test_a_folder_with_half_precision_files_only_names_its_variant(zoo: "Zoo", tmp_path: Path) -> None:
    for source in zoo.folder("sd15").rglob("*"):
        target = tmp_path / "half" / str(source.relative_to(zoo.folder("sd15"))).replace(".safe", ".fp16.safe")
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())

    assert detect.look_at(tmp_path / "half").variant == "fp16"
    assert detect.look_at(zoo.folder("sd15")).variant is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no safetensors file"),
        (b"PK\x03\x04 and so on", "no safetensors file"),
        (struct.pack("<Q", 2**40) + b"{}", "no safetensors file"),
        (struct.pack("<Q", 12) + b"not any JSON", "no description of tensors"),
        (struct.pack("<Q", 15) + b'{"a": {"b": 1}}', "no description of tensors"),
        (struct.pack("<Q", 2) + b"[]", "no description of tensors"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(CannotDraw, match=words) as refused:
        detect.look_at(path)

    assert refused.value.permanent


@pytest.mark.parametrize("left", [0.2, 0.99])
def test_a_file_that_is_not_all_there_is_refused(zoo: "Zoo", tmp_path: Path, left: float) -> None:
    whole = zoo.file("sd15").read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole[: int(len(whole) * left)])

    with pytest.raises(CannotDraw, match="fetch it again"):
        detect.look_at(path)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"some.other.model": (4, 4)}, "of no family that is known here.*some.other.model"),
        ({**REAL["flux1-dev"][1], "double_blocks.0.img_attn.qkv.weight.absmax": (4,)}, "quantised by bitsandbytes"),
        ({**REAL["flux1-dev"][1], "scaled_fp8": (2,)}, "scales of its own"),
        ({**REAL["flux1-dev"][1], "img_in.weight": (3072, 384)}, "FLUX tools"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_a_reason(
    tmp_path: Path, shapes: Mapping[str, tuple[int, ...]], words: str
) -> None:
    with pytest.raises(CannotDraw, match=words):
        detect.look_at(a_file(tmp_path / "model.safetensors", shapes))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.pth"])
def test_a_pickle_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"whatever")

    with pytest.raises(CannotDraw, match=r"\.safetensors file.*ALLOW_PICKLES=1"):
        detect.look_at(tmp_path / name)


@pytest.mark.parametrize(
    ("found", "base", "expected"),
    [
        ("sdxl", None, "sdxl"),
        ("sdxl", "SDXL 1.0", "sdxl"),
        ("sdxl", "Pony", "sdxl"),
        ("sdxl", "SDXL Lightning", "sdxl-lightning"),
        ("sdxl", "sdxl-turbo", "sdxl-turbo"),
        ("sd15", "SD", "sd15"),
        ("sd2", "SD", "sd2"),
        ("sd15", "SD 1.5", "sd15"),
        ("flux-schnell", "flux", "flux-schnell"),
        ("flux-dev", "Flux.1 D", "flux-dev"),
        ("sd3", "SD 3.5 Large Turbo", "sd3-turbo"),
        ("sdxl", "our own words", "sdxl"),
    ],
)
def test_what_the_catalogue_calls_it_refines_what_the_file_shows(found: str, base: str | None, expected: str) -> None:
    assert settled(found, base, "a-model").name == expected


@pytest.mark.parametrize(("found", "base"), [("sd15", "sdxl"), ("sdxl", "SD 1.5"), ("flux-dev", "Flux.1 S")])
def test_a_base_that_contradicts_the_file_is_refused_with_both(found: str, base: str) -> None:
    with pytest.raises(CannotDraw, match=f"{base}.*{FAMILIES[found].label}.*set base to {found}"):
        settled(found, base, "a-model")


def test_looking_at_a_model_imports_no_torch(zoo: "Zoo") -> None:
    program = (
        "import sys, pathlib; from tasks.machine.drivers import estimate, plan; from tasks.machine.drivers.contract "
        "import ModelFiles; found = plan.plan(ModelFiles('m', pathlib.Path(sys.argv[1]), 'p')); "
        "print(estimate.estimate(found, 'float16').total > 0, 'torch' in sys.modules)"
    )

    said = run([sys.executable, "-c", program, str(zoo.folder("sd15"))], capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["True", "False"]
