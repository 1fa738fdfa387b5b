"""The catalogue: which models there are, where they come from, and what proves them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.errors import CatalogueReadOnly, InvalidModel, ModelExists, ModelNotFound
from app.core.fleet import Transaction
from app.core.spec import option_problems
from app.core.tables import Model
from app.core.upserts import insert_into

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
HASH_PATTERN = re.compile(
    r"(?:[a-z0-9]+:)?(?:[0-9a-f]{8}|[0-9a-f]{10}|[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})", re.IGNORECASE
)
"""CRC32, Civitai's AutoV2 (the head of a SHA-256), MD5, SHA-1, SHA-256; the algorithm may be named in front."""

KINDS = ("checkpoint", "lora", "vae", "embedding", "controlnet", "upscaler", "onnx", "safety", "config", "other")
DRAWABLE = "checkpoint"
"""The kind of model a job can name; the others only go along with one."""

BYTES_PER_GB = 10**9
MOST_BYTES = 2**63 - 1

LONGEST = {"name": 500, "hash": 200, "auth_provider": 50, "base": 30, "variant": 30}
"""Characters, as the table has them; SQLite would take more, PostgreSQL would not."""

NEVER_NONE = {"id", "name", "download_url", "save_path", "kind"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """What is to be known of a model before it can be provisioned; columns as in seed 003."""

    id: str
    name: str
    download_url: str
    save_path: str
    file_size_gb: float | None = None
    hash: str | None = None
    auth_required: bool = False
    auth_provider: str | None = None
    dependencies: Sequence[str] = ()
    description: str | None = None
    size_bytes: int | None = None
    kind: str = DRAWABLE
    base: str | None = None
    variant: str | None = None
    tags: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise InvalidModel(f"model {self.id!r}: " + "; ".join(problems), problems=problems)


def _problems(entry: CatalogueEntry) -> list[str]:
    """Say everything that keeps an entry from ever being provisioned."""
    problems = _type_problems(entry)
    if problems:
        return problems
    if not ID_PATTERN.fullmatch(entry.id):
        problems.append(
            "id must begin with a letter or digit and hold only letters, digits, '.', '_' and '-', 200 at most"
        )
    if not entry.name:
        problems.append("name must not be empty")
    if not _stays_inside(entry.save_path):
        problems.append(f"save_path must be a relative path inside the models folder, not {entry.save_path!r}")
    if not re.match(r"(https?|hf|civitai|file|s3|a1111)://.|/", entry.download_url):
        schemes = "https://, http://, hf://, civitai://, s3:// or file://"
        problems.append(f"download_url must begin with {schemes}, not {entry.download_url!r}")
    elif not _can_be_read(entry.download_url):
        problems.append(f"download_url is no address that can be read: {entry.download_url!r}")
    if entry.hash is not None and not HASH_PATTERN.fullmatch(entry.hash):
        problems.append(f"hash must be 8, 10, 32, 40 or 64 hexadecimal digits, not {entry.hash!r}")
    if entry.kind not in KINDS:
        problems.append(f"kind must be one of {', '.join(KINDS)}, not {entry.kind!r}")
    return problems + option_problems(entry.options)


def _can_be_read(url: str) -> bool:
    try:
        _ = urlsplit(url).port  # a port that is none is found only now
    except ValueError:
        return False
    return True


def _type_problems(entry: CatalogueEntry) -> list[str]:
    """Say which values no column could hold: wrong types, texts that are too long or that no database takes."""
    problems = []
    for column in fields(entry):
        value, longest = getattr(entry, column.name), LONGEST.get(column.name)
        if column.name in {"dependencies", "tags"}:
            fits = isinstance(value, (list, tuple)) and all(isinstance(v, str) and can_be_stored(v) for v in value)
        elif column.name == "options":
            fits = isinstance(value, Mapping)
        elif column.name == "auth_required":
            fits = isinstance(value, bool)
        elif column.name in {"size_bytes", "file_size_gb"}:
            whole = column.name == "size_bytes"
            number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            fits = value is None or (number and 0 <= value <= MOST_BYTES)
        else:
            text = isinstance(value, str) and can_be_stored(value)
            fits = text or (value is None and column.name not in NEVER_NONE)
        if not fits:
            problems.append(f"{column.name} cannot be {value!r}")
        elif longest and value and len(value) > longest:
            problems.append(f"{column.name} may have {longest} characters at most, not {len(value)}")
    return problems


def can_be_stored(text: str) -> bool:
    """Say whether every database takes this text: PostgreSQL refuses NUL, and half of a surrogate pair is no UTF-8."""
    return "\x00" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _stays_inside(path: str) -> bool:
    """Say whether a path is relative, plain, and leads neither out of the models folder nor into a hidden one."""
    parts = path.split("/")
    return (
        bool(path.strip("/"))
        and path == path.strip()
        and not path.startswith(("/", ".", "~"))
        and not {".", ".."} & set(parts)
        and "\\" not in path
        and not re.match(r"[A-Za-z]:", path)
        and path.isprintable()
    )


def get(session: Session, model_id: str) -> Model:
    """Find one model; raises ModelNotFound."""
    model = session.get(Model, model_id) if can_be_stored(model_id) else None
    if model is None:
        raise _not_found(model_id)
    return model


def _not_found(model_id: str) -> ModelNotFound:
    return ModelNotFound(f"no model {model_id!r} is in the catalogue", model_id=model_id)


def locked(session: Session, model_id: str, *, to_remove: bool = False) -> Model:
    """Find a model that nobody else changes until the transaction ends, or asks for either; raises ModelNotFound."""
    if not can_be_stored(model_id):
        raise _not_found(model_id)
    model = session.get(Model, model_id, with_for_update={"key_share": not to_remove}, populate_existing=True)
    if model is None:
        raise _not_found(model_id)
    return model


def held(session: Session, model_id: str) -> Model:
    """Find a model that stays in the catalogue until the transaction ends; raises ModelNotFound."""
    known: set[str] = session.info.setdefault("imagefleet.models_held", set())
    if model_id in known:  # a list of orders names the same model again and again
        return get(session, model_id)
    found, _ = find(session, [model_id], is_held=True)
    if not found:
        raise _not_found(model_id)
    known.add(model_id)
    return found[0]


def find(session: Session, ids: Iterable[str], *, is_held: bool = False) -> tuple[list[Model], list[str]]:
    """Look many models up in one query; those that are held stay in the catalogue until the transaction ends.

    Returns the models found and the ids that are unknown, both in the order asked, each once.
    """
    asked = list(dict.fromkeys(ids))
    possible = [model_id for model_id in asked if can_be_stored(model_id)]
    if not possible:
        return [], asked
    query = select(Model).where(Model.id.in_(possible))
    if is_held:  # as a foreign key would: it holds up nobody but who removes them
        query = query.order_by(Model.id).with_for_update(read=True, key_share=True)
    found = {model.id: model for model in session.scalars(query)}
    return [found[i] for i in asked if i in found], [i for i in asked if i not in found]


def listing(session: Session, *, kind: str | None = None) -> Sequence[Model]:
    """Return the catalogue by id, all of it or one kind."""
    query = select(Model).order_by(Model.id)
    return session.scalars(query.where(Model.kind == kind) if kind else query).all()


def count(session: Session) -> int:
    """Count the catalogue."""
    return session.scalar(select(func.count()).select_from(Model)) or 0


def ids_of(session: Session, origin: str) -> Sequence[str]:
    """Return the ids of the entries that somebody wrote."""
    return session.scalars(select(Model.id).where(Model.origin == origin).order_by(Model.id)).all()


def near(session: Session, missing: Iterable[str]) -> dict[str, list[str]]:
    """Return, for ids that are unknown, similar ones that are in the catalogue."""
    wanted = list(missing)
    known = session.scalars(select(Model.id)).all() if wanted else []
    return {model_id: get_close_matches(model_id, known) for model_id in wanted}


def put(tx: Transaction, entry: CatalogueEntry, *, origin: str) -> Model:
    """Write an entry into the catalogue, new or in place of the one of the same id."""
    model = tx.session.get(Model, entry.id, with_for_update={"key_share": True}, populate_existing=True)
    if model is None:
        put_new(tx, [entry], origin=origin)  # another server that starts at this moment may be faster
        model = tx.session.get_one(Model, entry.id)
    for name, value in _columns(entry).items():
        setattr(model, name, value)
    model.origin = origin
    model.updated_at = tx.now
    return model


def put_new(tx: Transaction, entries: Sequence[CatalogueEntry], *, origin: str) -> None:
    """Write many entries at once; one whose id somebody else has taken at this moment stays theirs."""
    if not entries:
        return
    who_and_when = {"origin": origin, "created_at": tx.now, "updated_at": tx.now}
    rows = [_columns(entry) | who_and_when for entry in entries]
    # Row by row through one prepared statement: as one statement of thousands of values it takes longer to write down.
    added = insert_into(tx.session, Model).on_conflict_do_nothing(index_elements=["id"])
    tx.session.connection().execute(added, rows)


def _columns(entry: CatalogueEntry) -> dict[str, Any]:
    """Return what an entry says, by the names of the table's columns."""
    known = {column.name: getattr(entry, column.name) for column in fields(entry)}
    if entry.file_size_gb is None and entry.size_bytes is not None:
        known["file_size_gb"] = entry.size_bytes / BYTES_PER_GB
    lists = {name: list(known[name]) for name in ("dependencies", "tags")}
    return known | lists | {"options": dict(entry.options)}


def is_as(session: Session, entry: CatalogueEntry, origin: str) -> bool:
    """Say whether an entry stands in the catalogue already, from the same hand."""
    model = session.get(Model, entry.id)
    if model is None or model.origin != origin:
        return False
    return {column.name: getattr(model, column.name) for column in fields(entry)} == _columns(entry)


REWRITTEN = frozenset({"config", "environment", "built-in", "table"})
"""Who writes entries anew at every start: what anybody else changed there would not last."""


def add(tx: Transaction, entry: CatalogueEntry, *, origin: str, is_named: bool) -> Model:
    """Write an entry as `put` does; one whose id nobody chose (`is_named` no) takes nobody else's place.

    Raises ModelExists.
    """
    known = tx.session.get(Model, entry.id)
    if known is not None and not is_named and known.name != entry.name:
        raise ModelExists(
            f"the id {entry.id!r}, made of the name {entry.name!r}, is that of {known.name!r} already; say an `id`",
            model_id=entry.id,
        )
    return put(tx, entry, origin=origin)


def change(tx: Transaction, model_id: str, changes: Mapping[str, Any]) -> Model:
    """Change some columns of an entry; raises ModelNotFound, InvalidModel, and CatalogueReadOnly."""
    model = locked(tx.session, model_id)
    return put(tx, changed(model, changes), origin=model.origin)


def changed(model: Model, changes: Mapping[str, Any]) -> CatalogueEntry:
    """Return an entry as it would be with some of its columns changed; raises InvalidModel and CatalogueReadOnly."""
    if model.origin in REWRITTEN:
        raise CatalogueReadOnly(
            f"model {model.id!r} is written by the server's {model.origin} at every start; change it there",
            model_id=model.id,
        )
    known = {column.name: getattr(model, column.name) for column in fields(CatalogueEntry)}
    if "size_bytes" in changes and "file_size_gb" not in changes:
        known["file_size_gb"] = None  # it follows from the bytes
    return CatalogueEntry(**known | dict(changes))
