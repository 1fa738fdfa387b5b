"""What steers a drawing beside its words: ControlNets and their pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.machine.drivers.contract import CannotDraw, Order
from tasks.machine.drivers.pipelines import Loaded


@dataclass(frozen=True, slots=True)
class Steering:
    """What a pipeline is made and called with so that it is steered."""

    networks: tuple[Any, ...] = ()
    """The ControlNets; none: the pipeline is the plain one."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """For the call, in diffusers' names."""


def steering(loaded: Loaded, order: Order, width: int, height: int) -> Steering:  # noqa: ARG001  # the seam's signature
    """Load what steers an order at a size in pixels; raises CannotDraw for what does not fit."""
    if order.spec.controls:
        raise CannotDraw("this version draws without ControlNets; leave controls out")
    return Steering()
