"""Catalogue entries from outside the API: the built-in demo model, `config.yaml`, `MODEL_*` lines, another table."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from app.config import lines_of, read_config
from app.core import foreign, models, removal
from app.core.errors import InvalidModel, ModelInUse
from app.core.fleet import Fleet, Transaction
from app.core.models import CatalogueEntry
from app.core.spec import OPTIONS
from app.parse import SettingsError
from app.places import Document
from app.settings import merged

log = logging.getLogger(__name__)

MODEL_LINE = re.compile(r"MODEL_[A-Z0-9_]+")
LINE_FORM = "<name>;<repo>;<description>;<source>;<requires_auth>[;<options_json>]"
"""Seed 004's form of a model in `.env`."""

LINE_FIELDS: Mapping[str, str] = {"id": "name", "name": "name", "download_url": "repo", "options": "options_json"}
"""Where in a line a column's value stands, by the column."""

FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}

COLUMNS = tuple(CatalogueEntry.__dataclass_fields__)

Declared = Mapping[str, tuple[CatalogueEntry, str]]
"""Entries and who wrote them, by id."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What writing the catalogue has changed: ids."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """No longer declared, and still needed by jobs or engines."""

    def sentences(self) -> list[str]:
        """Say it for people."""
        told = {
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "no longer declared, and kept for the jobs or engines that need it": self.kept,
        }
        return [f"{what}: {', '.join(ids)}" for what, ids in told.items() if ids]


def artifacts() -> Path:
    """Return the folder of the files that the server itself hands out."""
    return Path(str(files("app") / "artifacts"))


def load(fleet: Fleet, environ: Mapping[str, str], folder: Path) -> list[str]:
    """Write all entries that do not come through the API into the catalogue; returns their ids.

    Raises SettingsError that names everything that is wrong with any of them, or with the table that others are read
    from.
    """
    found, copied = declared(environ, folder), mirror(fleet)
    with fleet.transaction() as tx:
        for entry, origin in found.values():
            _write(tx, entry, origin)
    return sorted({*found, *copied})


def declared(environ: Mapping[str, str], folder: Path) -> Declared:
    """Read what is built in, what `config.yaml` declares, and what `MODEL_*` lines do; the last one wins.

    Raises SettingsError that names everything that is wrong, with its place.
    """
    texts = merged(environ, folder)
    found: dict[str, tuple[CatalogueEntry, str]] = {}
    problems = []
    for origin, read in (
        ("built-in", built_in),
        ("config", lambda: from_config(read_config(environ, folder))),
        ("environment", lambda: from_lines(texts, lines_of(environ, folder))),
    ):
        try:
            found.update({entry.id: (entry, origin) for entry in read()})
        except SettingsError as exc:
            problems.append(str(exc))
    if problems:
        raise SettingsError("\n".join(problems))
    return found


def rewrite(fleet: Fleet, now: Declared, before: Iterable[str]) -> Changes:
    """Bring the catalogue from what was declared `before`, ids, to what is declared now."""
    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []
    kept: list[str] = []
    with fleet.transaction() as tx:
        for entry, origin in now.values():
            known = models.find(tx.session, [entry.id])[0]
            if _write(tx, entry, origin):
                (changed if known else added).append(entry.id)
    for model_id in sorted(set(before) - set(now)):
        with fleet.transaction() as tx:
            if not models.find(tx.session, [model_id])[0]:
                continue
            try:
                removal.remove(tx, model_id)
            except ModelInUse:
                kept.append(model_id)
            else:
                removed.append(model_id)
    return Changes(tuple(added), tuple(changed), tuple(removed), tuple(kept))


def mirror(fleet: Fleet) -> list[str]:
    """Copy what somebody else's table holds into ours, for jobs to name; returns the ids.

    The table stays the truth: what goes there goes here too, unless jobs or engines need it. Raises SettingsError for a
    table that is not as the settings say.
    """
    if fleet.foreign is None:
        return []
    try:
        fleet.foreign.check()
        rows = fleet.foreign.everything()
    except foreign.WrongTable as exc:
        raise SettingsError(f"CATALOG_TABLE: {exc}") from exc
    found = {}
    for row in rows:
        try:
            found[row.id] = (row.to_entry(), foreign.ORIGIN)
        except InvalidModel as exc:
            log.warning("%s: an entry is left out: %s", fleet.foreign.name, exc)
    with fleet.reading() as session:
        before = models.ids_of(session, foreign.ORIGIN)
    for sentence in rewrite(fleet, found, before).sentences():
        log.info("%s: %s", fleet.foreign.name, sentence)
    return sorted(found)


def _write(tx: Transaction, entry: CatalogueEntry, origin: str) -> bool:
    """Write an entry that is not there as it should be; says whether it was not."""
    if models.is_as(tx.session, entry, origin):
        return False
    models.put(tx, entry, origin=origin)
    return True


def built_in() -> Iterator[CatalogueEntry]:
    """Read the entries that lie beside the files we serve ourselves: the demo model."""
    for path in sorted(artifacts().glob("*.json")):
        yield CatalogueEntry(**json.loads(path.read_text(encoding="utf-8")))


def from_config(document: Document) -> list[CatalogueEntry]:
    """Read `models:` of config.yaml: a list of entries with the catalogue's column names, or entries by their ids.

    Raises SettingsError that names everything that is wrong, with its place.
    """
    given = document.data.get("models") or []
    if not isinstance(given, (list, Mapping)):
        raise SettingsError(document.told(("models",), "must be a list of entries, or entries by their ids"))
    pairs = given.items() if isinstance(given, Mapping) else enumerate(given)
    found: dict[str, CatalogueEntry] = {}
    problems: list[str] = []
    for key, raw in pairs:
        entry = _ConfigEntry(document, ("models", key), raw)
        if entry.problems():
            problems += entry.problems()
        elif entry.id in found:
            problems.append(entry.told("id", "is that of an entry before it"))
        else:
            try:
                found[entry.id] = entry.read()
            except InvalidModel as exc:
                problems += [entry.told(_column_of(what), what) for what in exc.facts["problems"]]
    if problems:
        raise SettingsError("\n".join(problems))
    return list(found.values())


class _ConfigEntry:
    """One entry of `models:`, and how to speak of it."""

    def __init__(self, document: Document, path: tuple[str | int, ...], raw: Any) -> None:
        self._document = document
        self._path = path
        self._raw = raw
        self._is_mapping = isinstance(raw, Mapping)
        key = path[-1]
        self.id = str(key) if isinstance(key, str) else str(raw.get("id", "")) if self._is_mapping else ""

    def told(self, column: str, what: str) -> str:
        """Say what is wrong with a column."""
        name = f"models.{self.id}" if self.id else f"models[{self._path[-1]}]"
        return self._document.told((*self._path, column), what, f"{name}.{column}" if column else name)

    def problems(self) -> list[str]:
        """Say what keeps it from being an entry at all."""
        if not self._is_mapping:
            return [self.told("", "must be an entry with at least `id` and `download_url`")]
        unknown = [str(name) for name in self._raw if name not in COLUMNS]
        found = [self.told(name, f"is no field of a model{_hint(name)}") for name in unknown]
        there = {"id": self.id, "download_url": self._raw.get("download_url")}
        found += [self.told(name, "is missing") for name, value in there.items() if not value]
        if str(self._raw.get("id", self.id)) != self.id:
            found.append(self.told("id", f"says {self._raw['id']!r}, and its key {self.id!r}"))
        return found

    def read(self) -> CatalogueEntry:
        """Make the entry; raises InvalidModel."""
        file_name = str(self._raw["download_url"]).rstrip("/").rpartition("/")[2]
        defaults: dict[str, Any] = {
            "name": file_name,
            "save_path": f"{self._raw.get('kind', models.DRAWABLE)}s/{file_name}",
        }
        return CatalogueEntry(**defaults | dict(self._raw) | {"id": self.id})


def _hint(name: str) -> str:
    if name in {*OPTIONS, "fixed_steps"}:
        return f"; write it as options.{name}"
    alike = get_close_matches(name, COLUMNS, n=1)
    return f"; is it {alike[0]}?" if alike else f"; there are {', '.join(COLUMNS)}"


def _column_of(problem: str) -> str:
    """Return which column a problem is about: each sentence begins with its name."""
    return re.split(r"[ .]", problem, maxsplit=1)[0]


def from_lines(texts: Mapping[str, str], where: Mapping[str, str] | None = None) -> list[CatalogueEntry]:
    """Read seed 004's `MODEL_*` lines; a variable of that name without semicolons belongs to somebody else.

    `where` says where variables stand, such as `.env:3`. Raises SettingsError that names every wrong line and field.
    """
    found, problems = [], []
    for name, text in sorted(texts.items()):
        if MODEL_LINE.fullmatch(name) and ";" in text:
            place = f"{where[name]}: {name}" if where and name in where else name
            try:
                found.append(_from_line(text))
            except _WrongLine as exc:
                problems += [f"{place}: {what}" for what in exc.args]
    if problems:
        raise SettingsError("\n".join(problems))
    return found


class _WrongLine(Exception):  # it reads as what was found
    """A line cannot be read; its arguments say why."""


def _from_line(text: str) -> CatalogueEntry:
    parts = [part.strip() for part in text.strip().strip('"').split(";", 5)]
    if len(parts) < 5:
        raise _WrongLine(f"has {len(parts)} fields, and needs at least 5: {LINE_FORM}")
    name, repo, description, source, requires_auth = parts[:5]
    if requires_auth.lower() not in FLAGS:
        raise _WrongLine(f"requires_auth: must be true or false, not {requires_auth!r}")
    auth_required = FLAGS[requires_auth.lower()]
    try:
        return CatalogueEntry(
            id=name,
            name=name,
            download_url=f"hf://{repo}" if source.lower() == "huggingface" else repo,
            save_path=f"checkpoints/{name}",
            description=description,
            auth_required=auth_required,
            auth_provider=source.lower() if auth_required else None,
            options=_options(parts[5]) if len(parts) == 6 else {},
        )
    except InvalidModel as exc:
        told = [f"{LINE_FIELDS.get(_column_of(what), _column_of(what))}: {what}" for what in exc.facts["problems"]]
        raise _WrongLine(*told) from exc


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text.replace('\\"', '"').replace("\\", ""))
    except json.JSONDecodeError as exc:
        raise _WrongLine(f'options_json: options_json is not JSON ({exc}); an example: {{"fixed_steps": 25}}') from exc
    if not isinstance(options, dict):
        raise _WrongLine(f'options_json: must be an object such as {{"fixed_steps": 25}}, not {text}')
    return options
