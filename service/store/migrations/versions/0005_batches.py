"""Batches.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_id = sa.String(64)


def upgrade() -> None:
    op.create_table(
        "batch",
        sa.Column("id", _id, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("model_id", _id, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("preprocess", sa.String(16)),
        sa.Column("scale", sa.String(16), nullable=False),
        sa.Column("body_blob", _id),
        sa.Column("body_size", sa.BigInteger, nullable=False),
        sa.Column("results_blob", _id, nullable=False),
        sa.Column("results_rows", sa.Integer, nullable=False),
        sa.Column("results_size", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(200)),
        sa.Column("lease_until", sa.Double),
        sa.Column("error", _json),
        sa.Column("queued_at", sa.Double, nullable=False),
        sa.Column("rung_at", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.CheckConstraint(
            "state IN ('queued','running','succeeded','failed','cancelled')", name=op.f("ck_batch_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch")),
        sa.UniqueConstraint("body_blob", name=op.f("uq_batch_body_blob")),
        sa.UniqueConstraint("results_blob", name=op.f("uq_batch_results_blob")),
    )
    op.create_index("ix_batch_state_id", "batch", ["state", "id"])


def downgrade() -> None:
    op.drop_table("batch")
