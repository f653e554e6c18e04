"""The tables. Times are seconds since 1970 by the database's clock; JSON is JSONB on PostgreSQL."""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import BigInteger

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_id = String(64)

job = Table(
    "job",
    metadata,
    Column("id", _id, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("preset", String(100)),
    Column("spec", _json, nullable=False),
    Column("parameter_count", BigInteger, nullable=False),
    Column("queue", String(16), nullable=False),
    Column("priority", Integer, nullable=False),  # 0 goes first, 9 last
    Column("metadata", _json, nullable=False),
    Column("attempt", Integer, nullable=False, default=0),  # the fence: raised by each claim
    Column("crashes", Integer, nullable=False, default=0),  # workers lost; graceful hand-backs do not count
    Column("max_attempts", Integer, nullable=False),
    Column("worker", String(200)),
    Column("device", String(100)),
    Column("lease_until", Double),
    Column("last_progress_at", Double),
    Column("runtime_seconds", Double, nullable=False, default=0.0),  # of the attempts that ended
    Column("progress", _json),
    Column("metrics", _json, nullable=False),  # newest value of each
    Column("error", _json),
    Column("model_id", _id),
    Column("weights_sha256", String(64)),
    Column("dataset_sha256", String(64)),
    Column("spec_sha256", String(64)),  # of the canonical spec
    Column("code_version", String(64)),  # of the engine that trained it to its end
    Column("sweep_id", _id),
    Column("key_id", _id),  # of the API key that asked for it
    Column("last_event", Integer, nullable=False, default=0),
    Column("queued_at", Double, nullable=False),
    Column("rung_at", Double),  # when its message was last sent again
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("deleted_at", Double),
    Column("request_id", String(128)),  # of the request that asked for it
    Column("traceparent", String(55)),  # and where that stood in its trace
    CheckConstraint(
        "state IN ('queued','running','cancelling','pausing','paused','succeeded','failed','cancelled')",
        name="state",
    ),
    Index("ix_job_state_priority_id", "state", "priority", "id"),
    Index("ix_job_state_id", "state", "id"),
    Index("ix_job_preset_id", "preset", "id"),
    Index("ix_job_spec_sha256", "spec_sha256"),
    Index(
        "ix_job_sweep_id_id",
        "sweep_id",
        "id",
        sqlite_where=text("sweep_id IS NOT NULL"),
        postgresql_where=text("sweep_id IS NOT NULL"),
    ),
    Index(
        "ix_job_key_id_state",
        "key_id",
        "state",
        sqlite_where=text("key_id IS NOT NULL"),
        postgresql_where=text("key_id IS NOT NULL"),
    ),
    Index(
        "ix_job_deleted_at",
        "deleted_at",
        sqlite_where=text("deleted_at IS NOT NULL"),
        postgresql_where=text("deleted_at IS NOT NULL"),
    ),
)

sweep = Table(  # its state is that of its members
    "sweep",
    metadata,
    Column("id", _id, primary_key=True),
    Column("preset", String(100)),
    Column("spec", _json, nullable=False),  # the base, with every default spelt out
    Column(
        "search", JSON(none_as_null=True), nullable=False
    ),  # as asked for; JSONB would order its keys anew
    Column("metric", String(64), nullable=False),  # by which its members are ranked if nothing else is said
    Column("priority", Integer, nullable=False),  # that its jobs began with
    Column("metadata", _json, nullable=False),
    Column("size", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
)

sweep_member = Table(  # stays when its job is deleted
    "sweep_member",
    metadata,
    Column("sweep_id", _id, ForeignKey("sweep.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),  # from 0
    Column("job_id", _id, nullable=False),
    Column("changes", JSON(none_as_null=True), nullable=False),  # to the base, by field
    Column("parameter_count", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

event = Table(
    "event",
    metadata,
    Column("job_id", _id, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("type", String(16), nullable=False),
    Column("data", _json, nullable=False),
    Column("time", Double, nullable=False),
    sqlite_with_rowid=False,
)

metric = Table(
    "metric",
    metadata,
    Column("job_id", _id, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("epoch", Double, nullable=False),
    Column("value", Double, nullable=False),
    Column("time", Double, nullable=False),
    sqlite_with_rowid=False,
)

curve = Table(  # what a regression predicts over its test grid, each time figures are taken
    "curve",
    metadata,
    Column("job_id", _id, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("epoch", Double, nullable=False),
    Column("outputs", LargeBinary, nullable=False),  # float32, little-endian, one a grid point
    sqlite_with_rowid=False,
)

report = Table(  # the evaluation of a finished job
    "report",
    metadata,
    Column("job_id", _id, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("data", JSON(none_as_null=True), nullable=False),  # JSONB would order its keys anew
    Column("answers_blob", _id, unique=True),  # what it said of each test example; classifications only
    Column("answers_sha256", String(64)),
    Column("answers_size", BigInteger),
    Column("created_at", Double, nullable=False),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("id", _id, primary_key=True),
    Column("job_id", _id, ForeignKey("job.id", ondelete="SET NULL"), index=True),
    Column("attempt", Integer, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("epoch", Double, nullable=False),
    Column("reason", String(16), nullable=False),  # scheduled, final, paused, released
    Column("metrics", _json, nullable=False),
    Column("spec", _json, nullable=False),
    Column("bad", Boolean, nullable=False, default=False),
    Column("weights_blob", _id, nullable=False, unique=True),
    Column("weights_sha256", String(64), nullable=False),
    Column("weights_size", BigInteger, nullable=False),
    Column("state_blob", _id, unique=True),
    Column("state_sha256", String(64)),
    Column("state_size", BigInteger),
    Column("key_id", _id),  # as of its job, which may be deleted
    Column("created_at", Double, nullable=False),
    Index(
        "ix_checkpoint_key_id",
        "key_id",
        sqlite_where=text("key_id IS NOT NULL"),
        postgresql_where=text("key_id IS NOT NULL"),
    ),
)

chunk = Table(
    "chunk",
    metadata,
    Column("blob_id", _id, primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

batch = Table(  # images that are read in the background
    "batch",
    metadata,
    Column("id", _id, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("model_id", _id, nullable=False),
    Column("kind", String(16), nullable=False),  # of its body: lines, pixels, archive
    Column("preprocess", String(16)),
    Column("scale", String(16), nullable=False),
    Column("body_blob", _id, unique=True),  # none once it has ended
    Column("body_size", BigInteger, nullable=False),
    Column("results_blob", _id, nullable=False, unique=True),
    Column("results_rows", Integer, nullable=False, default=0),
    Column("results_size", BigInteger, nullable=False, default=0),
    Column("total", BigInteger, nullable=False),  # images
    Column("done", BigInteger, nullable=False, default=0),  # answered, errors among them
    Column("errors", BigInteger, nullable=False, default=0),
    Column("attempt", Integer, nullable=False, default=0),  # the fence: raised by each claim
    Column("crashes", Integer, nullable=False, default=0),  # workers lost; graceful hand-backs do not count
    Column("max_attempts", Integer, nullable=False),
    Column("worker", String(200)),
    Column("lease_until", Double),
    Column("error", _json),
    Column("key_id", _id),  # of the API key that asked for it
    Column("queued_at", Double, nullable=False),
    Column("rung_at", Double),  # when its message was last sent again
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("request_id", String(128)),  # as of a job
    Column("traceparent", String(55)),
    CheckConstraint("state IN ('queued','running','succeeded','failed','cancelled')", name="state"),
    Index("ix_batch_state_id", "state", "id"),
    Index(
        "ix_batch_key_id",
        "key_id",
        sqlite_where=text("key_id IS NOT NULL"),
        postgresql_where=text("key_id IS NOT NULL"),
    ),
)

dataset = Table(  # that somebody uploaded, or made of feedback; it never changes
    "dataset",
    metadata,
    Column("id", _id, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False, unique=True),
    Column("source", String(16), nullable=False),  # idx, npz, pictures, feedback
    Column("preprocessing", String(16)),  # of pictures: what made pixels of them
    Column("blob", _id, nullable=False, unique=True),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("train_examples", Integer, nullable=False),
    Column("test_examples", Integer, nullable=False),
    Column("classes", _json, nullable=False),  # examples of each label, by part
    Column("created_at", Double, nullable=False),
    Column("key_id", _id),  # of the API key that stored it
    UniqueConstraint("name", "sha256"),
    Index(
        "ix_dataset_key_id",
        "key_id",
        sqlite_where=text("key_id IS NOT NULL"),
        postgresql_where=text("key_id IS NOT NULL"),
    ),
)

job_dataset = Table(  # what a job learns from; it stays while its model does, also when the job is deleted
    "job_dataset",
    metadata,
    Column("job_id", _id, primary_key=True),
    Column("dataset_id", _id, ForeignKey("dataset.id"), primary_key=True, index=True),
)

feedback = Table(  # images that were read and kept on request
    "feedback",
    metadata,
    Column("id", _id, primary_key=True),
    Column("model_id", _id, nullable=False),
    Column("preprocessing", String(16), nullable=False),
    Column("pixels", LargeBinary, nullable=False),  # the 784 that the network saw
    Column("predicted", Integer, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("label", Integer),  # what it is, as somebody said
    Column("created_at", Double, nullable=False),
    Column("labelled_at", Double),
    CheckConstraint("label BETWEEN 0 AND 9", name="label"),
    Index("ix_feedback_label_id", "label", "id"),
)

model = Table(
    "model",
    metadata,
    Column("id", _id, primary_key=True),
    Column("version", Integer, nullable=False, unique=True),
    Column("task", String(16), nullable=False),
    Column("job_id", _id, nullable=False, index=True),
    Column("checkpoint_id", _id, ForeignKey("checkpoint.id"), nullable=False, index=True),
    Column("preset", String(100)),
    Column("spec", _json, nullable=False),
    Column("parameter_count", BigInteger, nullable=False),
    Column("preprocessing", String(16), nullable=False),
    Column("metrics", _json, nullable=False),
    Column("calibration", _json),
    Column("quantized", _json),
    Column("weights_sha256", String(64), nullable=False),
    Column("dataset_sha256", String(64), nullable=False),
    Column("provenance", _json, nullable=False),  # device, seed, versions of code and libraries
    Column("created_at", Double, nullable=False),
    Index("ix_model_task_version", "task", "version"),
)

alias = Table(
    "alias",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("seq", Integer, nullable=False),  # the entry of its history in force
    Column("model_id", _id, ForeignKey("model.id"), nullable=False),
    Column("updated_at", Double, nullable=False),
)

alias_history = Table(
    "alias_history",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("model_id", _id, ForeignKey("model.id"), nullable=False),
    Column("action", String(16), nullable=False),  # set, rollback
    Column("before", Integer),  # the entry that a rollback from here returns to
    Column("time", Double, nullable=False),
)

counter = Table(
    "counter",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Integer, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key", String(320), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("answer", JSON(none_as_null=True), nullable=False),  # JSONB would order its keys anew
    Column("created_at", Double, nullable=False, index=True),
)

worker = Table(
    "worker",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("queues", Text, nullable=False),  # comma-separated
    Column("device", String(100), nullable=False),
    Column("job_id", _id),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("figures", _json),  # what it has counted since it began, and its GPU
)

api_key = Table(  # of a key's text only the id, with which it begins, and a digest
    "api_key",
    metadata,
    Column("id", _id, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("digest", LargeBinary, nullable=False),  # SHA-256
    Column("scopes", String(100), nullable=False),  # comma-separated
    Column("max_queued_jobs", Integer),  # null: as the settings have it
    Column("max_stored_bytes", BigInteger),
    Column("requests_per_minute", Integer),
    Column("created_at", Double, nullable=False),
    Column("last_used_at", Double),  # to the minute
    Column("expires_at", Double),
    Column("revoked_at", Double),
)

setback = Table(  # how often what went wrong with jobs and batches; outlives them
    "setback",
    metadata,
    Column("kind", String(16), primary_key=True),  # job, batch
    Column("becomes", String(16), primary_key=True),  # the state that it left behind
    Column(
        "cause", String(64), primary_key=True
    ),  # of a lease that is lost or given back, or the code of a failure
    Column("count", BigInteger, nullable=False),
)
