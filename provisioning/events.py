"""What provisioning tells whoever watches it: a terminal, a log, or a program that reads JSON lines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. docs/provisioning.md lists the names and fields.

    ``state``: a model moved (state, error). ``progress``: bytes arrived (bytes_done, bytes_total, bytes_per_second).
    ``notice``: something a person should know (level, message). ``plan`` and ``summary``: the beginning and the end.
    """

    name: str
    model_id: str | None = None
    fields: Mapping[str, object] = field(default_factory=dict)


Listener = Callable[[Event], None]


def notice(message: str, *, model_id: str | None = None, level: str = "info") -> Event:
    """Say something to a person; `level` is info, warning or error."""
    return Event("notice", model_id, {"level": level, "message": message})
