"""How a setting is declared, and how its text is read; the readers raise ValueError for what does not fit."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from app.core.protocol import MACHINE_ID


class SettingsError(Exception):
    """One or more settings are wrong; the message names each of them."""


def text(value: str) -> str:
    """Read it as it is."""
    return value.strip()


def machine_name(value: str) -> str:
    """Read a machine's name; any that the API does not take it would refuse for ever."""
    if not MACHINE_ID.fullmatch(value.strip()):
        raise ValueError(value)
    return value.strip()


def path(value: str) -> Path:
    """Read a path; `~` is the user's folder."""
    return Path(value).expanduser().absolute()


def flag(value: str) -> bool:
    """Read yes or no."""
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    return words[value.strip().lower()]


def number(least: int, most: int) -> Callable[[str], int]:
    """Read a whole number within bounds."""

    def read(value: str) -> int:
        number = int(value)
        if not least <= number <= most:
            raise ValueError(value)
        return number

    return read


def amount(least: float, most: float) -> Callable[[str], float]:
    """Read a number within bounds."""

    def read(value: str) -> float:
        number = float(value)
        if not least <= number <= most:  # NaN is refused here too
            raise ValueError(value)
        return number

    return read


def one_of(*known: str) -> Callable[[str], str]:
    """Read one of some words."""

    def read(value: str) -> str:
        if value.strip() not in known:
            raise ValueError(value)
        return value.strip()

    return read


def several(value: str) -> tuple[str, ...]:
    """Read a list with commas between its members."""
    return tuple(item.strip() for item in value.split(",") if item.strip())


def networks(value: str) -> tuple[str, ...]:
    """Read a list of addresses and networks."""
    return tuple(str(ipaddress.ip_network(item)) for item in several(value))


def folders(value: str) -> tuple[Path, ...]:
    """Read a list of folders, with commas between them."""
    return tuple(path(item) for item in several(value))


ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::\d{1,5})?")
"""As browsers send it (RFC 6454, section 6.2): scheme, host, and the port where it is not the usual one."""


def origins(value: str) -> tuple[str, ...]:
    """Read a list of web sites' origins; `*` is all of them."""
    found = tuple(item.lower() for item in several(value))
    if wrong := [item for item in found if item != "*" and not ORIGIN.fullmatch(item)]:
        raise ValueError(wrong[0])
    return found


def pairs(value: str) -> tuple[tuple[str, str], ...]:
    """Read a list such as `name=file_name,hash=sha256`; what stands behind `=` may be empty."""
    found = tuple(item.partition("=") for item in several(value))
    if wrong := [name for name, equals, _ in found if not (name.strip() and equals)]:
        raise ValueError(wrong[0])
    return tuple((name.strip(), other.strip()) for name, _, other in found)


def url(value: str) -> str:
    """Read an address, without the slash at its end."""
    if "://" not in value:
        raise ValueError(value)
    return value.strip().rstrip("/")


def variable(default: Any, read: Callable[[str], Any], about: str, example: str, *, secret: bool = False) -> Any:
    """Declare a field of Settings; `example` is shown where its text is wrong, and the value of a secret never is."""
    return field(default=default, repr=not secret, metadata={"read": read, "about": about, "example": example})
