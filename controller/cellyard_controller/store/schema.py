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
    text,
)

SCHEMA_VERSION = 10

metadata = MetaData()

# Compared by their characters, as SQLite does it, whatever language the server's administrator speaks.
_Words = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite counts rows by itself only under this type of its own, in which every integer has room.
_Counted = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("key", _Words, primary_key=True),
    Column("value", _Words, nullable=False),
)

notebooks = Table(
    "notebooks",
    metadata,
    Column("key", _Counted, primary_key=True),
    Column("tenant", _Words, nullable=False),
    Column("notebook_id", _Words, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    # What kernel is wanted or runs: settings as JSON, sealed, because they may carry secrets.
    Column("kernel_settings", LargeBinary),
    # Why the last kernel ended.
    Column("kernel_end", _Words, nullable=False, default=""),
    # The user's own, a JSON object of texts.
    Column("labels", _Words, nullable=False, default="{}"),
    # The node that has it, or had it last.
    Column("owner", _Words),
    # That node's fence when it got it; 0 where nobody has it.
    Column("owner_fence", BigInteger, nullable=False, default=0, server_default="0"),
    UniqueConstraint("tenant", "notebook_id"),
    Index("notebooks_by_owner", "owner", "owner_fence"),
)

# A document is its chunks in order: one saved document, then changes. Automerge loads them concatenated.
document_chunks = Table(
    "document_chunks",
    metadata,
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("chunk", LargeBinary, nullable=False),
)

_UNFINISHED = text("state != 'ended'")

executions = Table(
    "executions",
    metadata,
    Column("ordinal", _Counted, primary_key=True),  # in the order of acceptance
    Column("execution_id", _Words, nullable=False, unique=True),
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), nullable=False),
    Column("cell_id", _Words, nullable=False),
    Column("session_id", _Words, nullable=False),
    Column("source", _Words, nullable=False),
    Column("timeout_s", Float),
    Column("start_deadline", Float, nullable=False),
    Column("stop_on_error", Boolean, nullable=False),
    Column("state", _Words, nullable=False),
    Column("end_wanted", _Words, nullable=False, default=""),
    Column("end", _Words, nullable=False, default=""),
    Column("end_reason", _Words, nullable=False, default=""),
    Column("end_message", _Words, nullable=False, default=""),
    Column("execution_count", Integer, nullable=False, default=0),
    Column("accepted_at", Float, nullable=False),
    Column("started_at", Float, nullable=False, default=0.0),
    Column("ended_at", Float, nullable=False, default=0.0),
    Column("last_seq", Integer, nullable=False, default=0),
    Column("outputs", _Words, nullable=False, default="[]"),
    Column("value", _Words),  # tagged JSON, as the kernel gave it
    Column("value_is_repr", Boolean, nullable=False, default=False),
    Column("cpu_s", Float, nullable=False, default=0.0),
    Column("peak_memory_bytes", BigInteger, nullable=False, default=0),
    Column("wall_s", Float, nullable=False, default=0.0),
    # What its client offers to the code, and how it wants it run, as JSON; empty for nothing but the usual.
    Column("offers", _Words, nullable=False, default=""),
    # What it has shown, in characters, whatever became of it.
    Column("output_bytes", BigInteger, nullable=False, default=0),
    # Of its source, outputs and value, once it has ended; large parts of outputs are counted as files.
    Column("stored_bytes", BigInteger, nullable=False, default=0),
    Index("executions_by_notebook", "notebook_key", "ordinal"),
    # All that a tenant's sum needs: the rows themselves may be long.
    Index("executions_by_size", "notebook_key", "stored_bytes"),
    Index("executions_by_cell", "notebook_key", "cell_id", "ordinal"),
    Index("executions_unfinished", "state", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
)

