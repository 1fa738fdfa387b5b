"""Bringing the database to the newest schema."""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"

MIGRATION_LOCK = 7_205_119
"""PostgreSQL's advisory lock that an upgrade holds: of two servers that start together, one waits for the other.

Any number will do as long as all of our processes use the same one. On SQLite, whoever writes is alone anyway.
"""


def upgrade(engine: Engine, revision: str = "head") -> str:
    """Run every migration that is missing, in one transaction; returns the revision reached.

    A schema that is newer than this code stays as it is.
    """
    config = _config()
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if not _is_newer(revision_of(connection)):
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        return revision_of(connection) or ""


def is_current(engine: Engine) -> bool:
    """Say whether this code can work with the schema: it is the one that it was written for, or a newer one.

    While a fleet is upgraded, server processes of the version before are started anew on the schema of the next: each
    revision leaves everything as it is that they read and write (docs/operations.md, "Upgrading").
    """
    with engine.connect() as connection:
        found = revision_of(connection)
    if _is_newer(found):
        log.warning("the database is at revision %s, which is newer than this program: upgrade it soon", found)
        return True
    return found == ScriptDirectory.from_config(_config()).get_current_head()


def revisions() -> list[str]:
    """Name the revisions that this code knows, the first one first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def revision_of(connection: Connection) -> str | None:
    """Return the schema that a database has; None: none of ours."""
    return MigrationContext.configure(connection).get_current_revision()


def _is_newer(revision: str | None) -> bool:
    return revision is not None and revision not in revisions()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
