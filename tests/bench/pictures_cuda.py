"""The GPU part of `make bench-pictures`: SDXL and FLUX.1 in full size, with random weights made on the spot.

    python -m tests.bench.pictures --device cuda      (--tiny: the zoo, to see that all of it runs; also on a CPU)

Nothing is downloaded. Shapes are those of the public configurations; tokenizers and FLUX's T5 are toys, as they cost a
picture nothing worth measuring. Random weights draw noise in exactly the time that trained ones take.
"""

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from app.core.spec import GenerationSpec
from tasks.machine.drivers import make_driver
from tasks.machine.drivers.contract import DriverSettings, ModelFiles, Order
from tests.bench.provision import machine

SIDE = 1024
"""Pixels of what the full-size models draw."""

Build = Callable[[str], Any]
"""Makes a pipeline whose networks are on a device."""


@dataclass(frozen=True)
class Bench:
    """What is measured, and on what."""

    torch: Any
    device: str
    side: int
    steps: int
    pictures: int
    """Of each way; a multiple of `together`."""
    together: int

    def name(self) -> str:
        """Return what it is measured on."""
        return str(self.torch.cuda.get_device_name()) if self.device == "cuda" else "CPU"

    def wait(self) -> None:
        """Wait until all that was asked for is drawn."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def begin(self) -> None:
        """Measure memory anew."""
        if self.device == "cuda":
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Return what was held at most since then, bytes; on a CPU what the process holds."""
        if self.device == "cuda":
            return int(self.torch.cuda.max_memory_allocated())
        return int(psutil.Process().memory_info().rss)


def main(device: str = "cuda", *, tiny: bool = False) -> None:
    """Measure, and print one table; `tiny` with the zoo's pipelines, uncompiled, which says nothing about speed."""
    import torch  # noqa: PLC0415  # seconds of import

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device: run this on a machine with a GPU, or without DEVICE=cuda")
    bench = Bench(torch, device, 64, 1, 2, 2) if tiny else Bench(torch, device, SIDE, 20, 8, 4)
    print(f"{machine()}; {bench.name()}, torch {torch.__version__}")
    print(f"{bench.side} x {bench.side}, {bench.steps} steps, {bench.pictures} pictures of each\n")
    print("| model | way | pictures/min | against the bare loop | GB at the peak | first picture |")
    print("|---|---|---:|---:|---:|---:|")
    builds: Mapping[str, Build] = {"sdxl": _tiny("sdxl"), "flux": _tiny("flux")} if tiny else FULL_SIZE
    if tiny:
        torch.set_num_threads(1)  # several threads would only wait for each other
    with (
        _imports_passed_over(),
        tempfile.TemporaryDirectory(prefix="bench-pictures-") as name,
        torch.compiler.set_stance("force_eager" if tiny else "default"),
    ):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{name}/compiled")
        for model, build in builds.items():
            folder = Path(name) / model
            build(device).save_pretrained(folder)
            _of_model(bench, model, folder)
            shutil.rmtree(folder)