# Events in the batches in which they were committed.
event_batches = Table(
    "event_batches",
    metadata,
    Column("execution_id", ForeignKey("executions.execution_id", ondelete="CASCADE"), primary_key=True),
    Column("last_seq", Integer, primary_key=True),
    Column("events", _Words, nullable=False),
    # The only batch of an execution that ended some time ago: its events folded.
    Column("in_short", Boolean, nullable=False, default=False),
)

# Which large parts (files under their hash) the outputs and events of an execution refer to.
blob_uses = Table(
    "blob_uses",
    metadata,
    Column("execution_id", ForeignKey("executions.execution_id", ondelete="CASCADE"), primary_key=True),
    Column("digest", _Words, primary_key=True),
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), nullable=False),
    Index("blob_uses_by_digest", "digest", "notebook_key"),
    Index("blob_uses_by_notebook", "notebook_key"),
)

# Executions that are no longer kept, so that their ids can say so.
expired = Table(
    "expired",
    metadata,
    Column("execution_id", _Words, primary_key=True),
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), nullable=False),
    Column("at", Float, nullable=False),
)

# Under which ids an execution displays something that another cell may update.
displays = Table(
    "displays",
    metadata,
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), primary_key=True),
    Column("display_id", _Words, primary_key=True),
    Column("execution_id", ForeignKey("executions.execution_id", ondelete="CASCADE"), primary_key=True),
)

# Widgets of a notebook's last kernel, as far as its front ends were told: what an exported notebook shows of them.
widgets = Table(
    "widgets",
    metadata,
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="CASCADE"), primary_key=True),
    Column("comm_id", _Words, primary_key=True),
    Column("kernel", _Words, nullable=False),  # sandbox and generation
    Column("state", _Words, nullable=False),
)

