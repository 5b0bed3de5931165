"""The tables of a database that is opened: made where it is new, migrated where it is old, refused where later."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, insert, select, update

from cellyard_controller import clock
from cellyard_controller.store import migrations, schema
from cellyard_controller.store.errors import StoreFailed


def prepare(connection: Connection) -> dict[str, str]:
    """Makes the tables of a new database, checks an old one's version; returns what stands in `meta`."""
    if not connection.dialect.has_table(connection, "meta"):
        schema.metadata.create_all(connection)
        connection.execute(
            insert(schema.meta),
            [
                {"key": "schema_version", "value": str(schema.SCHEMA_VERSION)},
                {"key": "controller_id", "value": uuid.uuid4().hex},
            ],
        )
    stored = {row.key: row.value for row in connection.execute(select(schema.meta))}
    version = int(stored["schema_version"])
    if version < schema.SCHEMA_VERSION:
        migrations.migrate(connection, version)
        newest = update(schema.meta).where(schema.meta.c.key == "schema_version")
        connection.execute(newest.values(value=str(schema.SCHEMA_VERSION)))
    elif version > schema.SCHEMA_VERSION:
        raise StoreFailed(
            f"the database was written by a later version (schema {version}, this one knows "
            f"{schema.SCHEMA_VERSION}): use that version or a data folder of its own"
        )
    return stored


def keep_time(connection: Connection, stored: str | None) -> None:
    """Stored deadlines are moments of the clock that was stored with them."""
    now = clock.go_on(stored)
    if stored is None:
        connection.execute(insert(schema.meta).values(key="clock", value=now))
    elif stored != now:
        connection.execute(update(schema.meta).where(schema.meta.c.key == "clock").values(value=now))
