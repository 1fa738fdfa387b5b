"""The version of the machine protocol: what this code speaks as a machine, and what it takes as a server.

A number, and not the program's version: it grows only when a machine and a server of two versions would misunderstand
each other. What is merely new is a field that the other side does not know and lets be. docs/operations.md,
"Upgrading", says when it may grow.

Pure: machines import this module too.
"""

import re

from app.core.errors import Invalid, MachineTooNew, MachineTooOld

SPOKEN = 1
"""The version of this code."""

OLDEST = 1
"""The oldest that a server of this code takes."""

UNSAID = 1
"""What machines speak that do not say it: they are from before it was said."""

HEADER = "Imagefleet-Protocol"
"""The header of every request in which a machine says it."""

CHECK_IN_SECONDS = 3.0
"""How often a machine checks in that has something to do. The server takes it for lost after 10 seconds of silence: two
check-ins may fail."""

MACHINE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
"""What a machine may be called: part of addresses, of names of queues and files, and of a column of 200 characters."""

LONGEST = 9
"""Digits of a version that is read."""


def require(told: str | None) -> None:
    """Hold what a machine says it speaks against what is taken here; raises MachineTooOld, MachineTooNew, Invalid."""
    if told is None:
        version = UNSAID
    elif told.isascii() and told.isdigit() and len(told) <= LONGEST:
        version = int(told)
    else:
        raise Invalid(f"{HEADER} must be a number, such as {SPOKEN}")
    facts = {"protocol": version, "oldest": OLDEST, "newest": SPOKEN}
    taken = f"{OLDEST} to {SPOKEN}" if OLDEST < SPOKEN else str(SPOKEN)
    if version < OLDEST:
        raise MachineTooOld(
            f"this machine is too old: it speaks version {version} of the machine protocol, and the server takes "
            f"{taken}; upgrade the machine to the server's version of Imagefleet",
            **facts,
        )
    if version > SPOKEN:
        raise MachineTooNew(
            f"this machine is too new: it speaks version {version} of the machine protocol, and the server takes "
            f"{taken}; upgrade the server first, then its machines",
            **facts,
        )
