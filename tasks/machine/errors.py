"""What can go wrong on a machine.

MachineError
├── FleetAway            the API does not answer
│   └── TooOld           it speaks only with newer machines: finished work is kept for one
├── Refused              the API said no
│   ├── Fenced           this attempt no longer holds its job
│   └── TurnedAway       the fleet gives this machine no jobs
├── ModelNotProven       the receipt is gone or no longer fits the file
└── (drivers) CannotDraw, OutOfMemory
"""

from typing import ClassVar


class MachineError(Exception):
    """Something went wrong on this machine."""

    code: ClassVar[str] = "machine_error"
    permanent: ClassVar[bool] = False
    """True where no other try and no other machine could do better."""


class FleetAway(MachineError):
    """The API does not answer."""

    code = "fleet_away"


class TooOld(FleetAway):
    """The API speaks only with newer machines. What is finished is kept: after an upgrade it may be taken."""

    code = "machine_too_old"


class Refused(MachineError):
    """The API said no."""

    code = "refused"

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status


class Fenced(Refused):
    """This attempt no longer holds its job; drop it."""


class TurnedAway(Refused):
    """The fleet gives this machine no jobs: it is drained, or taken for sick."""


class ModelNotProven(MachineError):
    """The receipt is gone or no longer fits the file."""

    code = "model_not_proven"
