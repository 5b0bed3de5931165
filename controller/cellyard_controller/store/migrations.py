"""From each schema to the next. A new database is made whole; an old one takes these steps in one transaction.

The steps up to 10 are SQLite's alone, the only database that there was. PostgreSQL begins with schema 10: what follows
has to be said so that both understand it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection

from cellyard_controller.store import schema


def _retention(connection: Connection) -> None:
    schema.expired.create(connection)
    connection.exec_driver_sql("ALTER TABLE event_batches ADD COLUMN in_short BOOLEAN NOT NULL DEFAULT FALSE")


def _calls_and_widgets(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE executions ADD COLUMN offers TEXT NOT NULL DEFAULT ''")
    schema.widgets.create(connection)


def _blobs(connection: Connection) -> None:
    schema.blob_uses.create(connection)  # large parts in older rows stay where they are


def _networks(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE sandboxes ADD COLUMN network TEXT NOT NULL DEFAULT 'none'")


def _asked(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE sandboxes ADD COLUMN asked TEXT NOT NULL DEFAULT ''")


def _tenants(connection: Connection) -> None:
    run = connection.exec_driver_sql
    run("ALTER TABLE notebooks ADD COLUMN labels TEXT NOT NULL DEFAULT '{}'")
    run("ALTER TABLE executions ADD COLUMN output_bytes BIGINT NOT NULL DEFAULT 0")
    run("ALTER TABLE executions ADD COLUMN stored_bytes BIGINT NOT NULL DEFAULT 0")
    run(
        "UPDATE executions SET stored_bytes = length(CAST(source AS BLOB)) + length(CAST(outputs AS BLOB))"
        " + coalesce(length(CAST(value AS BLOB)), 0)"
    )
    run("CREATE INDEX executions_by_size ON executions (notebook_key, stored_bytes)")
    run("ALTER TABLE tenants ADD COLUMN quotas TEXT NOT NULL DEFAULT '{}'")
    run("ALTER TABLE tokens ADD COLUMN token_id TEXT NOT NULL DEFAULT ''")
    run("UPDATE tokens SET token_id = lower(hex(substr(digest, 1, 6)))")  # those of old do not bear an id
    run("CREATE UNIQUE INDEX tokens_by_id ON tokens (token_id)")
    run("ALTER TABLE tokens ADD COLUMN name TEXT NOT NULL DEFAULT ''")
    run("ALTER TABLE tokens ADD COLUMN scope TEXT NOT NULL DEFAULT 'full'")
    run("ALTER TABLE tokens ADD COLUMN certificate TEXT NOT NULL DEFAULT ''")
    run("ALTER TABLE tokens ADD COLUMN expires_at FLOAT")
    run("ALTER TABLE tokens ADD COLUMN used_at FLOAT NOT NULL DEFAULT 0")
    schema.usage.create(connection)


def _made_of(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE sandboxes ADD COLUMN made_of TEXT NOT NULL DEFAULT ''")


def _library(connection: Connection) -> None:
    schema.workflows.create(connection)
    schema.artifacts.create(connection)


def _nodes(connection: Connection) -> None:
    run = connection.exec_driver_sql
    run("ALTER TABLE notebooks ADD COLUMN owner TEXT")
    run("ALTER TABLE notebooks ADD COLUMN owner_fence BIGINT NOT NULL DEFAULT 0")
    run("CREATE INDEX notebooks_by_owner ON notebooks (owner, owner_fence)")
    run("ALTER TABLE sandboxes ADD COLUMN node TEXT NOT NULL DEFAULT ''")
    for table in (schema.nodes, schema.writers, schema.blobs, schema.blob_pieces):
        table.create(connection)


STEPS: Mapping[int, Callable[[Connection], None]] = {
    1: _retention,
    2: _calls_and_widgets,
    3: _blobs,
    4: _networks,
    5: _asked,
    6: _tenants,
    7: _made_of,
    8: _library,
    9: _nodes,
}
"""By the version that a step starts from."""


def migrate(connection: Connection, version: int) -> None:
    """Brings a database from this version to the schema of this release."""
    for step in range(version, schema.SCHEMA_VERSION):
        STEPS[step](connection)
