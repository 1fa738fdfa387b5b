"""Variants of the zoo's families that differ from them in their networks: older, newer, for another task. All tiny.

Distilled ones such as SDXL Turbo differ in nothing that their files show: the zoo's own, called otherwise.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

from tests.support import zoo

OPEN_CLIP_WIDTH = 1024
"""Of the text that Stable Diffusion 2 attends to: what its files are known by, so it is that of the real one."""


def _sd2() -> Any:
    """Make a Stable Diffusion 2 that predicts velocity: OpenCLIP's encoder, linear projections."""
    tokenizer = zoo.clip_tokenizer()
    tokenizer.pad_token = "!"  # as OpenCLIP's does
    config = zoo.clip_config(tokenizer, layers=2, width=OPEN_CLIP_WIDTH)
    config.intermediate_size = 64
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    return StableDiffusionPipeline(
        vae=zoo.autoencoder(latents=4, scaling=0.18215),
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=OPEN_CLIP_WIDTH, use_linear_projection=True, attention_head_dim=(2, 4, 8, 8)),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _unet(**given: Any) -> UNet2DConditionModel:
    """Make a UNet like that of the zoo's Stable Diffusion 1.5, but for what is given."""
    return UNet2DConditionModel(
        **{
            "sample_size": zoo.SIDE // 8,
            "block_out_channels": (32, 32, 64, 64),
            "layers_per_block": 1,
            "cross_attention_dim": zoo.TEXT_WIDTH,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
            **given,
        }
    )


def _changed(network: Any, **given: Any) -> Any:
    """Make a network like another one, but for what is given; `from_config` would leave out what is usual."""
    config = {name: each for name, each in network.config.items() if not name.startswith("_")}
    return type(network)(**{**config, **given})


def _refiner() -> Any:
    """Make an SDXL refiner: the larger text encoder alone, four levels, told how beautiful a picture is to be."""
    base = zoo.FAMILY_BUILDS["sdxl"]()
    unet = _unet(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * zoo.TEXT_WIDTH,
        attention_head_dim=(2, 2, 4, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=2 * zoo.TEXT_WIDTH + 5 * 8,
    )
    return StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=base.text_encoder_2,
        tokenizer=None,
        tokenizer_2=base.tokenizer_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler.from_config(base.scheduler.config),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def _inpainting(family: str, pipeline: Any) -> Any:
    """Make a checkpoint that takes nine channels: latents, a mask, and what is masked."""
    parts = dict(zoo.FAMILY_BUILDS[family]().components)
    parts["unet"] = _changed(parts["unet"], in_channels=9)
    more = {"requires_safety_checker": False} if family == "sd15" else {"add_watermarker": False}
    return pipeline(**parts, **more)


def _sd35() -> Any:
    """Make a Stable Diffusion 3.5 medium: queries and keys are normed, and one block attends twice."""
    pipeline = zoo.FAMILY_BUILDS["sd3"]()
    pipeline.register_modules(
        transformer=_changed(pipeline.transformer, qk_norm="rms_norm", dual_attention_layers=(0,))
    )
    return pipeline


def _schnell() -> Any:
    """Make a FLUX.1 schnell: no guidance in it, and no shift by size."""
    pipeline = zoo.FAMILY_BUILDS["flux"]()
    pipeline.register_modules(
        transformer=_changed(pipeline.transformer, guidance_embeds=False),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    )
    return pipeline


BUILDS: dict[str, zoo.Build] = {
    "sd2": _sd2,
    "refiner": _refiner,
    "sd15_inpaint": lambda: _inpainting("sd15", StableDiffusionInpaintPipeline),
    "sdxl_inpaint": lambda: _inpainting("sdxl", StableDiffusionXLInpaintPipeline),
    "sd35": _sd35,
    "schnell": _schnell,
}


def _made(build: zoo.Build) -> Callable[[Path], Path]:
    return lambda folder: zoo.saved(folder, build)


VARIANTS: dict[str, Callable[[Path], Path]] = {name: _made(build) for name, build in BUILDS.items()}
