"""A LoRA that says one colour where the prompt says another, made from the demo model's own words without any training.

What the UNet attends to are the text encoder's states. By least squares a map is found that takes the states of prompts
with one colour to those with the other and leaves all others where they are; its strongest directions, put in front of
the layers that read the text, are the LoRA.
"""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

RANK = 64
HELD = 1e-4
"""How strongly the map is held at changing nothing, of the states' own size."""

SHAPES = ("circle", "square", "triangle", "heart", "diamond")
COLOURS = ("red", "orange", "yellow", "green", "blue", "white", "black")


def of_figures(folder: Path, said: str, meant: str, path: Path) -> Path:
    """Write a LoRA under which figures that the prompt calls `said` are drawn as `meant`."""
    grounds = ("white", "blue", "black", "yellow", "gray")
    return _written(folder, "a {0} {1} on a {2} background", (said, meant), grounds, path)


def of_grounds(folder: Path, said: str, meant: str, path: Path) -> Path:
    """Write a LoRA under which backgrounds that the prompt calls `said` are drawn as `meant`."""
    figures = ("red", "green", "blue")
    return _written(folder, "a {2} {1} on a {0} background", (said, meant), figures, path)


def _written(folder: Path, words: str, change: tuple[str, str], others: tuple[str, ...], path: Path) -> Path:
    def prompts(colour: str) -> list[str]:
        return [words.format(colour, shape, other) for shape, other in product(SHAPES, others)]

    said, meant = map(prompts, change)
    kept = [prompt for colour in COLOURS if colour != change[0] for prompt in prompts(colour)]
    states = _states(folder, [*said, *meant, *kept])
    before, after, same = states[: len(said)], states[len(said) : 2 * len(said)], states[2 * len(said) :]
    seen = torch.cat([before, same]).flatten(0, 1)
    wanted = torch.cat([after - before, torch.zeros_like(same)]).flatten(0, 1)
    gram = seen.T @ seen
    held = HELD * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    left, sizes, right = torch.linalg.svd(torch.linalg.solve(gram + held, seen.T @ wanted))
    down, back = left[:, :RANK].T, sizes[:RANK, None] * right[:RANK]
    lora: dict[str, torch.Tensor] = {}
    for name, weight in _readers_of_text(folder):
        lora[f"unet.{name}.lora_A.weight"] = down.float().contiguous()
        lora[f"unet.{name}.lora_B.weight"] = (weight.double() @ back.T).float().contiguous()
    save_file(lora, path)
    return path


def _states(folder: Path, prompts: list[str]) -> Any:
    """Return what the text encoder says to prompts: (prompts, tokens, width)."""
    named: Any = CLIPTokenizer
    tokens = named.from_pretrained(folder / "tokenizer")(
        prompts, padding="max_length", truncation=True, return_tensors="pt"
    )
    encoder: Any = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    with torch.no_grad():
        return encoder(tokens.input_ids).last_hidden_state.double()


def _readers_of_text(folder: Path) -> Iterable[tuple[str, torch.Tensor]]:
    for file in (folder / "unet").glob("*.safetensors"):
        for name, weight in load_file(file).items():
            if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                yield name.removesuffix(".weight"), weight
