"""Statements that go to the driver as they are: the same rows and the same errors as through SQLAlchemy."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError
from tests.stores import Ground

from cellyard_controller.store import StoreFailed
from cellyard_controller.store.hot import Hot
from cellyard_controller.store.schema import notebooks, sandboxes

ADD = Hot(insert(notebooks), ("tenant", "notebook_id", "created_at", "changed_at"))
NOTEBOOK = {"tenant": "t", "notebook_id": "n", "created_at": 1.0, "changed_at": 2.0}


async def written(ground: Ground, *statements: tuple[Hot, dict[str, object]]) -> None:
    store = ground.open()

    def work(connection: Connection) -> None:
        for statement, values in statements:
            statement(connection, values)

    try:
        await store.write(work)
    finally:
        store.close()


async def test_columns_that_are_not_given_get_their_defaults(ground: Ground) -> None:
    await written(ground, (ADD, NOTEBOOK))
    store = ground.open()
    row = await store.read(lambda connection: connection.execute(select(notebooks)).one())
    store.close()
    assert (row.notebook_id, row.changed_at, row.kernel_end, row.kernel_settings) == ("n", 2.0, "", None)


async def test_an_update_changes_the_row_that_it_names(ground: Ground) -> None:
    change = update(notebooks).where(notebooks.c.notebook_id == bindparam("this"))
    await written(
        ground,
        (ADD, NOTEBOOK),
        (ADD, NOTEBOOK | {"notebook_id": "other"}),
        (Hot(change.values(kernel_end=bindparam("why"))), {"this": "n", "why": "idle"}),
    )
    store = ground.open()
    rows = await store.read(lambda connection: connection.execute(select(notebooks)).all())
    store.close()
    assert {row.notebook_id: row.kernel_end for row in rows} == {"n": "idle", "other": ""}


async def test_a_conflict_is_the_error_that_callers_know(ground: Ground) -> None:
    with pytest.raises(IntegrityError):
        await written(ground, (ADD, NOTEBOOK), (ADD, NOTEBOOK))


async def test_other_failures_are_too(ground: Ground) -> None:
    store = ground.open()

    def drop_and_add(connection: Connection) -> None:
        connection.exec_driver_sql("DROP TABLE sandboxes")
        Hot(insert(sandboxes), ("sandbox_id",))(connection, {"sandbox_id": "s"})

    with pytest.raises(StoreFailed, match=r"no such table|does not exist"):
        await store.write(drop_and_add)
    store.close()
