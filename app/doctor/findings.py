"""What a look found, and what it looked at."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.runfile import Running
from app.settings import Settings


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    SKIPPED = "skipped"
    """It does not concern this computer, or could not be looked at because of what another finding says."""
    WARNING = "warning"
    """It works, and something should be done."""
    BROKEN = "broken"


class Part(StrEnum):
    """What runs on a computer."""

    SERVER = "server"
    MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found."""

    level: Level
    told: str
    remedy: str | None = None
    """What to do; there is one for every warning and for everything that is broken."""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at."""

    settings: Settings
    environ: Mapping[str, str]
    """With what .env and config.yaml say."""
    parts: frozenset[Part]
    running: Running | None = None
    """The server that `imagefleet up` runs on the data folder."""

    @property
    def broker_url(self) -> str:
        """Return where the broker is: the one that is set, or that `imagefleet up` has started."""
        return self.settings.broker_url or (self.running.broker_url if self.running else "")

    @property
    def fleet_url(self) -> str:
        """Return where the API is."""
        return self.running.fleet_url if self.running else self.settings.fleet_url

    @property
    def machine_token(self) -> str:
        """Return what this computer's machine shows to the API."""
        return self.settings.machine_token or (self.running.machine_token if self.running else "")


Look = Callable[[Patient], Iterator[Finding]]


def fine(told: str) -> Finding:
    """Find that something is as it should be."""
    return Finding(Level.OK, told)


def skipped(told: str) -> Finding:
    """Find that there was nothing to look at."""
    return Finding(Level.SKIPPED, told)


def warning(told: str, remedy: str) -> Finding:
    """Find something that works and should be mended."""
    return Finding(Level.WARNING, told, remedy)


def broken(told: str, remedy: str) -> Finding:
    """Find something that does not work."""
    return Finding(Level.BROKEN, told, remedy)
