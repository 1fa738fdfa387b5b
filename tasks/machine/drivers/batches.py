"""How many pictures, of one order or of several, are drawn in one call of their pipeline."""

from collections.abc import Callable, Hashable, Iterator, Sequence

from app.core.spec import GenerationSpec
from tasks.machine.drivers.ladder import WHOLE

ON_GPU = 4
"""Pictures; more gain little at the sizes that GPUs draw, and all of them wait for the last one."""

ON_CPU = 1
"""A step of a batch lasts as long as a step of each of its pictures, and a wish to cancel waits for it. The demo model
draws four together in 0.7 of the time (docs/performance.md): BATCH_MOST says so where that is worth it."""


def size_of_batches(
    spec: GenerationSpec, most: int, rung: str, room: int, beside: Callable[[int], int], *, device: str
) -> int:
    """Choose how many pictures are drawn together.

    `most` is the operator's word, 0 for none; `room` what could still be had on the device, bytes, and `beside` says
    what drawing so many together takes there beside the weights.
    """
    if rung != WHOLE or not _alike(spec):
        return 1
    count = min(spec.n, most or (ON_GPU if device == "cuda" else ON_CPU))
    while count > 1 and beside(count) > room:
        count -= 1
    return count


def batches(count: int, size: int) -> Iterator[range]:
    """Divide the positions 0 to count - 1 into batches as even as can be, none larger than `size`."""
    number = -(-count // size)
    start = 0
    for left in range(number, 0, -1):
        end = start + -(-(count - start) // left)
        yield range(start, end)
        start = end


def passes(shapes: Sequence[Hashable], counts: Sequence[int], size: int) -> list[list[int]]:
    """Divide orders into passes: equal shapes only, at most `size` pictures each unless a single order has more.

    Returns the orders' places; that of the first one is in the first pass.
    """
    found: list[list[int]] = []
    for place, shape in enumerate(shapes):
        fitting = (
            each
            for each in found
            if shapes[each[0]] == shape and sum(counts[other] for other in each) + counts[place] <= size
        )
        one = next(fitting, None)
        if one is None:
            found.append([place])
        else:
            one.append(place)
    return found


def _alike(spec: GenerationSpec) -> bool:
    """Say whether an order's pictures differ in nothing but their noise, so far as pipelines are known to keep that."""
    return not spec.controls and spec.mask is None
