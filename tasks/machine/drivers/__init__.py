"""Drivers: what turns an order into pictures. A table of dotted paths, imported on first use."""

from importlib import import_module
from typing import cast

from tasks.machine.drivers.contract import Driver, DriverSettings

DRIVERS = {
    "diffusers": "tasks.machine.drivers.diffusers:DiffusersDriver",
    "automatic1111": "tasks.machine.drivers.automatic1111:Automatic1111Driver",
    "fake": "tasks.machine.drivers.fake:FakeDriver",
}


def make_driver(name: str, settings: DriverSettings) -> Driver:
    """Make the driver of that name; raises KeyError that names the known ones."""
    if name not in DRIVERS:
        raise KeyError(f"DRIVER={name} is unknown; known are {', '.join(DRIVERS)}")
    module, _, attribute = DRIVERS[name].partition(":")
    return cast("Driver", getattr(import_module(module), attribute)(settings))
