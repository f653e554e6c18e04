"""API keys, and which of them a job and its checkpoints are of.

Revision ID: 0006
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.String(length=100), nullable=False),
        sa.Column("max_queued_jobs", sa.Integer()),
        sa.Column("max_stored_bytes", sa.BigInteger()),
        sa.Column("requests_per_minute", sa.Integer()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("last_used_at", sa.Double()),
        sa.Column("expires_at", sa.Double()),
        sa.Column("revoked_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
    )
    for table, columns in (("job", ["key_id", "state"]), ("checkpoint", ["key_id"])):
        with op.batch_alter_table(table) as altered:
            altered.add_column(sa.Column("key_id", sa.String(length=64)))
            altered.create_index(
                op.f(f"ix_{table}_{'_'.join(columns)}"),
                columns,
                sqlite_where=sa.text("key_id IS NOT NULL"),
                postgresql_where=sa.text("key_id IS NOT NULL"),
            )


def downgrade() -> None:
    for table, name in (("checkpoint", "ix_checkpoint_key_id"), ("job", "ix_job_key_id_state")):
        with op.batch_alter_table(table) as altered:
            altered.drop_index(op.f(name))
            altered.drop_column("key_id")
    op.drop_table("api_key")
