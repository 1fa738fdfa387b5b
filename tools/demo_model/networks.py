"""Builds the parts of the pipeline, untrained: tokenizer, text encoder, autoencoder, UNet and scheduler."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 77
"""Length of a prompt: that of CLIP, because prompt weighting and chunking elsewhere assume it."""


def tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Make a byte-level tokenizer that knows each word as one token, and spells any other text in bytes."""
    letters = sorted(ByteLevel.alphabet())
    merges = _learn_merges(words)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m) for m in merges), START, END]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        model_max_length=TOKENS,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
    )


def _learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Find the merges that make one token of every word, most frequent pair first (Sennrich et al. 2016)."""
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for word in pieces for pair in pairwise(word))
        if not pairs:
            return merges
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = [_merge(word, best) for word in pieces]


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def text_encoder(tok: CLIPTokenizer) -> CLIPTextModel:
    """Make a small CLIP text encoder: three layers of 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tok),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=128,
            bos_token_id=tok.bos_token_id,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
        )
    )


def autoencoder() -> AutoencoderTiny:
    """Make the autoencoder: 8 pixels to a latent and 4 channels, as in Stable Diffusion 1.5.

    Kaiming's initialisation and small residual branches, because with PyTorch's default it does not learn: 11.8 dB
    after 200 steps instead of 16.5 dB.
    """
    vae = AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(40, 40, 40, 40),
        num_encoder_blocks=(1, 1, 1, 2),
        num_decoder_blocks=(3, 2, 1, 1),
        latent_channels=4,
    )
    for name, module in vae.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
            if name.endswith("conv.4"):  # the last convolution of a residual block
                module.weight.data *= 0.3
    vae.encoder.layers[-1].weight.data *= 0.5
    vae.decoder.layers[-1].weight.data *= 0.3
    torch.nn.init.constant_(vae.decoder.layers[-1].bias, 0.5)
    return vae


def unet() -> UNet2DConditionModel:
    """Make the UNet for 16x16 latents.

    Attention only at 8x8 and 4x4: at 16x16 it took half of the time, and the model learns shapes well without.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96, 88),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def scheduler() -> DDIMScheduler:
    """Make the default sampler; any other can be made from its config.

    These betas end in almost pure noise and the spacing starts there: otherwise no sampler reaches a background
    that is wholly black or white (Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed").
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
