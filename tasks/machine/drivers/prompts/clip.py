"""Encodes weighted chunks with a CLIP text encoder, bit for bit as diffusers does where nothing is weighted."""

from collections.abc import Sequence
from typing import Any

from tasks.machine.drivers.contract import CannotDraw
from tasks.machine.drivers.prompts.chunks import Chunk, chunked
from tasks.machine.drivers.prompts.reading import pieces

BEGIN_AND_END = 2
"""Tokens that each chunk has beside those of the prompt."""

NEARLY_NOTHING = 1e-3
"""A mean so much smaller than what it is the mean of is rounding, and dividing by it would blow the prompt up."""


class TextEncoder:
    """One text encoder of a pipeline, with its tokenizer."""

    def __init__(self, pipeline: Any, tokenizer: Any, encoder: Any, *, clip_skip: int | None, is_xl: bool) -> None:
        self._pipeline = pipeline
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._skip = clip_skip or 1
        self._is_xl = is_xl
        self._size = int(encoder.config.max_position_embeddings) - BEGIN_AND_END
        self._comma = tokenizer.get_vocab().get(",</w>")
        layers = int(encoder.config.num_hidden_layers)
        if self._skip > layers:
            raise CannotDraw(f"clip_skip {clip_skip} leaves nothing of this model's text encoder of {layers} layers")

    def chunks(self, text: str) -> list[Chunk]:
        """Read a prompt: its tokens with weights, in chunks."""
        return chunked(
            ((None if piece.text is None else self._tokens(piece.text), piece.weight) for piece in pieces(text)),
            self._size,
            self._comma,
        )

    def encode(self, chunks: Sequence[Chunk], count: int) -> tuple[Any, Any]:
        """Encode chunks, filled up with empty ones to `count`.

        Returns states of shape (1, count * 77, width), and the first chunk's pooled embedding of shape (1, width) where
        this encoder has one.
        """
        import torch  # noqa: PLC0415  # for drawing workers only

        states, pooled = [], None
        for chunk in (*chunks, *[Chunk()] * (count - len(chunks))):
            state, of_all = self._read(torch, chunk)
            states.append(emphasised(state, chunk.weights))
            pooled = of_all if pooled is None else pooled
        return torch.cat(states, dim=1), pooled

    def _tokens(self, text: str) -> list[int]:
        # Embeddings with several vectors are several tokens, which the pipeline knows.
        convert = getattr(self._pipeline, "maybe_convert_prompt", lambda words, _: words)
        words = convert(text, self._tokenizer)
        return list(self._tokenizer(words, add_special_tokens=False, truncation=False, verbose=False).input_ids)

    def _read(self, torch: Any, chunk: Chunk) -> tuple[Any, Any]:
        known = self._tokenizer
        used = [known.bos_token_id, *chunk.tokens, known.eos_token_id]
        padding = self._size + BEGIN_AND_END - len(used)
        device = self._pipeline._execution_device  # noqa: SLF001  # the only place that knows it with offloading
        ids = torch.tensor([[*used, *[known.pad_token_id] * padding]], device=device)
        mask = None
        if getattr(self._encoder.config, "use_attention_mask", False):
            mask = torch.tensor([[1] * len(used) + [0] * padding], device=device)
        # diffusers gives XL's encoders no mask.
        output = self._encoder(ids, output_hidden_states=True, **({} if self._is_xl else {"attention_mask": mask}))
        if self._is_xl:
            # Its last layer was never used in training: 1 and 2 are the same, as in Automatic1111.
            return output.hidden_states[-max(BEFORE_LAST, self._skip)], output[0] if output[0].ndim == 2 else None
        if self._skip == 1:
            return output[0], None
        # transformers from 5.6 on has no text_model any more.
        model = getattr(self._encoder, "text_model", self._encoder)
        return model.final_layer_norm(output.hidden_states[-self._skip]), None


def emphasised(state: Any, weights: Sequence[float]) -> Any:
    """Multiply the states of a chunk's tokens, of shape (1, tokens, width), and keep the mean of all.

    The first state is the beginning's; those behind the weights are left as they are. Source: AUTOMATIC1111
    stable-diffusion-webui 1.10, modules/sd_emphasis.py, "original".
    """
    if all(weight == 1.0 for weight in weights):
        return state
    import torch  # noqa: PLC0415  # for drawing workers only

    rest = state.shape[1] - 1 - len(weights)
    factors = torch.tensor([1.0, *weights, *[1.0] * rest], device=state.device)
    exact = state.float()
    weighted = exact * factors[None, :, None]
    before, after = exact.mean(), weighted.mean()
    if min(before.abs(), after.abs()) > NEARLY_NOTHING * exact.abs().mean():
        weighted = weighted * (before / after)
    return weighted.to(state.dtype)


BEFORE_LAST = 2
"""The layer that XL's text encoders are read at, counted from the end."""
