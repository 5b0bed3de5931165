"""Statements that go to the driver as they are: the same rows and the same errors as through SQLAlchemy."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from cellyard_controller.store import Store
from cellyard_controller.store.hot import Hot
from cellyard_controller.store.schema import notebooks, sandboxes

ADD = Hot(insert(notebooks), ("tenant", "notebook_id", "created_at", "changed_at"))
NOTEBOOK = {"tenant": "t", "notebook_id": "n", "created_at": 1.0, "changed_at": 2.0}


async def written(folder: Path, *statements: tuple[Hot, dict[str, object]]) -> None:
    store = Store.open(folder / "a.sqlite")

    def work(connection: Connection) -> None:
        for statement, values in statements:
            statement(connection, values)

    try:
        await store.write(work)
    finally:
        store.close()


async def test_columns_that_are_not_given_get_their_defaults(folder: Path) -> None:
    await written(folder, (ADD, NOTEBOOK))
    store = Store.open(folder / "a.sqlite")
    row = await store.read(lambda connection: connection.execute(select(notebooks)).one())
    store.close()
    assert (row.notebook_id, row.changed_at, row.kernel_end, row.kernel_settings) == ("n", 2.0, "", None)


async def test_an_update_changes_the_row_that_it_names(folder: Path) -> None:
    change = update(notebooks).where(notebooks.c.notebook_id == bindparam("this"))
    await written(
        folder,
        (ADD, NOTEBOOK),
        (ADD, NOTEBOOK | {"notebook_id": "other"}),
        (Hot(change.values(kernel_end=bindparam("why"))), {"this": "n", "why": "idle"}),
    )
    store = Store.open(folder / "a.sqlite")
    rows = await store.read(lambda connection: connection.execute(select(notebooks)).all())
    store.close()
    assert {row.notebook_id: row.kernel_end for row in rows} == {"n": "idle", "other": ""}


async def test_a_conflict_is_the_error_that_callers_know(folder: Path) -> None:
    with pytest.raises(IntegrityError):
        await written(folder, (ADD, NOTEBOOK), (ADD, NOTEBOOK))


async def test_other_failures_are_too(folder: Path) -> None:
    store = Store.open(folder / "a.sqlite")

    def drop_and_add(connection: Connection) -> None:
        connection.exec_driver_sql("DROP TABLE sandboxes")
        with pytest.raises(OperationalError, match="no such table"):
            Hot(insert(sandboxes), ("sandbox_id",))(connection, {"sandbox_id": "s"})

    await store.write(drop_and_add)
    store.close()
