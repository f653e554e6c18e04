"""Uploaded datasets, and feedback.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_json = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_id = sa.String(64)


def upgrade() -> None:
    op.create_table(
        "dataset",
        sa.Column("id", _id, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("preprocessing", sa.String(16)),
        sa.Column("blob", _id, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("train_examples", sa.Integer, nullable=False),
        sa.Column("test_examples", sa.Integer, nullable=False),
        sa.Column("classes", _json, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset")),
        sa.UniqueConstraint("version", name=op.f("uq_dataset_version")),
        sa.UniqueConstraint("blob", name=op.f("uq_dataset_blob")),
        sa.UniqueConstraint("name", "sha256", name=op.f("uq_dataset_name_sha256")),
    )
    op.create_table(
        "job_dataset",
        sa.Column("job_id", _id, nullable=False),
        sa.Column("dataset_id", _id, nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_job_dataset_dataset_id")),
        sa.PrimaryKeyConstraint("job_id", "dataset_id", name=op.f("pk_job_dataset")),
    )
    op.create_index(op.f("ix_job_dataset_dataset_id"), "job_dataset", ["dataset_id"])
    op.create_table(
        "feedback",
        sa.Column("id", _id, nullable=False),
        sa.Column("model_id", _id, nullable=False),
        sa.Column("preprocessing", sa.String(16), nullable=False),
        sa.Column("pixels", sa.LargeBinary, nullable=False),
        sa.Column("predicted", sa.Integer, nullable=False),
        sa.Column("confidence", sa.Double, nullable=False),
        sa.Column("label", sa.Integer),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("labelled_at", sa.Double),
        sa.CheckConstraint("label BETWEEN 0 AND 9", name=op.f("ck_feedback_label")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
    )
    op.create_index("ix_feedback_label_id", "feedback", ["label", "id"])


def downgrade() -> None:
    op.drop_table("feedback")
    op.drop_table("job_dataset")
    op.drop_table("dataset")
