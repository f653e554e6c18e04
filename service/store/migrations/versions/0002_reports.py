"""Reports and fitted curves of jobs, and what tells that a job has been done before.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("job") as job:
        job.add_column(sa.Column("spec_sha256", sa.String(length=64)))
        job.add_column(sa.Column("code_version", sa.String(length=64)))
        job.create_index(op.f("ix_job_spec_sha256"), ["spec_sha256"])
    op.create_table(
        "curve",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.Double(), nullable=False),
        sa.Column("outputs", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_curve_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "step", name=op.f("pk_curve")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "report",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("answers_blob", sa.String(length=64)),
        sa.Column("answers_sha256", sa.String(length=64)),
        sa.Column("answers_size", sa.BigInteger()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_report_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_report")),
        sa.UniqueConstraint("answers_blob", name=op.f("uq_report_answers_blob")),
    )


def downgrade() -> None:
    op.drop_table("report")
    op.drop_table("curve")
    with op.batch_alter_table("job") as job:
        job.drop_index(op.f("ix_job_spec_sha256"))
        job.drop_column("code_version")
        job.drop_column("spec_sha256")
