"""Seed 003's shapes. Pure."""

from typing import Any
from urllib.parse import urljoin

from app.api.door import Problem
from app.core.foreign import ForeignModel
from app.core.tables import Model


def model_to_json(model: Model | ForeignModel, root_url: str) -> dict[str, Any]:
    """Return the ten fields of seed 003, and our own behind them.

    `root_url` is how the asker reached us: what we serve ourselves has an address only from there.
    """
    return {
        "id": model.id,
        "name": model.name,
        "download_url": urljoin(root_url, model.download_url)
        if model.download_url.startswith("/")
        else model.download_url,
        "file_size_gb": model.file_size_gb,
        "hash": model.hash,
        "auth_required": model.auth_required,
        "auth_provider": model.auth_provider,
        "save_path": model.save_path,
        "dependencies": list(model.dependencies or ()),
        "description": model.description,
        "size_bytes": model.size_bytes,
        "kind": model.kind,
        "base": model.base,
    }


def say(problem: Problem) -> dict[str, Any]:
    """Say what went wrong in the seed's words: {"error": ...}, with the id of a model that is unknown."""
    if problem.code == "model_not_found":
        return {"error": "Model not found", "model_id": problem.facts["model_id"]}
    if problem.status >= 500:
        return {"error": "Internal server error"}
    return {"error": problem.message}
