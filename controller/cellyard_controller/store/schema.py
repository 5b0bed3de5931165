"""The tables. Times are seconds since the epoch, JSON is text."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 9

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

notebooks = Table(
    "notebooks",
    metadata,
    Column("key", Integer, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("notebook_id", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    # What kernel is wanted or runs: settings as JSON, sealed, because they may carry secrets.
    Column("kernel_settings", LargeBinary),
    # Why the last kernel ended.
    Column("kernel_end", Text, nullable=False, default=""),
    # The user's own, a JSON object of texts.
    Column("labels", Text, nullable=False, default="{}"),
    UniqueConstraint("tenant", "notebook_id"),
)

# A document is its chunks in order: one saved document, then changes. Automerge loads them concatenated.
document_chunks = Table(
    "document_chunks",
    metadata,
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("chunk", LargeBinary, nullable=False),
)

executions = Table(
    "executions",
    metadata,
    Column("ordinal", Integer, primary_key=True),  # in the order of acceptance
    Column("execution_id", Text, nullable=False, unique=True),
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), nullable=False),
    Column("cell_id", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("timeout_s", Float),
    Column("start_deadline", Float, nullable=False),
    Column("stop_on_error", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("end_wanted", Text, nullable=False, default=""),
    Column("end", Text, nullable=False, default=""),
    Column("end_reason", Text, nullable=False, default=""),
    Column("end_message", Text, nullable=False, default=""),
    Column("execution_count", Integer, nullable=False, default=0),
    Column("accepted_at", Float, nullable=False),
    Column("started_at", Float, nullable=False, default=0.0),
    Column("ended_at", Float, nullable=False, default=0.0),
    Column("last_seq", Integer, nullable=False, default=0),
    Column("outputs", Text, nullable=False, default="[]"),
    Column("value", Text),  # tagged JSON, as the kernel gave it
    Column("value_is_repr", Boolean, nullable=False, default=False),
    Column("cpu_s", Float, nullable=False, default=0.0),
    Column("peak_memory_bytes", BigInteger, nullable=False, default=0),
    Column("wall_s", Float, nullable=False, default=0.0),
    # What its client offers to the code, as JSON; empty for nothing.
    Column("offers", Text, nullable=False, default=""),
    # What it has shown, in characters, whatever became of it.
    Column("output_bytes", BigInteger, nullable=False, default=0),
    # Of its source, outputs and value, once it has ended; large parts of outputs are counted as files.
    Column("stored_bytes", BigInteger, nullable=False, default=0),
    Index("executions_by_notebook", "notebook_key", "ordinal"),
    # All that a tenant's sum needs: the rows themselves may be long.
    Index("executions_by_size", "notebook_key", "stored_bytes"),
    Index("executions_by_cell", "notebook_key", "cell_id", "ordinal"),
    Index("executions_unfinished", "state", sqlite_where=Column("state") != "ended"),
)

# Events in the batches in which they were committed.
event_batches = Table(
    "event_batches",
    metadata,
    Column("execution_id", ForeignKey("executions.execution_id", ondelete="CASCADE"), primary_key=True),
    Column("last_seq", Integer, primary_key=True),
    Column("events", Text, nullable=False),
    # The only batch of an execution that ended some time ago: its events folded.
    Column("in_short", Boolean, nullable=False, default=False),
)

# Which large parts (files under their hash) the outputs and events of an execution refer to.
blob_uses = Table(
    "blob_uses",
    metadata,
    Column("execution_id", ForeignKey("executions.execution_id", ondelete="CASCADE"), primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), nullable=False),
    Index("blob_uses_by_digest", "digest", "notebook_key"),
    Index("blob_uses_by_notebook", "notebook_key"),
)

# Executions that are no longer kept, so that their ids can say so.
expired = Table(
    "expired",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), nullable=False),
    Column("at", Float, nullable=False),
)

# Under which ids an execution displays something that another cell may update.
displays = Table(
    "displays",
    metadata,
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), primary_key=True),
    Column("display_id", Text, primary_key=True),
    Column("execution_id", ForeignKey("executions.execution_id", ondelete="CASCADE"), primary_key=True),
)

# Widgets of a notebook's last kernel, as far as its front ends were told: what an exported notebook shows of them.
widgets = Table(
    "widgets",
    metadata,
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), primary_key=True),
    Column("comm_id", Text, primary_key=True),
    Column("kernel", Text, nullable=False),  # sandbox and generation
    Column("state", Text, nullable=False),
)

# What code mode keeps for a tenant. A workspace is a part of it with a name; the one without has the empty name.
workflows = Table(
    "workflows",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("workspace", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    # Of all that follows.
    Column("stored_bytes", BigInteger, nullable=False),
    Column("changed_at", Float, nullable=False),
    # As it was given; empty where the source's own is meant.
    Column("description", Text, nullable=False),
    # What was read in the source: description and parameters, tagged JSON.
    Column("summary", Text, nullable=False),
    Column("source", Text, nullable=False),
    # All that a tenant's sum needs: the rows themselves may be long.
    Index("workflows_by_size", "tenant", "stored_bytes"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("workspace", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("type", Text, nullable=False),
    # The content is the file of this name.
    Column("digest", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    # Of name, description and metadata.
    Column("stored_bytes", BigInteger, nullable=False),
    # When it was written last.
    Column("created_at", Float, nullable=False),
    Column("description", Text, nullable=False),
    # A JSON object.
    Column("metadata", Text, nullable=False),
    Index("artifacts_by_digest", "digest"),
    # All that a tenant's sums need.
    Index("artifacts_by_size", "tenant", "digest", "size", "stored_bytes"),
)

requests = Table(
    "requests",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("answer", Text, nullable=False),
    Column("at", Float, nullable=False, index=True),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("sandbox_id", Text, primary_key=True),
    Column("runtime", Text, nullable=False),
    Column("template", Text, nullable=False),
    Column("network", Text, nullable=False, default="none"),
    Column("instance_id", Text, nullable=False, default="", index=True),
    Column("uid", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="SET NULL")),
    Column("kernel_type", Text, nullable=False, default=""),
    Column("env_source", Text, nullable=False, default=""),
    Column("capabilities", Text, nullable=False, default="[]"),
    Column("created_at", Float, nullable=False),
    Column("claimed_at", Float, nullable=False, default=0.0),
    Column("ended_at", Float, nullable=False, default=0.0),
    Column("end_reason", Text, nullable=False, default=""),
    # Counts its kernels; a restart adds one.
    Column("generation", Integer, nullable=False, default=0),
    # The last event of its agent that is committed.
    Column("committed_number", BigInteger, nullable=False, default=0),
    # The template as it was when the sandbox was made: the operator may define it anew meanwhile.
    Column("asked", Text, nullable=False, default=""),
    # What its runtime made it of: an image may be replaced meanwhile.
    Column("made_of", Text, nullable=False, default=""),
)

tenants = Table(
    "tenants",
    metadata,
    Column("name", Text, primary_key=True),
    Column("created_at", Float, nullable=False),
    # The quotas that were set for it, a JSON object; null is unlimited, what is missing the configuration's default.
    Column("quotas", Text, nullable=False, default="{}"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("digest", LargeBinary, primary_key=True),  # SHA-256 of the token
    Column("tenant", ForeignKey("tenants.name", ondelete="CASCADE"), nullable=False),
    Column("created_at", Float, nullable=False),
    # What people call it by; no secret.
    Column("token_id", Text, nullable=False),
    Column("name", Text, nullable=False, default=""),
    Column("scope", Text, nullable=False, default="full"),
    # Of a client's certificate, without which the token is void; empty for any connection.
    Column("certificate", Text, nullable=False, default=""),
    Column("expires_at", Float),
    # Its last use, to the minute.
    Column("used_at", Float, nullable=False, default=0.0),
    Index("tokens_by_id", "token_id", unique=True),
)

# What tenants used, by the day (UTC) on which executions ended. It outlives executions, notebooks and tenants.
usage = Table(
    "usage",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("day", Text, primary_key=True),  # 2024-02-29
    Column("executions", BigInteger, nullable=False),
    Column("cpu_s", Float, nullable=False),
    Column("wall_s", Float, nullable=False),
    Column("peak_memory_bytes", BigInteger, nullable=False),
    Column("output_bytes", BigInteger, nullable=False),
)