# What code mode keeps for a tenant. A workspace is a part of it with a name; the one without has the empty name.
workflows = Table(
    "workflows",
    metadata,
    Column("tenant", _Words, primary_key=True),
    Column("workspace", _Words, primary_key=True),
    Column("name", _Words, primary_key=True),
    # Of all that follows.
    Column("stored_bytes", BigInteger, nullable=False),
    Column("changed_at", Float, nullable=False),
    # As it was given; empty where the source's own is meant.
    Column("description", _Words, nullable=False),
    # What was read in the source: description and parameters, tagged JSON.
    Column("summary", _Words, nullable=False),
    Column("source", _Words, nullable=False),
    # All that a tenant's sum needs: the rows themselves may be long.
    Index("workflows_by_size", "tenant", "stored_bytes"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("tenant", _Words, primary_key=True),
    Column("workspace", _Words, primary_key=True),
    Column("name", _Words, primary_key=True),
    Column("type", _Words, nullable=False),
    # The content is the file of this name.
    Column("digest", _Words, nullable=False),
    Column("size", BigInteger, nullable=False),
    # Of name, description and metadata.
    Column("stored_bytes", BigInteger, nullable=False),
    # When it was written last.
    Column("created_at", Float, nullable=False),
    Column("description", _Words, nullable=False),
    # A JSON object.
    Column("metadata", _Words, nullable=False),
    Index("artifacts_by_digest", "digest"),
    # All that a tenant's sums need.
    Index("artifacts_by_size", "tenant", "digest", "size", "stored_bytes"),
)

requests = Table(
    "requests",
    metadata,
    Column("tenant", _Words, primary_key=True),
    Column("request_id", _Words, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("answer", _Words, nullable=False),
    Column("at", Float, nullable=False, index=True),
)

sandboxes = Table(
    "sandboxes",
    metadata,
    Column("sandbox_id", _Words, primary_key=True),
    Column("runtime", _Words, nullable=False),
    Column("template", _Words, nullable=False),
    Column("network", _Words, nullable=False, default="none"),
    Column("instance_id", _Words, nullable=False, default="", index=True),
    Column("uid", Integer, nullable=False),
    Column("state", _Words, nullable=False),
    Column("notebook_key", ForeignKey("notebooks.key", ondelete="SET NULL")),
    Column("kernel_type", _Words, nullable=False, default=""),
    Column("env_source", _Words, nullable=False, default=""),
    Column("capabilities", _Words, nullable=False, default="[]"),
    Column("created_at", Float, nullable=False),
    Column("claimed_at", Float, nullable=False, default=0.0),
    Column("ended_at", Float, nullable=False, default=0.0),
    Column("end_reason", _Words, nullable=False, default=""),
    # Counts its kernels; a restart adds one.
    Column("generation", Integer, nullable=False, default=0),
    # The last event of its agent that is committed.
    Column("committed_number", BigInteger, nullable=False, default=0),
    # The template as it was when the sandbox was made: the operator may define it anew meanwhile.
    Column("asked", _Words, nullable=False, default=""),
    # What its runtime made it of: an image may be replaced meanwhile.
    Column("made_of", _Words, nullable=False, default=""),
    # The node whose controller made it; empty where a controller is alone with its database.
    Column("node", _Words, nullable=False, default="", server_default=""),
)

tenants = Table(
    "tenants",
    metadata,
    Column("name", _Words, primary_key=True),
    Column("created_at", Float, nullable=False),
    # The quotas that were set for it, a JSON object; null is unlimited, what is missing the configuration's default.
    Column("quotas", _Words, nullable=False, default="{}"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("digest", LargeBinary, primary_key=True),  # SHA-256 of the token
    Column("tenant", ForeignKey("tenants.name", ondelete="CASCADE"), nullable=False),
    Column("created_at", Float, nullable=False),
    # What people call it by; no secret.
    Column("token_id", _Words, nullable=False),
    Column("name", _Words, nullable=False, default=""),
    Column("scope", _Words, nullable=False, default="full"),
    # Of a client's certificate, without which the token is void; empty for any connection.
    Column("certificate", _Words, nullable=False, default=""),
    Column("expires_at", Float),
    # Its last use, to the minute.
    Column("used_at", Float, nullable=False, default=0.0),
    Index("tokens_by_id", "token_id", unique=True),
)

# What tenants used, by the day (UTC) on which executions ended. It outlives executions, notebooks and tenants.
usage = Table(
    "usage",
    metadata,
    Column("tenant", _Words, primary_key=True),
    Column("day", _Words, primary_key=True),  # 2024-02-29
    Column("executions", BigInteger, nullable=False),
    Column("cpu_s", Float, nullable=False),
    Column("wall_s", Float, nullable=False),
    Column("peak_memory_bytes", BigInteger, nullable=False),
    Column("output_bytes", BigInteger, nullable=False),
)

# The controllers that share the database. Empty where one is alone with it.
nodes = Table(
    "nodes",
    metadata,
    Column("name", _Words, primary_key=True),
    Column("controller_id", _Words, nullable=False),
    # Counts up whenever the name is taken, and when it is taken away.
    Column("fence", BigInteger, nullable=False),
    # HOST:PORT that clients reach its controller at.
    Column("endpoint", _Words, nullable=False),
    Column("state", _Words, nullable=False),  # serving, draining, away or lost
    # By the database's clock.
    Column("expires_at", Float, nullable=False),
    # What placement reads, JSON.
    Column("report", _Words, nullable=False),
    Column("access_version", BigInteger, nullable=False, default=0, server_default="0"),
)

# What each writer has committed last: how it finds out what became of a commit that got no answer.
writers = Table(
    "writers",
    metadata,
    Column("writer", _Words, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("at", Float, nullable=False),  # by the database's clock
)

# Large parts of outputs, and artifacts, where they are kept in the database, and not as files.
blobs = Table(
    "blobs",
    metadata,
    Column("digest", _Words, primary_key=True),
    Column("size", BigInteger, nullable=False),
)

blob_pieces = Table(
    "blob_pieces",
    metadata,
    Column("digest", ForeignKey("blobs.digest", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
