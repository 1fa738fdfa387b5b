"""a job and its life

No table is made anew: on SQLite the old one would be dropped, and with it, by its foreign keys, all that belongs to it.

Revision: 0002, after 0001, 2026-11-21
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "heartbeats",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("up_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("job_ids", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)

    op.create_table(
        "paces",
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("device", sa.String(length=200), nullable=False),
        sa.Column("step_seconds", sa.Double(), nullable=True),
        sa.Column("picture_seconds", sa.Double(), nullable=True),
        sa.Column("job_seconds", sa.Double(), nullable=True),
        sa.Column("loading_seconds", sa.Double(), nullable=True),
        sa.Column("other_seconds", sa.Double(), nullable=True),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "device"),
    )
    op.create_table(
        "turns",
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("model_id", "owner"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("host", sa.String(length=300), nullable=False),
        sa.Column("event", sa.String(length=30), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("owed", "delivered", "given_up", "void", name="deliverystate", native_enum=False, length=16),
            nullable=False,
        ),
        sa.Column("tried", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("held_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["state", "host", "next_try_at"], unique=False)
    op.create_index("ix_deliveries_job", "deliveries", ["job_id", "position"], unique=True)

    op.create_table(
        "hooks",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("host", sa.String(length=300), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_table(
        "delivery_tries",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("delivery_id", "number"),
    )
    op.add_column("attempts", sa.Column("device", sa.String(length=200), nullable=False, server_default=""))
    op.add_column("attempts", sa.Column("claim_id", sa.Uuid(), nullable=True))
    op.drop_index("ix_attempts_machine_state", "attempts")
    op.create_index("ix_attempts_machine_state", "attempts", ["machine_id", "state", "ended_at"], unique=False)

    op.add_column("jobs", sa.Column("rank", sa.Integer(), nullable=False, server_default="9"))
    op.execute("UPDATE jobs SET rank = 9 - priority")
    op.add_column("jobs", sa.Column("owner", sa.String(length=64), nullable=False, server_default=""))
    op.execute("INSERT INTO turns (model_id, owner) SELECT DISTINCT model_id, owner FROM jobs WHERE state = 'queued'")
    op.add_column("jobs", sa.Column("batch_id", sa.Uuid(), nullable=True))
    op.add_column("jobs", sa.Column("origin_id", sa.Uuid(), nullable=True))
    op.add_column("jobs", sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("promised_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("ix_jobs_state_model", "jobs")
    op.drop_index("ix_jobs_created", "jobs")
    op.create_index("ix_jobs_created", "jobs", ["created_at", "id"], unique=False)
    op.create_index("ix_jobs_batch", "jobs", ["batch_id"], unique=False)
    op.create_index("ix_jobs_deadline", "jobs", ["state", "deadline_at"], unique=False)
    op.create_index("ix_jobs_model_ended", "jobs", ["model_id", "state", "ended_at"], unique=False)
    op.create_index("ix_jobs_owner_state", "jobs", ["owner", "state"], unique=False)
    op.create_index("ix_jobs_waiting", "jobs", ["state", "model_id", "owner", "rank", "queued_at", "id"], unique=False)

    op.add_column("machines", sa.Column("sick", sa.Text(), nullable=True))
    op.add_column("machines", sa.Column("well_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("machines", sa.Column("previous_boot_id", sa.String(length=64), nullable=True))
    op.add_column("machines", sa.Column("twin_seen_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Go back to the one before."""
    op.drop_column("machines", "twin_seen_at")
    op.drop_column("machines", "previous_boot_id")
    op.drop_column("machines", "well_since")
    op.drop_column("machines", "sick")

    op.drop_index("ix_jobs_waiting", "jobs")
    op.drop_index("ix_jobs_owner_state", "jobs")
    op.drop_index("ix_jobs_model_ended", "jobs")
    op.drop_index("ix_jobs_deadline", "jobs")
    op.drop_index("ix_jobs_batch", "jobs")
    op.drop_index("ix_jobs_created", "jobs")
    op.create_index("ix_jobs_created", "jobs", ["created_at"], unique=False)
    op.create_index("ix_jobs_state_model", "jobs", ["state", "model_id", "priority", "queued_at"], unique=False)
    op.drop_column("jobs", "promised_at")
    op.drop_column("jobs", "deadline_at")
    op.drop_column("jobs", "origin_id")
    op.drop_column("jobs", "batch_id")
    op.drop_column("jobs", "owner")
    op.drop_column("jobs", "rank")

    op.drop_index("ix_attempts_machine_state", "attempts")
    op.create_index("ix_attempts_machine_state", "attempts", ["machine_id", "state"], unique=False)
    op.drop_column("attempts", "claim_id")
    op.drop_column("attempts", "device")

    op.drop_table("delivery_tries")
    op.drop_table("hooks")
    op.drop_index("ix_deliveries_job", "deliveries")
    op.drop_index("ix_deliveries_due", "deliveries")

    op.drop_table("deliveries")
    op.drop_table("turns")
    op.drop_table("paces")
    op.drop_index("ix_idempotency_keys_created_at", "idempotency_keys")

    op.drop_table("idempotency_keys")
    op.drop_table("heartbeats")
    op.drop_table("counters")
    # ### end Alembic commands ###