@contextmanager
def _imports_passed_over() -> Iterator[None]:
    """Let the collector pass over what is there by now: each driver that is freed would look through all of torch."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _of_model(bench: Bench, model: str, folder: Path) -> None:
    rate = _row(bench, model, "bare loop, eager", *_bare(bench, folder), None)
    alone, together = (DriverSettings(device=bench.device, together=count) for count in (1, bench.together))
    ways = {
        "our driver": alone,
        f"our driver, batches of {bench.together}": together,
        "our driver, compiled": replace(alone, compile=True),
        f"our driver, compiled, batches of {bench.together}": replace(together, compile=True),
    }
    for way, settings in ways.items():
        _row(bench, model, way, *_ours(bench, folder, settings), rate)
    # Compiled code is on disk by now: what a restart pays.
    _row(bench, model, "the same, after a restart", *_ours(bench, folder, list(ways.values())[-1]), rate)


def _row(
    bench: Bench, model: str, way: str, draw: Callable[[int, int], None], close: Callable[[], None], bare: float | None
) -> float:
    bench.begin()
    began = time.perf_counter()
    draw(0, bench.together)
    first = time.perf_counter() - began
    walls = []
    for seed in range(0, bench.pictures, bench.together):
        bench.wait()
        began = time.perf_counter()
        draw(seed, bench.together)
        bench.wait()
        walls.append((time.perf_counter() - began) / bench.together)
    rate = 60 / median(walls)
    part = f"{100 * rate / bare:.0f} %" if bare else "100 %"
    print(f"| {model} | {way} | {rate:.1f} | {part} | {bench.peak() / 1e9:.1f} | {first:.1f} s |", flush=True)
    close()
    return rate


def _bare(bench: Bench, folder: Path) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    from diffusers import DiffusionPipeline  # noqa: PLC0415  # as above

    torch = bench.torch
    dtype = torch.float32 if bench.device == "cpu" else torch.bfloat16 if "flux" in folder.name else torch.float16
    held = [DiffusionPipeline.from_pretrained(folder, dtype=dtype).to(bench.device)]
    held[0].set_progress_bar_config(disable=True)

    def draw(seed: int, count: int) -> None:
        for k in range(count):
            generator = torch.Generator("cpu").manual_seed(seed + k)
            held[0]("a cat", num_inference_steps=bench.steps, width=bench.side, height=bench.side, generator=generator)

    return draw, held.clear


def _ours(
    bench: Bench, folder: Path, settings: DriverSettings
) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    driver = make_driver("diffusers", settings)
    model = ModelFiles(folder.name, folder, folder.name)
    spec = GenerationSpec(model_id=folder.name, prompt="a cat", steps=bench.steps, width=bench.side, height=bench.side)

    def draw(seed: int, count: int) -> None:
        drawn = list(driver.draw(Order(replace(spec, seed=seed, n=count), model), lambda _: None))
        assert [picture.seat and picture.seat.together for picture in drawn] == [min(settings.together, count)] * count

    return draw, driver.free


def _tiny(family: str) -> Build:
    from tests.support import zoo  # noqa: PLC0415  # as above

    return lambda device: zoo.FAMILY_BUILDS[family]().to(device)


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


def _sdxl(device: str) -> Any:
    """Make SDXL: stabilityai/stable-diffusion-xl-base-1.0, unet/config.json and vae/config.json."""
    import torch  # noqa: PLC0415  # as above
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel  # noqa: PLC0415

    from tests.support.zoo import clip_tokenizer  # noqa: PLC0415  # as above

    with torch.device(device):  # networks alone: schedulers reckon with numpy
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
        vae = _vae(latent_channels=4, scaling_factor=0.13025, force_upcast=True)
        encoders = _clip(768, 12, 12, projected=False), _clip(1280, 32, 20, projected=True)
    pipeline: Any = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )
    return pipeline.to(torch.float16)


def _flux(device: str) -> Any:
    """Make FLUX.1-dev: black-forest-labs/FLUX.1-dev, transformer/config.json and vae/config.json; T5 of two layers."""
    import torch  # noqa: PLC0415  # as above
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel  # noqa: PLC0415
    from transformers import T5Config, T5EncoderModel  # noqa: PLC0415  # as above

    from tests.support import zoo  # noqa: PLC0415  # as above

    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # twelve billion numbers, which would be 48 GB otherwise
    try:
        with torch.device(device):  # networks alone, as above
            vae = _vae(
                latent_channels=16,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
            )
            tokenizer, _ = zoo.t5_encoder()
            config = T5Config(
                vocab_size=len(tokenizer), d_model=4096, num_layers=2, num_heads=64, is_encoder_decoder=False
            )
            encoders = _clip(768, 12, 12, projected=False), T5EncoderModel(config)
            transformer = FluxTransformer2DModel(guidance_embeds=True)
    finally:
        torch.set_default_dtype(dtype)
    return FluxPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=zoo.clip_tokenizer(),
        tokenizer_2=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )


FULL_SIZE: Mapping[str, Build] = {"sdxl": _sdxl, "flux": _flux}
