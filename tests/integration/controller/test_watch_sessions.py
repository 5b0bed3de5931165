"""`session.watch()` against a whole controller: plain events, healed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.integration.sdk import flavours
from tests.integration.sdk.faultline import Faultline

import cellyard
from cellyard import events

from .conftest import Yard


@pytest.fixture(params=["async", "sync"])
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def line(yard: Yard) -> AsyncIterator[Faultline]:
    """The way to a controller, which can be cut."""
    await yard.start()
    line = Faultline(yard.folder / "line.sock", yard.folder / "c.sock")
    yield line
    line.close()


@pytest.fixture
async def session(line: Faultline, flavour: str) -> AsyncIterator[Any]:
    session = flavours.session(flavour, "nb", endpoint=f"unix:{line.path}")
    yield session
    await session.close()


@pytest.fixture
async def other(yard: Yard, line: Faultline) -> AsyncIterator[cellyard.AsyncSession]:
    """Who works on the notebook meanwhile, over a connection of its own."""
    async with cellyard.AsyncSession("nb", endpoint=f"unix:{yard.folder}/c.sock") as session:
        yield session


async def until(watching: AsyncIterator[Any], true: Callable[[Any], bool]) -> list[Any]:
    """Events up to the one that is waited for."""
    seen = []
    async for event in watching:
        seen.append(event)
        if true(event):
            return seen
    raise AssertionError("it ended")


def ended(event: Any) -> bool:
    return isinstance(event, cellyard.ExecutionEvent) and isinstance(event.event, cellyard.Finished)


async def test_a_session_sees_what_another_one_does(session: Any, other: cellyard.AsyncSession) -> None:
    cell = await other.create_cell("print one")
    await other.set_metadata("k", "v")
    watching = session.watch()
    snapshot = await anext(watching)
    assert isinstance(snapshot, cellyard.Snapshot)
    assert snapshot.cells == await other.get_cells()
    assert (snapshot.metadata, snapshot.kernel.state, snapshot.executions) == ({"k": "v"}, "none", [])
    result = await other.execute_cell(cell)
    seen = await until(watching, ended)
    assert next(type(each.event) for each in seen if isinstance(each, events.ExecutionEvent)) is events.Accepted
    assert seen[-1].event.result.stdout == result.stdout == "one\n"
    assert {each.kernel.state for each in seen if isinstance(each, events.KernelChanged)} == {"starting", "busy"}
    (output,) = [each.event.output.text for each in seen if isinstance(getattr(each, "event", 0), events.OutputEvent)]
    assert output == "one\n"
    await other.clear_outputs()
    await other.move_cell(cell)
    await other.set_source(cell, "x")
    await other.delete_cell(cell)
    cleared, changed, removed = (await until(watching, lambda each: isinstance(each, events.CellRemoved)))[-3:]
    assert (cleared.with_outputs, cleared.cell.outputs, cleared.cell.execution_id) == (True, [], None)
    assert (changed.with_outputs, changed.cell.source, changed.after) == (False, "x", None)
    assert removed == events.CellRemoved(cell)


async def test_the_end_of_what_ran_before_comes_with_all_that_it_showed(
    session: Any, other: cellyard.AsyncSession, yard: Yard
) -> None:
    running = await other.queue_cell(await other.create_cell("print one\ngate g\nprint two"))
    waiting = await other.queue_cell(await other.create_cell("print three"))
    await yard.runtime.reached("g")
    watching = session.watch()
    snapshot = await anext(watching)
    assert [each.execution_id for each in snapshot.executions] == [running, waiting]
    yard.runtime.open("g")
    for execution_id in (running, waiting):
        seen = await until(watching, ended)
        assert seen[-1].event.result == await other.get_execution(execution_id)


async def test_a_broken_connection_is_healed_with_the_notebook_as_it_is(
    session: Any, other: cellyard.AsyncSession, line: Faultline
) -> None:
    await other.create_cell("a")
    watching = session.watch()
    assert len((await anext(watching)).cells) == 1
    line.cut(listen=False)
    await other.create_cell("b")
    line.restore()
    seen = await until(watching, lambda event: isinstance(event, cellyard.Snapshot))
    assert [cell.source for cell in seen[-1].cells] == ["a", "b"]


async def test_it_goes_on_with_the_next_controller(session: Any, line: Faultline, yard: Yard) -> None:
    await session.set_metadata("k", "v")
    watching = session.watch()
    await anext(watching)
    await yard.stop()
    await yard.start()
    seen = await until(watching, lambda event: isinstance(event, cellyard.Snapshot))
    assert seen[-1].metadata == {"k": "v"}


async def test_it_ends_with_the_notebook(session: Any, other: cellyard.AsyncSession, yard: Yard) -> None:
    watching = session.watch()
    await anext(watching)
    async with cellyard.AsyncClient(f"unix:{yard.folder}/c.sock") as client:
        await client.delete_notebook("nb")
    with pytest.raises(cellyard.NotebookNotFound, match="deleted"):
        await until(watching, lambda _: False)


async def test_a_closed_session_does_not_watch(session: Any) -> None:
    await session.close()
    with pytest.raises(cellyard.NotConnected):
        await anext(session.watch())
