"""The sdapi dialect, whole: each module adds its routes to the blueprint as it is imported.

Its /health is in app.api.ops, its /doc in app.api.pages.
"""

from app.api.sdapi import entries, jobs, lists
from app.api.sdapi.blueprint import dialect

__all__ = ["dialect", "entries", "jobs", "lists"]
