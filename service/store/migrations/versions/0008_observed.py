"""What an operator sees: setbacks of jobs and batches, figures of workers, and which request asked for what.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "setback",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("becomes", sa.String(length=16), nullable=False),
        sa.Column("cause", sa.String(length=64), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "becomes", "cause", name=op.f("pk_setback")),
    )
    with op.batch_alter_table("worker") as worker:
        worker.add_column(sa.Column("figures", _json))
    for table in ("job", "batch"):
        with op.batch_alter_table(table) as altered:
            altered.add_column(sa.Column("request_id", sa.String(length=128)))
            altered.add_column(sa.Column("traceparent", sa.String(length=55)))


def downgrade() -> None:
    for table in ("batch", "job"):
        with op.batch_alter_table(table) as altered:
            altered.drop_column("traceparent")
            altered.drop_column("request_id")
    with op.batch_alter_table("worker") as worker:
        worker.drop_column("figures")
    op.drop_table("setback")
