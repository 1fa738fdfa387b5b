"""What of this machine a diffusers picture depends on, for its receipt: versions, precision, device, threads."""

from functools import cache
from typing import Any

from tasks.machine.drivers.ladder import COMPUTER
from tasks.machine.drivers.loading import networks_of
from tasks.machine.drivers.pipelines import Loaded
from tasks.machine.provenance import versions_of

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "onnxruntime")


def account(torch: Any, device: str, loaded: Loaded) -> dict[str, Any]:
    """Return what `Picture.drawn_with` takes: that under which the same seat gives the same pixels, bit for bit."""
    precisions = {
        name: str(network.dtype).removeprefix("torch.")
        for name, network in networks_of(loaded.pipeline).items()
        if hasattr(network, "dtype")
    }
    found: dict[str, Any] = {
        "driver": "diffusers",
        "versions": _versions(),
        "pipeline": type(loaded.pipeline).__name__,
        "precision": precisions,
        "memory": loaded.rung or "whole",
    }
    if device == "cpu" or loaded.rung == COMPUTER:
        return found | {"threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()}
    major, minor = torch.cuda.get_device_capability()
    return found | {"cuda": torch.version.cuda, "capability": f"{major}.{minor}"}


@cache
def _versions() -> dict[str, str]:
    return versions_of(*LIBRARIES)
