"""what is told and seen: when a job last changed, for streams of all jobs; how a machine came up

Plain CREATE and ALTER only, as in 0002.

Revision: 0005, after 0004, 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.add_column("jobs", sa.Column("changed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_jobs_changed", "jobs", ["changed_at", "owner"], unique=False)
    op.add_column("machines", sa.Column("boot", sa.JSON(), nullable=True))
    op.create_table(
        "doomed_files",
        sa.Column("key", sa.String(length=300), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_doomed_files_due_at", "doomed_files", ["due_at"], unique=False)
    op.create_index("ix_deliveries_ended", "deliveries", ["ended_at"], unique=False)
    op.create_table(
        "measured",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("labels", sa.String(length=500), nullable=False),
        sa.Column("part", sa.String(length=20), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", "part"),
    )
    # What was counted goes on from where it was; the old table stays for processes of the version before.
    op.execute("INSERT INTO measured (name, labels, part, value) SELECT name, '[]', '', value FROM counters")
    op.add_column("holdings", sa.Column("moved_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("traceparent", sa.String(length=60), nullable=True))
