"""Sweeps: many jobs that were asked for at once.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "sweep",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("preset", sa.String(length=100)),
        sa.Column("spec", _json, nullable=False),
        sa.Column("search", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("metric", sa.String(length=64), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("metadata", _json, nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweep")),
    )
    op.create_table(
        "sweep_member",
        sa.Column("sweep_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("changes", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("parameter_count", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sweep_id"], ["sweep.id"], name=op.f("fk_sweep_member_sweep_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sweep_id", "number", name=op.f("pk_sweep_member")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("job") as job:
        job.add_column(sa.Column("sweep_id", sa.String(length=64)))
        job.create_index(
            op.f("ix_job_sweep_id_id"),
            ["sweep_id", "id"],
            sqlite_where=sa.text("sweep_id IS NOT NULL"),
            postgresql_where=sa.text("sweep_id IS NOT NULL"),
        )


def downgrade() -> None:
    with op.batch_alter_table("job") as job:
        job.drop_index(op.f("ix_job_sweep_id_id"))
        job.drop_column("sweep_id")
    op.drop_table("sweep_member")
    op.drop_table("sweep")
