"""Where settings are written: the environment, `.env` and `config.yaml`."""

import re
from collections.abc import Mapping
from dataclasses import Field
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from app import places
from app.parse import SettingsError
from app.places import Document

MODEL_LINE = re.compile(r"^\s*(?:export\s+)?MODEL_[A-Z0-9_]+\s*=.*$", re.MULTILINE)

SECTIONS = ("server", "resources")
"""Where settings stand in `config.yaml`; each of them may stand in either."""

DOTENV = ".env"
CONFIG = "config.yaml"


def merged(environ: Mapping[str, str], folder: Path, known: Mapping[str, Field[Any]]) -> dict[str, str]:
    """Lay the environment over `.env` over `config.yaml`; the result has the environment's shape.

    `known` are the variables that `config.yaml` may set, by their names in it. Raises SettingsError that names
    everything in `config.yaml` that cannot be meant, with its place.
    """
    texts = {name.upper(): text for name, text in _settings_of(read_config(environ, folder), known).items()}
    texts.update(_from_dotenv(folder / DOTENV))
    texts.update({name: text for name, text in environ.items() if text.strip()})
    return texts


def sources(environ: Mapping[str, str], folder: Path) -> list[Path]:
    """Return the files that settings and models are written in, whether they are there or not."""
    return [_config_path(environ, folder), folder / DOTENV]


def _from_dotenv(path: Path) -> dict[str, str]:
    """Read `.env`."""
    values = dotenv_values(stream=StringIO(_dotenv_text(path)))
    return {name: value for name, value in values.items() if value is not None}


def _dotenv_text(path: Path) -> str:
    r"""Return its text. Seed 004 writes the quotes inside of `MODEL_*` lines as `\\"`, which would end the value."""
    if not path.is_file():
        return ""
    return MODEL_LINE.sub(lambda line: line[0].replace('\\\\"', '\\"'), path.read_text(encoding="utf-8"))


def lines_of(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return where each variable of `.env` stands, as `.env:3`; what the environment sets in its place is left out."""
    bindings = parse_stream(StringIO(_dotenv_text(folder / DOTENV)))
    found = {each.key: f"{DOTENV}:{each.original.line}" for each in bindings if each.key}
    return {name: where for name, where in found.items() if not environ.get(name, "").strip()}


def _config_path(environ: Mapping[str, str], folder: Path) -> Path:
    named = environ.get("CONFIG_FILE", "")
    return Path(named) if named else folder / CONFIG


def read_config(environ: Mapping[str, str], folder: Path) -> Document:
    """Read `config.yaml` (or what CONFIG_FILE names) as it stands; an empty one when there is none."""
    path = _config_path(environ, folder)
    if not path.exists():
        if environ.get("CONFIG_FILE"):
            raise SettingsError(f"CONFIG_FILE names {path}, and there is no such file")
        return Document({})
    try:
        found = places.read(path.read_text(encoding="utf-8"), path.name)
    except (ValueError, OSError) as exc:
        raise SettingsError(str(exc)) from exc
    if found.data is not None and not isinstance(found.data, dict):
        kind = type(found.data).__name__
        raise SettingsError(found.told((), f"must hold `server:`, `resources:` and `models:`, not a {kind}"))
    return found if found.data else Document({}, path.name)


def _settings_of(document: Document, known: Mapping[str, Field[Any]]) -> dict[str, str]:
    problems = [document.told(path, "stands there twice; keep one") for path in document.twice]
    sections = (*SECTIONS, "models")
    there = ", ".join(sections)
    unknown = [str(name) for name in document.data if name not in sections]
    problems += [
        document.told((name,), f"is no section{_alike(name, sections)}; there are {there}") for name in unknown
    ]
    texts: dict[str, str] = {}
    for section in SECTIONS:
        values = document.data.get(section) or {}
        if not isinstance(values, Mapping):
            problems.append(document.told((section,), f"must hold settings such as `port: 8000`, not {values!r}"))
            continue
        for name, value in values.items():
            path = (section, str(name))
            if name not in known:
                problems.append(document.told(path, f"is no setting{_alike(str(name), known)}; README.md lists them"))
            elif name in texts:
                problems.append(document.told(path, "stands in both sections; keep one"))
            else:
                texts[name] = _text_of(value)
                problems += [document.told(path, what) for what in _wrong(texts[name], known[name])]
    if problems:
        raise SettingsError("\n".join(problems))
    return texts


def _text_of(value: Any) -> str:
    """Write a value of YAML as the environment would have it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return ",".join(f"{name}={'' if other is None else other}" for name, other in value.items())
    return "" if value is None else str(value)


def _wrong(text: str, variable: Field[Any]) -> list[str]:
    """Say what is wrong with a setting's text, if anything is."""
    try:
        if text.strip():
            variable.metadata["read"](text)
    except (ValueError, KeyError):
        shown = f"is {text!r}" if variable.repr else "cannot be read"
        return [f"{shown}; an example that works: {variable.metadata['example']}"]
    return []


def _alike(name: str, known: Any) -> str:
    found = get_close_matches(name, list(known), n=1)
    return f"; is it {found[0]}?" if found else ""
