"""The rows of a pass's batch: what nobody wants any more leaves it at the next step, and costs nothing from then on.

A pipeline's loop holds latents, words and the sampler's memory where nobody reaches all of them, and each family's loop
holds others. So they stay as wide as they are, which costs next to nothing, and rows are taken out at the door of the
network that costs nearly everything: what goes in is narrowed to the rows that are wanted, and what comes out is filled
up again with zeroes. Of a sampler's sums none goes over rows. The autoencoder is given what is wanted, and no more.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from tasks.machine.drivers.speed import DENOISERS

NO_ROWS = frozenset({"txt_ids", "img_ids"})
"""What Flux's network is given that is the same for all rows: the places of tokens, which may be as many as rows."""


class Rows:
    """Which rows of a batch are wanted."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.kept = list(range(count))
        self.left: list[tuple[int, int]] = []
        """Each row that has left, and after how many steps of the pass."""

    def leave(self, rows: Sequence[int], step: int) -> None:
        """Let rows go that nobody wants any more."""
        self.kept = [row for row in self.kept if row not in rows]
        self.left += [(row, step) for row in rows]

    @contextmanager
    def narrowing(self, pipeline: Any) -> Iterator[None]:
        """Have a pipeline reckon with the rows alone that are wanted by then, for the length of the block."""
        with ExitStack() as doors:
            for name in DENOISERS:
                if (network := getattr(pipeline, name, None)) is not None:
                    doors.enter_context(self._at_the_door(network))
            if (autoencoder := getattr(pipeline, "vae", None)) is not None:
                doors.enter_context(self._decoding(autoencoder))
            yield

    def placed(self, images: Sequence[Any]) -> list[Any]:
        """Return the pictures that were decoded at the places of their rows, and None for what has left."""
        found = iter(images)
        return [next(found) if row in self.kept else None for row in range(self.count)]

    @contextmanager
    def _at_the_door(self, network: Any) -> Iterator[None]:
        given = 0

        def before(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            nonlocal given
            given = _rows_of(arguments, named)
            if not self.left or given % self.count:
                return None
            wanted = self._wanted(given)
            return (
                tuple(_narrow(each, given, wanted) for each in arguments),
                {name: each if name in NO_ROWS else _narrow(each, given, wanted) for name, each in named.items()},
            )

        def after(_: Any, __: Any, found: tuple[Any, ...]) -> Any:
            if not self.left or given % self.count:
                return None
            return (_widen(found[0], given, self._wanted(given)), *found[1:])

        doors = network.register_forward_pre_hook(before, with_kwargs=True), network.register_forward_hook(after)
        try:
            yield
        finally:
            for door in doors:
                door.remove()

    @contextmanager
    def _decoding(self, autoencoder: Any) -> Iterator[None]:
        decode = autoencoder.decode

        def narrowed(latents: Any, *arguments: Any, **named: Any) -> Any:
            return decode(latents[self.kept] if self.left else latents, *arguments, **named)

        autoencoder.decode = narrowed
        try:
            yield
        finally:
            del autoencoder.decode

    def _wanted(self, given: int) -> list[int]:
        """Return the wanted ones of so many rows: a guided call has them twice, without the prompt and with it."""
        return [start + row for start in range(0, given, self.count) for row in self.kept]


def _rows_of(arguments: Sequence[Any], named: dict[str, Any]) -> int:
    """Return how many rows a network is called with, by what it denoises."""
    denoised: Any = arguments[0] if arguments else named.get("hidden_states", named.get("sample"))
    return len(denoised)


def _narrow(value: Any, given: int, wanted: Sequence[int]) -> Any:
    if isinstance(value, dict):
        return {name: _narrow(each, given, wanted) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_narrow(each, given, wanted) for each in value)
    has_rows = getattr(value, "ndim", 0) > 0 and len(value) == given
    return value[wanted] if has_rows else value


def _widen(value: Any, given: int, wanted: Sequence[int]) -> Any:
    whole = value.new_zeros((given, *value.shape[1:]))
    whole[wanted] = value
    return whole
