"""Breaking a call off: a cancelled task, Ctrl-C. The execution goes on, unless the caller wants otherwise."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Any

import pytest
from tests.integration.sdk.scripted_controller import ScriptedController

import cellyard


async def _cancel_at_gate(session: cellyard.AsyncSession, controller: ScriptedController, **how: Any) -> None:
    task = asyncio.ensure_future(session.run("print('x')\ngate('go')", **how))
    await asyncio.to_thread(controller.gates.await_reached, "go")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_task_leaves_the_execution_running(endpoint: str, controller: ScriptedController) -> None:
    async with cellyard.AsyncSession(endpoint=endpoint) as session:
        await _cancel_at_gate(session, controller)
        (execution,) = await session.list_executions()
        assert execution.status == "running"
        controller.gates.open("go")
        assert (await session.wait(execution.execution_id)).success


async def test_or_interrupts_it(endpoint: str, controller: ScriptedController) -> None:
    async with cellyard.AsyncSession(endpoint=endpoint) as session:
        await _cancel_at_gate(session, controller, on_cancel="interrupt")
        (execution,) = await session.list_executions()
        result = await session.wait(execution.execution_id)
        assert (result.end, result.error.ename) == ("interrupted", "KeyboardInterrupt")  # type: ignore[union-attr]


async def test_before_it_was_accepted_it_is_found_by_its_request(endpoint: str, controller: ScriptedController) -> None:
    async with cellyard.AsyncSession(endpoint=endpoint) as session:
        await session.connect()
        held, free = threading.Event(), threading.Event()
        controller.faults["Executions.Execute"].append(lambda: (held.set(), free.wait(10)))
        task = asyncio.ensure_future(session.run("gate('never')", on_cancel="interrupt"))
        await asyncio.to_thread(held.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()
        (execution,) = await session.list_executions()
        assert (await session.wait(execution.execution_id)).end in ("interrupted", "cancelled")


async def test_cancelling_in_a_callback_interrupts_too(endpoint: str, controller: ScriptedController) -> None:
    stuck = asyncio.Event()

    async def never_returns(output: cellyard.Output) -> None:
        stuck.set()
        await asyncio.Event().wait()

    async with cellyard.AsyncSession(endpoint=endpoint) as session:
        running = session.run("print('x')\ngate('never')", on_output=never_returns, on_cancel="interrupt")
        task = asyncio.ensure_future(running)
        await stuck.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (execution,) = await session.list_executions()
        assert (await session.wait(execution.execution_id)).end == "interrupted"


async def test_leaving_a_stream_early_leaves_the_execution_running(
    endpoint: str, controller: ScriptedController
) -> None:
    async with cellyard.AsyncSession(endpoint=endpoint) as session:
        async for event in session.stream_execute(code="print('x')\ngate('go')\n9"):
            if isinstance(event, cellyard.OutputEvent):
                break
        controller.gates.open("go")
        (execution,) = await session.list_executions()
        assert (await session.wait(execution.execution_id)).value == 9


@pytest.mark.parametrize(("on_cancel", "end"), [("detach", "succeeded"), ("interrupt", "interrupted")])
def test_ctrl_c_does_the_same_in_the_sync_flavour(
    endpoint: str, controller: ScriptedController, on_cancel: Any, end: str
) -> None:
    def press() -> None:
        controller.gates.await_reached("go")
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.get_ident()
    with cellyard.Session(endpoint=endpoint) as session:
        thread = threading.Thread(target=press)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            session.run("print('x')\ngate('go')", on_cancel=on_cancel)
        thread.join()
        if on_cancel == "detach":
            controller.gates.open("go")
        (execution,) = session.list_executions()
        assert session.wait(execution.execution_id).end == end


async def test_an_error_in_a_callback_reaches_the_caller(endpoint: str, controller: ScriptedController) -> None:
    def refuse(output: cellyard.Output) -> None:
        raise LookupError

    async with cellyard.AsyncSession(endpoint=endpoint) as session:
        with pytest.raises(LookupError):
            await session.run("print('x')", on_output=refuse)
        (execution,) = await session.list_executions()
        assert (await session.wait(execution.execution_id)).success
