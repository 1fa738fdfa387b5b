"""Encodes weighted chunks with a CLIP text encoder, bit for bit as diffusers does where nothing is weighted."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

    def __init__(
        self,
        pipeline: Any,
        tokenizer: Any,
        encoder: Any,
        *,
        clip_skip: int | None,
        is_xl: bool,
        vectors: Mapping[str, Any] | None = None,
    ) -> None:
        """Take what reads, and `vectors`: those of textual inversions, of shape (count, width), by lower-case word."""
        self._tokenizer = tokenizer
        self._encoder = encoder
        # Only the pipeline knows it with offloading, and it takes milliseconds to say so.
        self._device = pipeline._execution_device  # noqa: SLF001  # no public name
        self._skip = clip_skip or 1
        self._is_xl = is_xl
        self._size = int(encoder.config.max_position_embeddings) - BEGIN_AND_END
        self._comma = tokenizer.get_vocab().get(",</w>")
        self._words = Words(vectors or {}, int(encoder.get_input_embeddings().num_embeddings))
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
        tokens: list[int] = []
        for words, own in self._words.parted(text):
            read = self._tokenizer(words, add_special_tokens=False, truncation=False, verbose=False)
            tokens += [*(read.input_ids if words.strip() else ()), *own]
        return tokens

    def _read(self, torch: Any, chunk: Chunk) -> tuple[Any, Any]:
        known = self._tokenizer
        used = [known.bos_token_id, *chunk.tokens, known.eos_token_id]
        padding = self._size + BEGIN_AND_END - len(used)
        ids = torch.tensor([[*used, *[known.pad_token_id] * padding]], device=self._device)
        mask = None
        if getattr(self._encoder.config, "use_attention_mask", False):
            mask = torch.tensor([[1] * len(used) + [0] * padding], device=self._device)
        # diffusers gives XL's encoders no mask.
        more = {} if self._is_xl else {"attention_mask": mask}
        with self._words.put_in(self._encoder.get_input_embeddings(), ids):
            output = self._encoder(ids.clamp(max=self._words.first - 1), output_hidden_states=True, **more)
        if self._is_xl:
            # Its last layer was never used in training: 1 and 2 are the same, as in Automatic1111.
            return output.hidden_states[-max(BEFORE_LAST, self._skip)], output[0] if output[0].ndim == 2 else None
        if self._skip == 1:
            return output[0], None
        # transformers from 5.6 on has no text_model any more.
        model = getattr(self._encoder, "text_model", self._encoder)
        return model.final_layer_norm(output.hidden_states[-self._skip]), None


class Words:
    """Words that stand for vectors: each vector is a token of its own, behind those that the encoder has."""

    def __init__(self, vectors: Mapping[str, Any], first: int) -> None:
        """`first` is the number of the first such token: how many the encoder has."""
        self.first = first
        self._rows: list[Any] = []
        self._tokens: dict[str, list[int]] = {}
        for word, tensor in vectors.items():
            begin = first + len(self._rows)
            self._rows += list(tensor)
            self._tokens[word] = list(range(begin, begin + len(tensor)))
        longest_first = sorted(self._tokens, key=len, reverse=True)
        one_of_them = "|".join(re.escape(word) for word in longest_first)
        self._pattern = re.compile(rf"(?<![\w-])(?:{one_of_them})(?![\w-])", re.IGNORECASE) if vectors else None

    def parted(self, text: str) -> Iterator[tuple[str, Sequence[int]]]:
        """Part a text at such words: what stands before each, and its tokens; at last the rest without any."""
        at = 0
        for found in self._pattern.finditer(text) if self._pattern else ():
            yield text[at : found.start()], self._tokens[found[0].lower()]
            at = found.end()
        yield text[at:], ()

    @contextmanager
    def put_in(self, embedding: Any, ids: Any) -> Iterator[None]:
        """Let an embedding matrix give the vectors in place of what it has, for the length of the block."""
        own = (ids >= self.first).nonzero().tolist()
        if not own:
            yield
            return

        def replace(_module: Any, _inputs: Any, output: Any) -> Any:
            found = output.clone()
            for row, position in own:
                vector = self._rows[int(ids[row, position]) - self.first]
                found[row, position] = vector.to(device=found.device, dtype=found.dtype)
            return found

        hook = embedding.register_forward_hook(replace)
        try:
            yield
        finally:
            hook.remove()


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
