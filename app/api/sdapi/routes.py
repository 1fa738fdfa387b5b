"""The sdapi dialect, whole: each module adds its routes to the blueprint as it is imported.

Its /health is in app.api.ops, its /doc in app.api.pages.
"""

from app.api.sdapi import entries, jobs
from app.api.sdapi.blueprint import blueprint, dialect
from app.api.webui import lists

__all__ = ["dialect", "entries", "jobs"]

lists.add_routes(blueprint)
