"""Puts a loaded pipeline where it is to draw, on a rung of the memory ladder, and says what it takes there."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tasks.machine.drivers import ladder


def place(torch: Any, pipeline: Any, device: str, rung: str) -> None:
    """Put a pipeline on its device: whole, or so that it needs less there."""
    if rung == ladder.WHOLE:
        return
    for economy in ("enable_slicing", "enable_tiling"):
        with suppress(AttributeError, NotImplementedError):  # not every autoencoder can
            getattr(pipeline.vae, economy)()
    if device != "cuda":
        return
    if rung == ladder.TILED:
        pipeline.to(device)
    elif rung == ladder.OFFLOAD:
        pipeline.enable_model_cpu_offload()
    elif rung == ladder.GROUPS:
        offload_by_groups(torch, pipeline, device)


def offload_by_groups(torch: Any, pipeline: Any, device: str) -> None:
    """Keep a pipeline's layers in the computer's memory, and bring each to the device while it works."""
    # With a stream the next layer comes while one works; only CUDA has streams.
    pipeline.enable_group_offload(
        onload_device=torch.device(device),
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=device == "cuda",
    )


SHARES: Mapping[str, float] = {ladder.OFFLOAD: 1.0, ladder.GROUPS: ladder.GROUP_SHARE, ladder.COMPUTER: 0.0}
"""Of the largest network: what stays on a GPU of a pipeline that moves its networks about, or draws beside it."""


def taken(sizes: Mapping[str, int], device: str, rung: str) -> Mapping[str, int]:
    """Return what networks of these sizes take on the device, bytes; tiles save nothing of the weights."""
    if device != "cuda" or rung not in SHARES:
        return sizes
    most = max(sizes, key=lambda key: sizes[key])
    return {key: int(size * SHARES[rung]) if key == most else 0 for key, size in sizes.items()}
