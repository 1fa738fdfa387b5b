"""Where settings are written: the environment, `.env` and `config.yaml`."""

import re
from collections.abc import Collection, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

from app.parse import SettingsError

MODEL_LINE = re.compile(r"^\s*(?:export\s+)?MODEL_[A-Z0-9_]+\s*=.*$", re.MULTILINE)


def merged(environ: Mapping[str, str], folder: Path, known: Collection[str]) -> dict[str, str]:
    """Lay the environment over `.env` over `config.yaml`; the result has the environment's shape.

    `known` are the names that `config.yaml` may have. Raises SettingsError.
    """
    texts = {name.upper(): text for name, text in _from_yaml(read_config(environ, folder), known).items()}
    texts.update(_from_dotenv(folder / ".env"))
    texts.update({name: text for name, text in environ.items() if text.strip()})
    return texts


def _from_dotenv(path: Path) -> dict[str, str]:
    r"""Read `.env`. Seed 004 writes the quotes inside of `MODEL_*` lines as `\\"`, which would end the value."""
    if not path.is_file():
        return {}
    text = MODEL_LINE.sub(lambda line: line[0].replace('\\\\"', '\\"'), path.read_text(encoding="utf-8"))
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value is not None}


def read_config(environ: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Read `config.yaml` (or what CONFIG_FILE names) as it stands; nothing when there is none."""
    named = environ.get("CONFIG_FILE", "")
    path = Path(named) if named else folder / "config.yaml"
    if not path.exists():
        if named:
            raise SettingsError(f"CONFIG_FILE names {named}, and there is no such file")
        return {}
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as exc:
        raise SettingsError(f"{path} is not YAML: {exc}") from exc
    if data is not None and not isinstance(data, dict):
        raise SettingsError(f"{path} must hold `server:`, `resources:` and `models:`, not a {type(data).__name__}")
    return data or {}


def _from_yaml(config: Mapping[str, Any], known: Collection[str]) -> dict[str, str]:
    texts = {}
    for section in ("server", "resources"):
        values = config.get(section) or {}
        if not isinstance(values, Mapping):
            raise SettingsError(f"config.yaml: {section} must hold settings such as `port: 8000`, not {values!r}")
        for name, value in values.items():
            if name not in known:
                raise SettingsError(
                    f"config.yaml: {section}.{name} is no setting; known are {', '.join(sorted(known))}"
                )
            texts[name] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    if unknown := set(config) - {"server", "resources", "models"}:
        raise SettingsError(f"config.yaml: unknown section {min(unknown)!r}; there are server, resources and models")
    return texts
