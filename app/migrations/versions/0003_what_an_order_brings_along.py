"""what an order brings along: pictures, engines, receipts

No table is made anew, as in 0002.

Revision: 0003, after 0002, 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "inputs",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("media_type", sa.String(length=50), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_index("ix_inputs_used_at", "inputs", ["used_at"], unique=False)
    op.create_table(
        "engines",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("checkpoint_id", sa.String(length=200), nullable=False),
        sa.Column("vae_id", sa.String(length=200), nullable=True),
        sa.Column("loras", sa.JSON(), nullable=False),
        sa.Column("embeddings", sa.JSON(), nullable=False),
        sa.Column("prompt_weighter", sa.String(length=30), nullable=True),
        sa.Column("controlnets", sa.JSON(), nullable=False),
        sa.Column("defaults", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("is_wanted", sa.Boolean(), nullable=False),
        sa.Column("machine_id", sa.String(length=200), nullable=True),
        sa.Column("boot_id", sa.String(length=64), nullable=True),
        sa.Column("bytes_estimated", sa.BigInteger(), nullable=True),
        sa.Column("bytes_measured", sa.BigInteger(), nullable=True),
        sa.Column("error_code", sa.String(length=50), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["models.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("checkpoint_id", "machine_id", "state"):
        op.create_index(f"ix_engines_{column}", "engines", [column], unique=False)
    op.add_column("jobs", sa.Column("is_replay", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("jobs", sa.Column("comparison", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("engine_id", sa.Uuid(), nullable=True))
    op.create_index("ix_jobs_engine", "jobs", ["engine_id", "state"], unique=False)
    # Jobs wait by queue, no longer by model: an engine has a queue of its own.
    op.add_column("jobs", sa.Column("queue", sa.String(length=210), server_default="", nullable=False))
    op.execute("UPDATE jobs SET queue = 'model.' || model_id")
    op.drop_index("ix_jobs_waiting", "jobs")
    waiting = ["state", "queue", "owner", "rank", "queued_at", "id", "model_id"]
    op.create_index("ix_jobs_waiting", "jobs", waiting, unique=False)
    for column in ("weights_bytes", "drawing_bytes"):
        op.add_column("holdings", sa.Column(column, sa.BigInteger(), nullable=True))
    op.add_column("models", sa.Column("trigger_words", sa.JSON(), nullable=True))
    op.add_column("images", sa.Column("receipt", sa.JSON(), nullable=True))
