"""What a model's form of bytes did beside its float32 self.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("model") as model:
        model.add_column(sa.Column("quantized", _json))


def downgrade() -> None:
    with op.batch_alter_table("model") as model:
        model.drop_column("quantized")
