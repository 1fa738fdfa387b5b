"""what the doors keep: what Civitai knows; how many jobs an attempt shares its pass with; favourites

Plain CREATE and ALTER only, as in 0002.

Revision: 0004, after 0003, 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "enrichments",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("found", sa.JSON(), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("good_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("ix_enrichments_due_at", "enrichments", ["due_at"], unique=False)
    op.add_column("attempts", sa.Column("together", sa.Integer(), server_default="1", nullable=False))
    op.create_index("ix_images_created", "images", ["created_at", "id"], unique=False)
    op.add_column("images", sa.Column("is_favourite", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("ix_images_favourite", "images", ["is_favourite", "created_at", "id"], unique=False)
