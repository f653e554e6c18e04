"""Which API key a batch is of, so that its bytes count against the key's quota.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("batch") as altered:
        altered.add_column(sa.Column("key_id", sa.String(length=64)))
        altered.create_index(
            op.f("ix_batch_key_id"),
            ["key_id"],
            sqlite_where=sa.text("key_id IS NOT NULL"),
            postgresql_where=sa.text("key_id IS NOT NULL"),
        )


def downgrade() -> None:
    with op.batch_alter_table("batch") as altered:
        altered.drop_index(op.f("ix_batch_key_id"))
        altered.drop_column("key_id")
