"""Networks that a prompt names, `<lora:name:0.8>`, in Automatic1111's syntax.

Pure: machines import this module too.
"""

import re
from dataclasses import dataclass

NETWORK = re.compile(r"<(?P<kind>lora|lyco|hypernet):(?P<rest>[^<>]+)>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Network:
    """A LoRA that a prompt names: `<lora:name:weight>`, or two weights, for the text encoder and for the UNet."""

    kind: str
    """`lora`, `lyco` or `hypernet`."""
    name: str
    weight: float = 1.0
    text_weight: float = 1.0
    """For the text encoder; the same as `weight` unless it is given."""


def without_networks(prompt: str) -> tuple[str, list[Network]]:
    """Return the prompt without the networks it names, and those."""
    found = [_network(tag) for tag in NETWORK.finditer(prompt)]
    return (NETWORK.sub("", prompt), found) if found else (prompt, [])


def _network(tag: re.Match[str]) -> Network:
    """Read `name[:weight[:weight]]`; of two numbers the first is the text encoder's, as in Automatic1111."""
    name, *rest = (part.strip() for part in tag["rest"].split(":"))
    named = dict(part.partition("=")[::2] for part in rest if "=" in part)
    plain = [number for part in rest if "=" not in part and (number := _number(part)) is not None]
    text_weight = _first(_number(named.get("te")), plain[0] if plain else None, 1.0)
    weight = _first(_number(named.get("unet")), plain[1] if len(plain) > 1 else None, text_weight)
    return Network(tag["kind"].lower(), name, weight, text_weight)


def _first(*numbers: float | None) -> float:
    return next(number for number in numbers if number is not None)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def words_of(name: str) -> re.Pattern[str]:
    """Return what finds a name in a prompt, as a word of its own, in any case."""
    return re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.IGNORECASE)
