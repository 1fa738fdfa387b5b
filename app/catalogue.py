"""Catalogue entries from outside the API: the built-in demo model, `config.yaml`, and `MODEL_*` lines."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from app.config import read_config
from app.core import models
from app.core.errors import InvalidModel
from app.core.fleet import Fleet
from app.core.models import CatalogueEntry
from app.parse import SettingsError
from app.settings import merged

log = logging.getLogger(__name__)

MODEL_LINE = re.compile(r"MODEL_[A-Z0-9_]+")
LINE_FORM = "<name>;<repo>;<description>;<source>;<requires_auth>[;<options_json>]"
"""Seed 004's form of a model in `.env`."""

FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def artifacts() -> Path:
    """Return the folder of the files that the server itself hands out."""
    return Path(str(files("app") / "artifacts"))


def load(fleet: Fleet, environ: Mapping[str, str], folder: Path) -> list[str]:
    """Write all entries that do not come through the API into the catalogue; returns their ids."""
    texts = merged(environ, folder)
    found: dict[str, tuple[CatalogueEntry, str]] = {}
    for origin, entries in (
        ("built-in", built_in()),
        ("config", from_config(read_config(environ, folder))),
        ("environment", from_lines(texts)),
    ):
        found.update({entry.id: (entry, origin) for entry in entries})
    with fleet.transaction() as tx:
        for entry, origin in found.values():
            models.put(tx, entry, origin=origin)
    return sorted(found)


def built_in() -> Iterator[CatalogueEntry]:
    """Read the entries that lie beside the files we serve ourselves: the demo model."""
    for path in sorted(artifacts().glob("*.json")):
        yield CatalogueEntry(**json.loads(path.read_text(encoding="utf-8")))


def from_config(config: Mapping[str, Any]) -> Iterator[CatalogueEntry]:
    """Read `models:` of config.yaml, a list of entries with the catalogue's column names."""
    for position, raw in enumerate(config.get("models") or [], start=1):
        where = f"config.yaml: models, entry {position}"
        if not isinstance(raw, dict) or "id" not in raw or "download_url" not in raw:
            raise SettingsError(f"{where} must have at least `id` and `download_url`")
        model_id = str(raw["id"])
        file_name = str(raw["download_url"]).rstrip("/").rpartition("/")[2]
        defaults = {"name": file_name, "save_path": f"{raw.get('kind', models.DRAWABLE)}s/{file_name}"}
        yield _entry(where, defaults | raw | {"id": model_id})


def from_lines(texts: Mapping[str, str]) -> Iterator[CatalogueEntry]:
    """Read seed 004's `MODEL_*` lines; a variable of that name without semicolons belongs to somebody else."""
    for name, text in sorted(texts.items()):
        if MODEL_LINE.fullmatch(name) and ";" in text:
            yield _from_line(name, text)


def _from_line(variable: str, text: str) -> CatalogueEntry:
    parts = [part.strip() for part in text.strip().strip('"').split(";", 5)]
    if len(parts) < 5:
        raise SettingsError(f"{variable} has {len(parts)} fields, and needs at least 5: {LINE_FORM}")
    name, repo, description, source, requires_auth = parts[:5]
    if requires_auth.lower() not in FLAGS:
        raise SettingsError(f"{variable}: requires_auth must be true or false, not {requires_auth!r}")
    auth_required = FLAGS[requires_auth.lower()]
    return _entry(
        variable,
        {
            "id": name,
            "name": name,
            "download_url": f"hf://{repo}" if source.lower() == "huggingface" else repo,
            "save_path": f"checkpoints/{name}",
            "description": description,
            "auth_required": auth_required,
            "auth_provider": source.lower() if auth_required else None,
            "options": _options(variable, parts[5]) if len(parts) == 6 else {},
        },
    )


def _options(variable: str, text: str) -> dict[str, Any]:
    try:
        options = json.loads(text.replace('\\"', '"').replace("\\", ""))
    except json.JSONDecodeError as exc:
        raise SettingsError(f'{variable}: options_json is not JSON ({exc}); an example: {{"fixed_steps": 25}}') from exc
    if not isinstance(options, dict):
        raise SettingsError(f'{variable}: options_json must be an object such as {{"fixed_steps": 25}}, not {text}')
    return options


def _entry(where: str, values: Mapping[str, Any]) -> CatalogueEntry:
    try:
        return CatalogueEntry(**values)
    except TypeError as exc:
        unknown = sorted(set(values) - set(CatalogueEntry.__dataclass_fields__))
        raise SettingsError(f"{where}: unknown field {unknown or exc}") from exc
    except InvalidModel as exc:
        raise SettingsError(f"{where}: {exc}") from exc
