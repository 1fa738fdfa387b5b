"""Tiny pipelines of every family, with random weights that are the same in every run: made here, nothing is fetched.

Each function builds one, saves it as a diffusers folder and returns the folder. The architectures have every part that
the real ones have, so that what converts, patches or measures those works with these; what they draw means nothing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

START, END = "<|startoftext|>", "<|endoftext|>"
TEXT_WIDTH = 32
WORDS = ("red", "blue", "green", "circle", "square", "background", "large", "small", "cat", "dog", "and", "on")
SIDE = 64
"""Pixels of what they draw when not asked for another size."""

Build = Callable[[], Any]


def saved(folder: Path, build: Build) -> Path:
    """Save what is built from the seed 0; whatever drew random numbers before goes on undisturbed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = build()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # or dropout makes it draw otherwise than after loading
    pipeline.save_pretrained(folder)
    return folder


def clip_tokenizer() -> CLIPTokenizer:
    """Make a tokenizer that has a token for each of WORDS, and spells all others in bytes."""
    letters = sorted(ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            if (pieces[0], pieces[1]) not in merges:
                merges.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
    merged = dict.fromkeys("".join(pair) for pair in merges)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *merged, START, END]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,  # type: ignore[arg-type]  # pairs are what it takes
        model_max_length=77,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
    )


def clip_config(tokenizer: CLIPTokenizer, *, layers: int = 3, width: int = TEXT_WIDTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5_encoder() -> tuple[T5Tokenizer, T5EncoderModel]:
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS), "▁", *map(chr, range(33, 127))]
    tokenizer = T5Tokenizer(vocab=[(piece, -float(rank)) for rank, piece in enumerate(pieces)], extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=2 * TEXT_WIDTH,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    return tokenizer, T5EncoderModel(config)


def _gemma() -> tuple[GemmaTokenizer, Gemma2Model]:
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    tokenizer = GemmaTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    return tokenizer, Gemma2Model(config)


def autoencoder(*, latents: int, scaling: float, shift: float | None = None, is_old: bool = True) -> AutoencoderKL:
    """Make an autoencoder of 8 pixels to a latent."""
    return AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=latents,
        norm_num_groups=8,
        sample_size=SIDE,
        scaling_factor=scaling,
        shift_factor=shift,
        use_quant_conv=is_old,
        use_post_quant_conv=is_old,
    )


def _sd15() -> StableDiffusionPipeline:
    """Make a Stable Diffusion 1.5: UNet of four levels, PNDM."""
    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=autoencoder(latents=4, scaling=0.18215),
        text_encoder=CLIPTextModel(clip_config(tokenizer)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> StableDiffusionXLPipeline:
    """Make a Stable Diffusion XL: two text encoders, the second with ten layers, by which diffusers knows it."""
    first, second = clip_tokenizer(), clip_tokenizer()
    # Of another width than the first: single files are read by it.
    second.pad_token = "!"  # as OpenCLIP's does
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=3 * TEXT_WIDTH,
        attention_head_dim=(2, 4, 8),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=2 * TEXT_WIDTH + 6 * 8,
        norm_num_groups=8,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(latents=4, scaling=0.13025),
        text_encoder=CLIPTextModel(clip_config(first)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(second, layers=10, width=2 * TEXT_WIDTH)),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def _sd3() -> StableDiffusion3Pipeline:
    """Make a Stable Diffusion 3: three text encoders, flow matching."""
    first, second = clip_tokenizer(), clip_tokenizer()
    second.pad_token = "!"
    t5_tokenizer, t5 = t5_encoder()
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=32,
    )
    t5_wide = T5EncoderModel(T5Config(**{**t5.config.to_dict(), "d_model": 2 * TEXT_WIDTH}))
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(latents=16, scaling=1.5305, shift=0.0609, is_old=False),
        text_encoder=CLIPTextModelWithProjection(clip_config(first)),
        tokenizer=first,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(second)),
        tokenizer_2=second,
        text_encoder_3=t5_wide,
        tokenizer_3=t5_tokenizer,
    )


def _flux() -> FluxPipeline:
    """Make a FLUX.1-dev: guidance embedded, shift by size."""
    tokenizer = clip_tokenizer()
    t5_tokenizer, t5 = t5_encoder()
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(latents=16, scaling=0.3611, shift=0.1159, is_old=False),
        text_encoder=CLIPTextModel(clip_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )


def _sana_autoencoder() -> AutoencoderDC:
    """Make an autoencoder of 32 pixels to a latent, as the real one is."""
    return AutoencoderDC(
        latent_channels=8,
        attention_head_dim=4,
        encoder_block_types=("ResBlock",) * 5 + ("EfficientViTBlock",),
        decoder_block_types=("ResBlock",) * 5 + ("EfficientViTBlock",),
        encoder_block_out_channels=(4, 4, 4, 8, 8, 8),
        decoder_block_out_channels=(4, 4, 4, 8, 8, 8),
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 5 + ((5,),),
        decoder_qkv_multiscales=((),) * 5 + ((5,),),
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )


def _sana_transformer(sample_size: int, **more: Any) -> SanaTransformer2DModel:
    """Make a transformer; the pipelines draw 32 * sample_size pixels and shrink them, and know few such sizes."""
    return SanaTransformer2DModel(
        sample_size=sample_size,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=8,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=TEXT_WIDTH,
        **more,
    )


def _sana() -> SanaPipeline:
    """Make a Sana: Gemma reads the prompt, DPM-Solver++ on flow sigmas."""
    tokenizer, gemma = _gemma()
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=gemma,
        vae=_sana_autoencoder(),
        transformer=_sana_transformer(16),
        scheduler=scheduler,
    )


def _sana_sprint() -> SanaSprintPipeline:
    """Make a Sana Sprint: distilled to one to four steps."""
    tokenizer, gemma = _gemma()
    return SanaSprintPipeline(
        tokenizer=tokenizer,
        text_encoder=gemma,
        vae=_sana_autoencoder(),
        transformer=_sana_transformer(32, qk_norm="rms_norm_across_heads", guidance_embeds=True),
        scheduler=SCMScheduler(),
    )


FAMILY_BUILDS: dict[str, Build] = {
    "sd15": _sd15,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
    "sana": _sana,
    "sana_sprint": _sana_sprint,
}


def _made(build: Build) -> Callable[[Path], Path]:
    return lambda folder: saved(folder, build)


FAMILIES: dict[str, Callable[[Path], Path]] = {name: _made(build) for name, build in FAMILY_BUILDS.items()}
