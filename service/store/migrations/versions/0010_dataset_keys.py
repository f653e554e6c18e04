"""Which API key has stored a dataset, so that its bytes count against the key's quota.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("dataset") as altered:
        altered.add_column(sa.Column("key_id", sa.String(length=64)))
        altered.create_index(
            op.f("ix_dataset_key_id"),
            ["key_id"],
            sqlite_where=sa.text("key_id IS NOT NULL"),
            postgresql_where=sa.text("key_id IS NOT NULL"),
        )


def downgrade() -> None:
    with op.batch_alter_table("dataset") as altered:
        altered.drop_index(op.f("ix_dataset_key_id"))
        altered.drop_column("key_id")
