"""The v1 dialect, whole: each module adds its routes to the blueprint as it is imported."""

from app.api.v1 import (
    capacity,
    deliveries,
    engines,
    events,
    explain,
    feed,
    images,
    inputs,
    jobs,
    machines,
    models,
    placement,
    replays,
    session,
)
from app.api.v1.blueprint import dialect

__all__ = [
    "capacity",
    "deliveries",
    "dialect",
    "engines",
    "events",
    "explain",
    "feed",
    "images",
    "inputs",
    "jobs",
    "machines",
    "models",
    "placement",
    "replays",
    "session",
]
