"""The v1 dialect, whole: each module adds its routes to the blueprint as it is imported."""

from app.api.v1 import deliveries, engines, events, explain, images, inputs, jobs, machines, models, replays, session
from app.api.v1.blueprint import dialect

__all__ = [
    "deliveries",
    "dialect",
    "engines",
    "events",
    "explain",
    "images",
    "inputs",
    "jobs",
    "machines",
    "models",
    "replays",
    "session",
]
