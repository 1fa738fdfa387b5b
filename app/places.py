"""YAML with the place of everything in it, so that what is wrong can be found."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
"""Keys and positions that lead to a value."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, and where in it."""

    data: Any
    name: str = "config.yaml"
    places: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    """Line and column of each value, or of its key where it has one, both from 1."""
    twice: tuple[Path, ...] = ()
    """Keys that stand there a second time: YAML would forget the first."""

    def told(self, path: Path, what: str, shown: str = "") -> str:
        """Say what is wrong with a value: `config.yaml:12:5: server.port: ...`; what is missing has its parent's."""
        parents = (path[:length] for length in range(len(path), -1, -1))
        place = next((self.places[each] for each in parents if each in self.places), None)
        where = self.name if place is None else f"{self.name}:{place[0]}:{place[1]}"
        name = shown or ".".join(map(str, path))
        return f"{where}: {name}: {what}" if name else f"{where}: {what}"


class NotYaml(ValueError):
    """The text is not YAML; the message says where it ceases to be."""


def read(text: str, name: str) -> Document:
    """Read a YAML file's text; raises NotYaml."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise NotYaml(f"{where}: is not YAML: {exc.problem or exc.context}") from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise NotYaml(f"{name}: is not YAML: {exc}") from exc
    places: dict[Path, tuple[int, int]] = {}
    twice = []
    for path, node in _walk(root, ()):
        if path in places:
            twice.append(path)
        places[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
    return Document(data, name, places, tuple(twice))


def _walk(node: yaml.Node | None, path: Path) -> Iterator[tuple[Path, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            yield below, key
            yield from _walk(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            yield (*path, position), value
            yield from _walk(value, (*path, position))
