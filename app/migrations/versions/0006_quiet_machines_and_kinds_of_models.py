"""when a machine may be quiet, being idle in a large fleet; models by their kind

Plain CREATE and ALTER only, as in 0002.

Revision: 0006, after 0005, 2026-11-22
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("machines", sa.Column("quiet_until", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_models_kind", "models", ["kind", "updated_at"], unique=False)
