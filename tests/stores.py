"""Where a test's store is: in SQLite's file, or in a PostgreSQL database, with its large parts as files or as rows."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from sqlalchemy import Connection

from cellyard_controller.store import Store, places
from tests.postgres_server import PostgresServer

KINDS = ("sqlite", "postgresql", "rows")
"""`rows`: PostgreSQL, large parts too."""


class Ground:
    """A place for a store, that can be opened time and again. It is empty at first; `close` it."""

    def __init__(self, kind: str, server: PostgresServer | None = None) -> None:
        """`server`: where the database is made, unless the kind is `sqlite`."""
        self.folder = Path(tempfile.mkdtemp(prefix="cy"))
        self.kind, self._server, self.url = kind, server, ""
        blobs = self.folder / "blobs"
        if kind == "sqlite":
            self.place: places.Place = places.SqliteFile(self.folder / "db.sqlite", blobs)
        else:
            assert server is not None
            self.url = server.create()
            self.place = places.Postgres(self.url, self.folder / "spool", None if kind == "rows" else blobs)

    def open(self) -> Store:
        """A store on it."""
        return Store.open(self.place)

    def close(self) -> None:
        """Removes what is left, whoever has it open."""
        if self._server is not None and self.url:
            self._server.drop(self.url)
        shutil.rmtree(self.folder)


def kept_digests(store: Store) -> set[str]:
    """The large parts that a store keeps."""
    with store._database.reading() as connection:
        return _digests(store, connection)


def _digests(store: Store, connection: Connection) -> set[str]:
    return {digest for prefix in store.blobs.prefixes() for digest in store.blobs.stored(connection, prefix)}
