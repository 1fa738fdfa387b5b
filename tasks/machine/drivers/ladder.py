"""The memory ladder: how a model is drawn with where it does not fit as it is, from fast to slow. No torch here.

Chosen before anything is loaded, from what a model takes and what there is: running out of memory in the middle of a
picture costs the picture. Each rung includes what the one before it saves.
"""

from collections.abc import Mapping, Sequence

WHOLE = ""
TILED = "tiled"
"""All networks stay on the device, and the autoencoder works tile by tile, picture by picture."""
OFFLOAD = "offload"
"""One network is on the device at a time: diffusers' model offload, some 10 to 30 % slower."""
GROUPS = "groups"
"""One layer is on the device at a time, and the next one comes while it works: diffusers' group offload."""
COMPUTER = "cpu"
"""The computer's memory and processor: slow, and still a picture."""

ON_GPU = (WHOLE, TILED, OFFLOAD, GROUPS, COMPUTER)
ON_CPU = (WHOLE, TILED)

TILED_SHARE = 0.6
"""Of what drawing takes beside the weights when the autoencoder, which is the peak, works in tiles. A careful guess:
0.4 of it is what diffusers' documentation has tiling save at 1024 x 1024."""

GROUP_SHARE = 0.1
"""Of the largest network: two layers of it and what lies between them."""

FITTING_ORDERS = 3
"""So many orders in turn must have had room on a better rung before a model goes back up there: that loads it anew, and
orders of changing sizes would have it loaded each time. Off the computer's processor it goes at once."""


def needed(rung: str, weights: Mapping[str, int], activations: int, along: int = 0) -> int:
    """Return what a model takes on its device on a rung, bytes.

    `weights` are those of each network; `along` is what its companions take, which are there whole on every rung that
    draws there.
    """
    most, all_of_them = max(weights.values(), default=0), sum(weights.values())
    tiled = int(activations * TILED_SHARE)
    return {
        WHOLE: all_of_them + activations + along,
        TILED: all_of_them + tiled + along,
        OFFLOAD: most + tiled + along,
        GROUPS: int(most * GROUP_SHARE) + tiled + along,
        COMPUTER: 0,
    }[rung]


def choose(rungs: Sequence[str], needs: Mapping[str, int], room: int, at_least: str = WHOLE) -> str:
    """Return the first rung whose needs fit into `room` bytes, none before `at_least`; the last one where none do."""
    possible = rungs[rungs.index(at_least) :]
    return next((rung for rung in possible if needs[rung] <= room), possible[-1])


def further(rungs: Sequence[str], rung: str, other: str) -> str:
    """Return which of two rungs takes less memory."""
    return max(rung, other, key=list(rungs).index)
