"""Prompts of any length: tokens in chunks that a text encoder can read. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

COMMA_REACH = 20
"""So many tokens at most behind a comma go with it into the next chunk, instead of being parted from each other."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What fits one reading of the text encoder, with weights, as yet without begin, end and padding."""

    tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


Weighted = tuple[int, float]


def chunked(pieces: Iterable[tuple[Sequence[int] | None, float]], size: int, comma: int | None) -> list[Chunk]:
    """Cut pieces of tokens with weights into chunks of at most `size`; None is a BREAK, which ends a chunk."""
    done: list[list[Weighted]] = []
    now: list[Weighted] = []
    for tokens, weight in pieces:
        if tokens is None:
            done.append(now)
            now = []
            continue
        for token in tokens:
            if len(now) == size:
                moved = 0 if token == comma else _behind_the_comma(now, comma)
                done.append(now[: size - moved])
                now = now[size - moved :]
            now.append((token, weight))
    if now or not done:
        done.append(now)
    return [Chunk(tuple(token for token, _ in each), tuple(weight for _, weight in each)) for each in done]


def _behind_the_comma(chunk: Sequence[Weighted], comma: int | None) -> int:
    """Count the tokens behind the last comma of a full chunk; 0 where they are too many, or there is none."""
    for back, (token, _) in enumerate(reversed(chunk)):
        if back >= COMMA_REACH:
            break
        if token == comma:
            return back
    return 0
