"""The v1 dialect, whole: each module adds its routes to the blueprint as it is imported."""

from app.api.v1 import deliveries, events, explain, jobs, machines, models
from app.api.v1.blueprint import dialect

__all__ = ["deliveries", "dialect", "events", "explain", "jobs", "machines", "models"]
