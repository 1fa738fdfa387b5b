"""Which orders one pass of a pipeline can draw together, and which passes take equally long.

Pure: machines import this module too. Both sides must mean the same by the same words.
"""

import json
import math
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from app.core.spec import GenerationSpec

OF_EACH = frozenset({"prompt", "negative_prompt", "seed", "subseed", "n", "image_format"})
"""Fields in which the orders of one pass may differ: each picture has its own words and noise, and a file of its own.
Whatever else an order says must be equal, also what later versions add."""

CHUNK = 75
"""Words and signs that CLIP reads at once."""

LONG_WORD = 10
"""Letters; a longer word is several tokens."""

MOST_TOGETHER = 64
"""Pictures of one pass, whatever anybody wishes."""


def key_of(spec: GenerationSpec) -> str | None:
    """Name what the orders of one pass must have in common; None for an order that is drawn alone.

    Alone are those that begin with a picture or are steered by one, and those that are gone over a second time: what
    they hold beside the denoised picture is not mixed.
    """
    if spec.pictures or spec.hires or spec.upscale or spec.controls:
        return None
    shared = {name: value for name, value in spec.to_json().items() if name not in OF_EACH}
    return _digest({**shared, "chunks": _chunks(spec)})


def kind_of(spec: GenerationSpec) -> str:
    """Name what decides how long a pass with so many pictures takes: machines learn by it how wide is fast."""
    guided = spec.guidance_scale is None or spec.guidance_scale > 1
    return _digest([spec.model_id, spec.width, spec.height, spec.steps, spec.scheduler, guided])


def _chunks(spec: GenerationSpec) -> int:
    """Estimate in how many pieces the longer prompt is read. A picture is another one beside a longer prompt's.

    Only a machine has the tokenizer, and draws apart what does not fit after all.
    """
    return max(1, math.ceil(max(map(_tokens, (spec.prompt, spec.negative_prompt))) / CHUNK))


def _tokens(text: str) -> int:
    return sum(1 + len(word) // LONG_WORD for word in re.findall(r"\w+|[^\w\s]", text))


def _digest(value: Mapping[str, Any] | list[Any]) -> str:
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
