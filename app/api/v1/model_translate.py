"""Models in the v1 dialect: seed 000's words for what the catalogue says, both ways. Pure.

docs/api.md has the table of names.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from app.core.enrichments import PICTURE, Known
from app.core.machines import Availability, Outlook
from app.core.models import CatalogueEntry
from app.core.tables import Model

TYPES: Mapping[str, str] = {
    "Checkpoint": "checkpoint",
    "LoRA": "lora",
    "VAE": "vae",
    "Embedding": "embedding",
    "ControlNet": "controlnet",
    "Upscaler": "upscaler",
    "ONNX": "onnx",
    "Safety": "safety",
    "Config": "config",
    "Other": "other",
}
"""Seed 000's model types, and those that have come since, by the kind that each is."""

TYPE_OF = {kind: name for name, kind in TYPES.items()}

BASES = ("SD", "SDXL")
VARIANTS = ("fp16", "fp32")
"""Seed 000's, as examples: the catalogue knows more of both."""

STATUS_OF: Mapping[Availability, str] = {
    Availability.READY: "Ready",
    Availability.DOWNLOADING: "Downloading",
    Availability.ERROR: "Error",
    # Nothing is wrong with it, and it is not there: `reason` says that no machine is asked to hold it.
    Availability.ABSENT: "Downloading",
}
STATUSES = ["Downloading", "Ready", "Error"]

SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,14}")
"""Of a file's name; the 0 of "SDXL 1.0" is none."""

ILLEGAL = re.compile(r"[^A-Za-z0-9._-]+")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

COLUMNS = (
    *("id", "name", "kind", "base", "variant", "tags", "description", "download_url", "hash", "size_bytes"),
    *("file_size_gb", "save_path", "auth_required", "auth_provider", "dependencies", "options", "origin"),
    *("created_at", "updated_at"),
)


def in_our_words(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a body says of a model, by the names and words of the catalogue's columns."""
    found = {name: value for name, value in body.items() if name != "check"}
    if "model_type" in found:
        found["kind"] = TYPES[found.pop("model_type")]
    for theirs, ours in (("model_base", "base"), ("model_id", "id")):
        if theirs in found:
            found[ours] = found.pop(theirs)
    if found.get("path", "") is None:
        del found["path"]
    if "path" in found:
        found["download_url"] = found.pop("path")
    return found


def to_entry(body: Mapping[str, Any]) -> CatalogueEntry:
    """Read a catalogue entry that the schema has accepted.

    Without an address the name is a repository's on Hugging Face, as in seed 000 "it is for Stable Diffusion to
    download". Raises InvalidModel.
    """
    given = in_our_words(body)
    name, kind = given["name"], given.setdefault("kind", "checkpoint")
    if "download_url" not in given:
        # What is no repository's name makes no address either, and is refused as one.
        given["download_url"] = f"hf://{name}" if REPOSITORY.fullmatch(name) else ""
    given.setdefault("id", id_of(name))
    if "path" in body:
        given.setdefault("save_path", f"{kind}s/{given['id']}{_suffix(given['download_url'])}")
    given.setdefault("save_path", f"{kind}s/{name.rpartition('/')[2]}")
    return CatalogueEntry(**given)


def id_of(name: str) -> str:
    """Make an id of a name: without the suffix of a file, and of a repository its last part."""
    last = name.rpartition("/")[2] or name
    suffix = _suffix(last)
    return ILLEGAL.sub("-", last.removesuffix(suffix) or last).strip("-._")[:200]


def _suffix(address: str) -> str:
    """Return the suffix of the file at an address; a repository has none."""
    try:
        parts = urlsplit(address)
    except ValueError:  # the catalogue will say that it is no address
        return ""
    if parts.scheme == "hf" and parts.path.count("/") < 2:
        return ""
    suffix = PurePosixPath(unquote(parts.path)).suffix
    return suffix if SUFFIX.fullmatch(suffix) else ""


def to_states(query: Mapping[str, Any]) -> Sequence[Availability]:
    """Read which models are wanted, by how far the fleet is with them."""
    if "availability" in query:
        return [Availability(each) for each in query["availability"]]
    return [each for each, word in STATUS_OF.items() if word in query.get("status", ())]


CIVITAI = ("name", "version", "trained_words", "nsfw", "url")
"""What is shown of what Civitai knows; /sdapi/v1 shows all of it."""


def model_to_json(
    model: Model, outlook: Outlook, waiting: int, known: Known, absolute: Callable[[str], str]
) -> dict[str, Any]:
    """Show a catalogue entry, how far the live machines are with it, and what Civitai knows of it."""
    fraction = outlook.fraction
    return {name: getattr(model, name) for name in COLUMNS} | {
        "model_id": model.id,
        "path": model.download_url,
        "model_type": TYPE_OF.get(model.kind, "Other"),
        "model_base": model.base,
        "status": STATUS_OF[outlook.availability],
        "availability": outlook.availability.value,
        "percent": None if fraction is None else round(100 * fraction, 1),
        "reason": outlook.reason(model.id),
        "trigger_words": model.trigger_words or [],
        "civitai": civitai_to_json(model, known, absolute),
        "machines_ready": [holding.machine_id for holding in outlook.ready],
        "jobs_waiting": waiting,
    }


def civitai_to_json(model: Model, known: Known, absolute: Callable[[str], str]) -> dict[str, Any]:
    """Show what Civitai knows of a model; the picture's address is ours."""
    found = known.found or {}
    picture = absolute(f"/v1/models/{quote(model.id, safe='')}/picture") if found.get(PICTURE) else None
    told = {name: found.get(name) for name in CIVITAI} if found else {}
    return {"status": known.status, **told, "picture_url": picture}
