"""From each schema to the next. A new database is made whole; an old one takes these steps in one transaction."""

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


STEPS: Mapping[int, Callable[[Connection], None]] = {
    1: _retention,
    2: _calls_and_widgets,
    3: _blobs,
    4: _networks,
    5: _asked,
}
"""By the version that a step starts from."""


def migrate(connection: Connection, version: int) -> None:
    """Brings a database from this version to the schema of this release."""
    for step in range(version, schema.SCHEMA_VERSION):
        STEPS[step](connection)
