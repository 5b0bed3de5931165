"""From an old schema: what is there afterwards is what a new database has."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from cellyard_controller.store import Store
from cellyard_controller.store.schema import SCHEMA_VERSION
from cellyard_controller.tenants import records, tokens

DATA = Path(__file__).parents[2] / "data"


def tables(connection: Connection) -> dict[str, Any]:
    """Columns with type and whether they may be null, and indexes."""
    names = (
        connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")).scalars().all()
    )
    return {
        name: (
            sorted(
                (row.name, row.type, row.notnull, row.pk)
                for row in connection.execute(text(f"PRAGMA table_info({name})"))
            ),
            sorted((row.name, row.unique) for row in connection.execute(text(f"PRAGMA index_list({name})"))),
        )
        for name in names
    }


async def test_an_old_database_becomes_what_a_new_one_is(tmp_path: Path) -> None:
    shutil.copytree(DATA / "v1", tmp_path / "old")
    new = Store.open(tmp_path / "new.sqlite")
    old = Store.open(tmp_path / "old" / "cellyard.sqlite")
    try:
        assert await old.read(tables) == await new.read(tables)
        stored = text("SELECT value FROM meta WHERE key = 'schema_version'")
        assert await old.read(lambda c: c.execute(stored).scalar()) == str(SCHEMA_VERSION)
        (alice,) = await old.read(records.listed)
        assert (alice.name, alice.tokens, alice.quotas) == ("alice", 1, {})
        ((digest, token),) = (await old.read(tokens.stored)).items()
        assert (token.token_id, token.scope, token.expires_at) == (digest.hex()[:12], "full", None)
        sizes = text("SELECT stored_bytes, length(source), length(outputs) FROM executions")
        rows = (await old.read(lambda c: c.execute(sizes).all())) or [(0, 0, 0)]
        assert all(stored >= source + outputs > 0 for stored, source, outputs in rows)
    finally:
        old.close()
        new.close()
