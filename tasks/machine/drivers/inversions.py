"""Textual inversions: words that stand for vectors, which take the place of tokens in a CLIP text encoder.

Tokenizers and embedding matrices are left as they are, so that there is nothing to be undone: the vectors are put in
where the matrix is read, see `prompts.clip`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.machine.drivers import detect, headers, pickles
from tasks.machine.drivers.contract import CannotDraw, ModelFiles
from tasks.machine.drivers.lora_names import TEXT_ENCODERS

XL_PARTS: Mapping[str, str] = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
"""What the files for Stable Diffusion XL call the vectors of each text encoder."""

Vectors = Mapping[str, Mapping[str, Any]]
"""By text encoder, then by the word that stands for them: tensors of shape (count, width)."""


def vectors_of(
    pipeline: Any, companions: Mapping[str, ModelFiles], ids: tuple[str, ...], *, allow_pickles: bool
) -> Vectors:
    """Read the embeddings of an order for a pipeline; raises CannotDraw for what does not fit it."""
    if ids and not (hasattr(pipeline, "unet") and hasattr(pipeline, "text_encoder")):
        raise CannotDraw(f"{ids[0]}: embeddings are for Stable Diffusion 1, 2 and XL; leave it out for this model")
    widths = {
        name: int(encoder.get_input_embeddings().weight.shape[1])
        for name in dict.fromkeys(each for names in TEXT_ENCODERS.values() for each in names)
        if (encoder := getattr(pipeline, name, None)) is not None
    }
    found: dict[str, dict[str, Any]] = {name: {} for name in widths}
    for model_id in ids:
        files = companions[model_id]
        by_encoder = _fitted(_content(files.path, are_allowed=allow_pickles), widths, model_id)
        for encoder, tensor in by_encoder.items():
            for word in (model_id, files.path.stem):
                found[encoder][word.lower()] = tensor
    return found


def _fitted(content: Mapping[str, Any], widths: Mapping[str, int], name: str) -> dict[str, Any]:
    """Give each text encoder its vectors."""
    if set(XL_PARTS) & set(content):
        by_encoder = {XL_PARTS[key]: each for key, each in content.items() if key in XL_PARTS}
    else:
        tensor = next(iter(content.values()))
        by_encoder = {"text_encoder": tensor}
    shapes = {encoder: tuple(tensor.shape) for encoder, tensor in by_encoder.items()}
    for encoder, width in widths.items():
        if encoder not in by_encoder:
            raise CannotDraw(f"the embedding {name} was made for another base: it has no vectors for {encoder}")
        if shapes[encoder][-1] != width:
            raise CannotDraw(
                f"the embedding {name} was made for another base: its vectors have {shapes[encoder][-1]} numbers, and "
                f"those of this model's {encoder} have {width}"
            )
    if surplus := sorted(set(by_encoder) - set(widths)):
        raise CannotDraw(f"the embedding {name} was made for another base: this model has no {surplus[0]}")
    return {encoder: tensor.reshape(-1, widths[encoder]) for encoder, tensor in by_encoder.items()}


def _content(path: Path, *, are_allowed: bool) -> dict[str, Any]:
    """Read a file's tensors: one, or `clip_l` and `clip_g`, or what Automatic1111 trains, which is pickled."""
    if path.suffix.lower() in detect.PICKLES:
        content = pickles.read(path, allowed=are_allowed)
    else:
        from safetensors.torch import load  # noqa: PLC0415  # imports torch

        headers.read(path)
        content = load(path.read_bytes())
    found = {key: each for key, each in content.items() if getattr(each, "ndim", 0) in {1, 2}}
    if not found or (len(found) > 1 and not set(XL_PARTS) <= set(found)):
        raise CannotDraw(f"{path.name} is no embedding that is known here: it has {len(found)} tensors of vectors")
    return found
