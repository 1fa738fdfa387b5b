"""The computers that machines are on, and their memory: one with several GPUs is several machines. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from app.core.tables import Machine


def of_each(found: Iterable[Machine]) -> list[Mapping[str, Any]]:
    """Return the computers that machines are on, each once, as `of` does."""
    return list({of(machine).get("name") or machine.id: of(machine) for machine in found}.values())


def of(machine: Machine) -> Mapping[str, Any]:
    """Return what a machine tells of its computer; of one that draws on its processors its memory is known at least."""
    told = machine.device.get("computer")
    if isinstance(told, Mapping):
        return told
    own = machine.device if machine.device.get("type") == "cpu" else {}
    return {name: value for name, value in own.items() if name.startswith("memory_")}


def memory(found: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Add up the memory of computers or of devices: `total` and `free`, bytes."""
    known = list(found)
    return {name: sum(int(each.get(f"memory_{name}") or 0) for each in known) for name in ("total", "free")}
