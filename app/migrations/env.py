"""Alembic's entrance. The connection is handed in by app.database; there is no alembic.ini."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import text

from app.core.tables import Base, UtcDateTime
from app.database import MIGRATION_LOCK


def render_item(kind: str, thing: Any, _context: Any) -> str | Literal[False]:
    """Write our own column type as what it is in the database: a revision must not change with our code."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(thing, UtcDateTime) else False


connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,
    render_item=render_item,
)
context.run_migrations()
