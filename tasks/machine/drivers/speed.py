"""What makes a GPU draw faster than it does by itself: memory layout, attention, compiled blocks. Off where not asked.

Compiled code lies in a folder that outlives the process (TORCHINDUCTOR_CACHE_DIR), so that only the first start of a
kind of machine pays for it.
"""

import logging
from contextlib import suppress
from typing import Any

from tasks.machine.drivers.contract import CannotDraw, DriverSettings
from tasks.machine.drivers.loading import networks_of

log = logging.getLogger(__name__)

DENOISERS = ("unet", "transformer")
"""The networks that take nearly all of the time."""


def quicken(torch: Any, pipeline: Any, device: str, settings: DriverSettings) -> None:
    """Prepare a pipeline that stays whole on its device; raises CannotDraw for an attention that is not there."""
    denoisers = [network for name, network in networks_of(pipeline).items() if name in DENOISERS]
    if device == "cuda":
        # Convolutions of half precision run on tensor cores in this layout without being rearranged each time.
        for name, network in networks_of(pipeline).items():
            if name in {"unet", "vae", "controlnet"}:
                network.to(memory_format=torch.channels_last)
    if settings.attention:
        for network in denoisers:
            _attend(network, settings.attention)
    if settings.compile:
        for network in denoisers:
            _compile(network)


def _attend(network: Any, backend: str) -> None:
    if not hasattr(network, "set_attention_backend"):
        return
    try:
        network.set_attention_backend(backend)
    except (ValueError, RuntimeError, ImportError) as exc:
        raise CannotDraw(f"ATTENTION={backend} cannot be used on this machine: {exc}") from exc


def _compile(network: Any) -> None:
    """Compile the blocks that repeat: one of them stands for all, so it takes a tenth of the time of compiling all."""
    with suppress(ValueError):  # a network that names no repeated blocks is drawn with as it is
        network.compile_repeated_blocks(dynamic=True)
        log.info("the repeated blocks of %s are compiled when they are first used", type(network).__name__)
