"""The GPU part of `make bench-pictures`: SDXL and FLUX.1 in full size, with random weights made on the spot.

Nothing is downloaded. Shapes are those of the public configurations; tokenizers and FLUX's T5 are toys, as they cost a
picture nothing worth measuring. Random weights draw noise in exactly the time that trained ones take.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order
from tests.bench.provision import machine

SIDE = 1024
STEPS = 20
PICTURES = 8
TOGETHER = 4

Build = Callable[[], Any]


def main() -> None:
    """Measure, and print one table."""
    import torch  # noqa: PLC0415  # seconds of import

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device: run this on a machine with a GPU, or without DEVICE=cuda")
    print(f"{machine()}; {torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"{SIDE} x {SIDE}, {STEPS} steps, {PICTURES} pictures of each\n")
    print("| model | way | pictures/min | against the bare loop | GB at the peak | first picture |")
    print("|---|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="bench-pictures-") as name:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{name}/compiled")
        for model, build in {"sdxl": _sdxl, "flux": _flux}.items():
            folder = Path(name) / model
            with torch.device("cuda"):
                build().save_pretrained(folder)
            torch.cuda.empty_cache()
            _of_model(torch, model, folder)
            shutil.rmtree(folder)


def _of_model(torch: Any, model: str, folder: Path) -> None:
    rate = _row(torch, model, "bare loop, eager", *_bare(torch, folder), None)
    ways = {
        "our driver": DriverSettings(device="cuda", together=1),
        f"our driver, batches of {TOGETHER}": DriverSettings(device="cuda", together=TOGETHER),
        "our driver, compiled": DriverSettings(device="cuda", together=1, compile=True),
        f"our driver, compiled, batches of {TOGETHER}": DriverSettings(device="cuda", together=TOGETHER, compile=True),
    }
    for way, settings in ways.items():
        _row(torch, model, way, *_ours(folder, settings), rate)
    # Compiled code is on disk by now: what a restart pays.
    _row(torch, model, "the same, after a restart", *_ours(folder, list(ways.values())[-1]), rate)


def _row(
    torch: Any, model: str, way: str, draw: Callable[[int, int], None], close: Callable[[], None], bare: float | None
) -> float:
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    draw(0, TOGETHER)
    first = time.perf_counter() - began
    walls = []
    for seed in range(0, PICTURES, TOGETHER):
        torch.cuda.synchronize()
        began = time.perf_counter()
        draw(seed, TOGETHER)
        torch.cuda.synchronize()
        walls.append((time.perf_counter() - began) / TOGETHER)
    rate = 60 / median(walls)
    peak = torch.cuda.max_memory_allocated() / 1e9
    part = f"{100 * rate / bare:.0f} %" if bare else "100 %"
    print(f"| {model} | {way} | {rate:.1f} | {part} | {peak:.1f} | {first:.1f} s |", flush=True)
    close()
    torch.cuda.empty_cache()
    return rate


def _bare(torch: Any, folder: Path) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    from diffusers import DiffusionPipeline  # noqa: PLC0415  # as above

    dtype = torch.bfloat16 if "flux" in folder.name else torch.float16
    held = [DiffusionPipeline.from_pretrained(folder, dtype=dtype).to("cuda")]
    held[0].set_progress_bar_config(disable=True)

    def draw(seed: int, count: int) -> None:
        for k in range(count):
            generator = torch.Generator("cpu").manual_seed(seed + k)
            held[0]("a cat", num_inference_steps=STEPS, width=SIDE, height=SIDE, generator=generator)

    return draw, held.clear


def _ours(folder: Path, settings: DriverSettings) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    driver = make_driver("diffusers", settings)
    model = ModelFiles(folder.name, folder, folder.name)

    def draw(seed: int, count: int) -> None:
        spec = GenerationSpec(
            model_id=folder.name, prompt="a cat", steps=STEPS, width=SIDE, height=SIDE, seed=seed, n=count
        )
        list(driver.draw(Order(spec, model), lambda _: None))

    return draw, driver.free


def _clip(width: int, layers: int, heads: int, *, projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection  # noqa: PLC0415  # as above

    from tests.support.zoo import clip_tokenizer  # noqa: PLC0415  # as above

    tokens = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _vae(**more: Any) -> Any:
    from diffusers import AutoencoderKL  # noqa: PLC0415  # as above

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=SIDE,
        **more,
    )


def _sdxl() -> Any:
    """Make SDXL: stabilityai/stable-diffusion-xl-base-1.0, unet/config.json and vae/config.json."""
    import torch  # noqa: PLC0415  # as above
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel  # noqa: PLC0415

    from tests.support.zoo import clip_tokenizer  # noqa: PLC0415  # as above

    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )
    pipeline: Any = StableDiffusionXLPipeline(
        vae=_vae(latent_channels=4, scaling_factor=0.13025, force_upcast=True),
        text_encoder=_clip(768, 12, 12, projected=False),
        text_encoder_2=_clip(1280, 32, 20, projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )
    return pipeline.to(torch.float16)


def _flux() -> Any:
    """Make FLUX.1-dev: black-forest-labs/FLUX.1-dev, transformer/config.json and vae/config.json; T5 of two layers."""
    import torch  # noqa: PLC0415  # as above
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel  # noqa: PLC0415
    from transformers import T5Config, T5EncoderModel  # noqa: PLC0415  # as above

    from tests.support import zoo  # noqa: PLC0415  # as above

    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # twelve billion numbers, which would be 48 GB otherwise
    try:
        tokenizer, _ = zoo._t5()
        config = T5Config(vocab_size=len(tokenizer), d_model=4096, num_layers=2, num_heads=64, is_encoder_decoder=False)
        return FluxPipeline(
            vae=_vae(
                latent_channels=16,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=_clip(768, 12, 12, projected=False),
            text_encoder_2=T5EncoderModel(config),
            tokenizer=zoo.clip_tokenizer(),
            tokenizer_2=tokenizer,
            transformer=FluxTransformer2DModel(guidance_embeds=True),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        )
    finally:
        torch.set_default_dtype(dtype)
