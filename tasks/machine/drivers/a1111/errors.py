"""What can go wrong with a server that draws for a machine, beside CannotDraw and OutOfMemory.

MachineError
├── ModelNotProven
│   └── ServerAway       it does not answer, or lets us not in: the job goes back, and costs no try
├── ServerFailed         it said that it failed, or said nothing that can be understood
│   └── ServerGone       it went away while it was drawing
└── NotHere              it lacks what the order needs; another machine may have it
"""

from tasks.machine.drivers.contract import OutOfMemory
from tasks.machine.errors import MachineError, ModelNotProven


class ServerAway(ModelNotProven):
    """The server that draws for this machine does not answer: nothing proves that it still has any model."""

    code = "server_away"


class ServerFailed(MachineError):
    """The server that draws for this machine failed; another try may do better."""

    code = "server_failed"


class ServerGone(ServerFailed):
    """The server went away while it was drawing. It costs a try: an order may be what brings it down."""

    code = "server_gone"


class NotHere(MachineError):
    """The server that draws for this machine lacks what the order needs."""

    code = "not_possible_here"


class ServerOutOfMemory(OutOfMemory):
    """The server's device has not enough memory for this order; in its own words."""

    def __init__(self, said: str) -> None:
        super().__init__()
        self.args = (said,)
