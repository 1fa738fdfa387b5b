"""What Automatic1111 calls a model: title, name, hash; and which model such a word means. Pure."""

import re
from collections.abc import Sequence
from typing import Any

from app.core.tables import Model

SHORT_HASH = 10


def sha256_of(model: Model) -> str | None:
    """Return a model's SHA-256 in hexadecimal, where the catalogue has one."""
    found = re.fullmatch(r"(?:sha256:)?([0-9a-f]{64})", (model.hash or "").lower())
    return found[1] if found else None


def short_hash(model: Model) -> str | None:
    """Return the ten digits that Automatic1111 shows."""
    whole = sha256_of(model)
    return whole[:SHORT_HASH] if whole else None


def title(model: Model) -> str:
    """Name a model as Automatic1111's list of checkpoints does."""
    digest = short_hash(model)
    return f"{model.name} [{digest}]" if digest else model.name


def model_to_json(model: Model) -> dict[str, Any]:
    """Show a model as a checkpoint."""
    return {
        "title": title(model),
        "model_name": model.id,
        "hash": short_hash(model),
        "sha256": sha256_of(model),
        "filename": model.save_path,
        "config": None,
    }


def match(models: Sequence[Model], name: str) -> Model | None:
    """Find the model that a client's word means: id, title, file name with or without its ending, or a hash's head.

    A hash in brackets behind the word is looked at only where the word says nothing: titles are kept by clients for
    longer than files keep their hashes.
    """
    word, _, digest = name.strip().removesuffix("]").partition(" [")
    for wanted in filter(None, (name.strip(), word, digest)):
        for model in models:
            if wanted.lower() in _names(model):
                return model
    return None


def _names(model: Model) -> set[str]:
    stem, path = model.name.rpartition(".")[0] or model.name, model.save_path
    whole = sha256_of(model) or ""
    hashes = {whole, whole[:SHORT_HASH]} if whole else set()
    return {known.lower() for known in (model.id, model.name, stem, path, title(model))} | hashes
