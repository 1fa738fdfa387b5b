"""From an order's prompts to what a pipeline is called with, and what changes while it draws."""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.drivers.prompts.clip import TextEncoder
from tasks.machine.drivers.prompts.reading import plain
from tasks.machine.drivers.prompts.timing import at_each_step

AND = re.compile(r"\bAND\b")

ONLY_WORDS = "this model reads plain sentences: weights and BREAK of the prompt were left out"


@dataclass(frozen=True, slots=True)
class Prompts:
    """What the pictures of one batch are drawn from; networks that a prompt names are taken out before."""

    positive: Sequence[str]
    negative: Sequence[str]
    """As many as there are prompts."""
    steps: int
    clip_skip: int | None = None
    """As Automatic1111 counts: 1 is the last layer, 2 the one before it."""
    is_guided: bool = True
    """Whether the negative prompt is looked at: with a guidance scale of 1 and less it is not."""
    vectors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of textual inversions, by text encoder and by the word that stands for them."""


@dataclass(slots=True)
class Conditioning:
    """What a pipeline is called with instead of prompts."""

    arguments: dict[str, Any]
    notes: tuple[str, ...] = ()
    """What of the prompts could not be kept to, in sentences."""
    _steps: list[tuple[str, ...]] = field(default_factory=list)
    """What is said at each step."""
    _tensors: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)

    def after(self, pipeline: Any, index: int) -> dict[str, Any]:
        """Return what changes behind that step, as `callback_on_step_end` returns it; most often nothing."""
        calls = int(pipeline.num_timesteps)  # more than steps with solvers that look twice
        if not self._tensors or index + 1 >= calls:
            return {}
        now, following = (self._steps[call * len(self._steps) // calls] for call in (index, index + 1))
        return {} if now == following else _in_the_loop(pipeline, self._tensors[following])


def conditioned(pipeline: Any, prompts: Prompts) -> Conditioning:
    """Encode prompts for a pipeline. Raises CannotDraw for what it can never be asked for."""
    is_clip = hasattr(pipeline, "unet") and hasattr(pipeline, "text_encoder")
    return _encoded(pipeline, prompts) if is_clip else _in_words(pipeline, prompts)


def shape_of(pipeline: Any, prompts: Prompts) -> Hashable:
    """Say what the prompts of one batch must have in common to be encoded as each would be alone: how long they are.

    What is told of prompts is told of a whole batch, and belongs to it where they are not encoded here. Raises
    CannotDraw.
    """
    is_clip = hasattr(pipeline, "unet") and hasattr(pipeline, "text_encoder")
    if not is_clip:
        return _in_words(pipeline, prompts).notes
    return _Encoding(pipeline, prompts, {text for each in _by_step(prompts) for text in each}).count


def _in_words(pipeline: Any, prompts: Prompts) -> Conditioning:
    """Leave encoding to a pipeline with other text encoders; they know no weights."""
    for text in (*prompts.positive, *prompts.negative):
        if len(set(at_each_step(text, 2))) > 1:
            raise CannotDraw("prompts that change between steps, such as [from:to:0.5], are not for this kind of model")
    if (prompts.clip_skip or 1) > 1:
        raise CannotDraw("clip_skip is for Stable Diffusion 1, 2 and XL; leave it out for this model")
    found = {
        name: [plain(text) for text in texts]
        for name, texts in (("prompt", prompts.positive), ("negative_prompt", prompts.negative))
    }
    notes = [ONLY_WORDS] if any(is_less for texts in found.values() for _, is_less in texts) else []
    arguments = {name: [text for text, _ in texts] for name, texts in found.items()}
    if not any(arguments["negative_prompt"]):
        del arguments["negative_prompt"]
    elif "negative_prompt" not in _parameters(pipeline):
        del arguments["negative_prompt"]
        notes.append("this model takes no negative prompt: it was left out")
    return Conditioning(arguments, tuple(notes))


def _parameters(pipeline: Any) -> Sequence[str]:
    return list(signature(type(pipeline).__call__).parameters)


def _encoded(pipeline: Any, prompts: Prompts) -> Conditioning:
    by_step = _by_step(prompts)
    encoding = _Encoding(pipeline, prompts, {text for each in by_step for text in each})
    tensors = {each: encoding.of(each, len(prompts.positive)) for each in dict.fromkeys(by_step)}
    changes = len(tensors) > 1
    return Conditioning(tensors[by_step[0]], (), by_step if changes else [], tensors if changes else {})


def _by_step(prompts: Prompts) -> list[tuple[str, ...]]:
    """Return what is said at each step: the prompts and, behind them, the negative ones."""
    if any(AND.search(text) for text in prompts.positive):
        raise CannotDraw("prompts joined with AND are not drawn by this version; write one prompt, or `and`")
    texts = [*prompts.positive, *(prompts.negative if prompts.is_guided else ())]
    return list(zip(*(at_each_step(text, prompts.steps) for text in texts), strict=True))


class _Encoding:
    """The texts of one batch, each encoded once and all of one length."""

    def __init__(self, pipeline: Any, prompts: Prompts, texts: set[str]) -> None:
        self._is_xl = hasattr(pipeline, "text_encoder_2")
        self._zeroes = self._is_xl and bool(pipeline.config.get("force_zeros_for_empty_prompt"))
        names = ["", "_2"] if self._is_xl else [""]
        parts = {
            f"text_encoder{name}": (getattr(pipeline, f"tokenizer{name}"), getattr(pipeline, f"text_encoder{name}"))
            for name in names
        }
        self._encoders = [
            TextEncoder(
                pipeline,
                *part,
                clip_skip=prompts.clip_skip,
                is_xl=self._is_xl,
                vectors=prompts.vectors.get(name),
            )
            for name, part in parts.items()
            if None not in part
        ]
        self._chunks = {text: [encoder.chunks(text) for encoder in self._encoders] for text in texts}
        self.count = max(len(chunks) for of_text in self._chunks.values() for chunks in of_text)
        self._known: dict[str, tuple[Any, Any]] = {}

    def of(self, texts: Sequence[str], positives: int) -> dict[str, Any]:
        """Return the arguments for prompts and, behind them, negative ones."""
        import torch  # noqa: PLC0415  # for drawing workers only

        arguments: dict[str, Any] = {}
        with torch.no_grad():
            for prefix, of_kind in (("", texts[:positives]), ("negative_", texts[positives:])):
                if not of_kind:
                    continue
                states, pooled = zip(
                    *(self._of(torch, text, is_negative=bool(prefix)) for text in of_kind), strict=True
                )
                arguments[f"{prefix}prompt_embeds"] = torch.cat(states)
                if self._is_xl:
                    arguments[f"{prefix}pooled_prompt_embeds"] = torch.cat(pooled)
        return arguments

    def _of(self, torch: Any, text: str, *, is_negative: bool) -> tuple[Any, Any]:
        if text not in self._known:
            read = [
                encoder.encode(chunks, self.count)
                for encoder, chunks in zip(self._encoders, self._chunks[text], strict=True)
            ]
            pooled = next((pooled for _, pooled in read if pooled is not None), None)
            self._known[text] = torch.cat([states for states, _ in read], dim=-1), pooled
        states, pooled = self._known[text]
        if is_negative and self._zeroes and not text:
            # XL was trained with nothing instead of an empty prompt.
            return torch.zeros_like(states), torch.zeros_like(pooled)
        return states, pooled


def _in_the_loop(pipeline: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments as the pipelines hold them in their loops: negative and positive in one tensor."""
    import torch  # noqa: PLC0415  # for drawing workers only

    found = {}
    for name, argument in (("prompt_embeds", "prompt_embeds"), ("add_text_embeds", "pooled_prompt_embeds")):
        if argument in arguments:
            both = [arguments[argument]]
            if pipeline.do_classifier_free_guidance:
                both.insert(0, arguments[f"negative_{argument}"])
            found[name] = torch.cat(both).to(pipeline.unet.dtype).to(pipeline._execution_device)  # noqa: SLF001  # as above
    return found
