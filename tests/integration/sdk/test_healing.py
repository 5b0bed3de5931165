"""What a broken connection does to calls: nothing, unless it stays broken."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.integration.sdk import flavours
from tests.integration.sdk.faultline import Faultline
from tests.integration.sdk.scripted_controller import Refusal, ScriptedController

import cellyard


def transport(session: Any) -> Any:
    """The session's transport, for its patience."""
    return getattr(session, "sync", session)._transport


async def test_a_run_that_is_cut_goes_on_and_ran_once(
    session: Any, controller: ScriptedController, line: Faultline
) -> None:
    seen = threading.Event()
    code = "print('a')\ngate('go')\nprint('b')\n7"
    running = asyncio.ensure_future(session.run(code, on_output=lambda output: seen.set()))
    await asyncio.to_thread(seen.wait, 10)
    for _ in range(3):
        before = len(controller.called("Executions.Attach"))
        line.cut()
        await asyncio.to_thread(
            controller.until, lambda before=before: len(controller.called("Executions.Attach")) > before
        )
    controller.gates.open("go")
    result = await running
    assert (result.value, result.stdout, result.execution_count) == (7, "a\nb\n", 1)
    assert len(controller.called("Executions.Execute")) == 1
    assert all(request.after_seq == 3 for request in controller.called("Executions.Attach"))


async def test_outputs_come_once_whatever_breaks(session: Any, controller: ScriptedController, line: Faultline) -> None:
    seen: list[str] = []
    running = asyncio.ensure_future(
        session.run("print(1)\ngate('a')\nprint(2)\ngate('b')\nprint(3)", on_output=lambda o: seen.append(o.text))
    )
    for gate in ("a", "b"):
        await asyncio.to_thread(controller.gates.await_reached, gate)
        line.cut()
        controller.gates.open(gate)
    assert (await running).stdout == "1\n2\n3\n"
    assert seen == ["1\n", "2\n", "3\n"]


async def test_a_stream_that_ended_during_the_break_is_whole(
    session: Any, controller: ScriptedController, line: Faultline
) -> None:
    controller.compacted = True
    running = asyncio.ensure_future(session.run("print(1)\ngate('go')\nprint(2)\nclear_output()\nprint(3)"))
    await asyncio.to_thread(controller.gates.await_reached, "go")
    line.cut(listen=False)
    controller.gates.open("go")
    await asyncio.to_thread(controller.until, lambda: controller.notebook(session.notebook_id).executions[0].state.end)
    line.restore()
    result = await running
    assert (result.stdout, result.end) == ("3\n", "succeeded")


@pytest.mark.parametrize("method", ["Executions.Execute", "Executions.Enqueue", "Notebooks.CreateCell"])
async def test_a_call_that_is_cut_is_made_again_with_its_request_id(
    session: Any, controller: ScriptedController, line: Faultline, method: str
) -> None:
    cell_id = await session.create_cell("5")
    controller.faults[method].append(line.cut)
    if method == "Executions.Execute":
        assert (await session.run("5")).value == 5
    elif method == "Executions.Enqueue":
        assert (await session.wait(await session.queue_cell(cell_id))).value == 5
    else:
        await session.create_cell("6")
    first, second = controller.called(method)[-2:]
    assert first == second
    assert first.request_id
    document = controller.notebook(session.notebook_id)
    assert len(document.cells) == (1 if method == "Executions.Enqueue" else 2)


async def test_an_answer_that_is_lost_adds_nothing_twice(
    session: Any, controller: ScriptedController, line: Faultline
) -> None:
    """The call was carried out, its answer never came: the second try finds what the first did."""
    await session.connect()
    real, lost = controller.accept, []

    def accept_then_cut(start: Any) -> Any:
        execution = real(start)
        if not lost:
            lost.append(execution)
            line.cut()
        return execution

    controller.accept = accept_then_cut  # type: ignore[method-assign]
    result = await session.run("1")
    assert result.execution_id == lost[0].state.execution_id
    assert len(controller.notebook(session.notebook_id).executions) == 1


async def test_is_connected_tells_the_truth_of_now(session: Any, line: Faultline) -> None:
    await session.connect()
    line.cut(listen=False)
    assert not await session.is_connected()
    line.restore()
    assert await session.is_connected()


async def test_the_session_is_there_again_after_a_break(
    session: Any, controller: ScriptedController, line: Faultline
) -> None:
    await session.connect()
    line.cut()
    await asyncio.to_thread(controller.until, lambda: not controller.sessions)
    while transport(session).standing().usable():  # noqa: ASYNC110  (the client's side has no event to wait for)
        await asyncio.sleep(0.001)
    await session.get_cells()
    assert len(controller.sessions) == 1
    first, second = controller.called("Sessions.Attach")
    assert first == second


async def test_a_controller_that_forgot_the_session_is_told_again(session: Any, controller: ScriptedController) -> None:
    await session.connect()
    controller.faults["Executions.Execute"].append(Refusal("NOT_CONNECTED", "this session is not attached"))
    assert (await session.run("1")).value == 1
    assert len(controller.called("Sessions.Attach")) == 2


async def test_a_controller_that_is_stopping_is_waited_for(session: Any, controller: ScriptedController) -> None:
    stopping = Refusal("CONTROLLER_UNAVAILABLE", "the controller is stopping", {"retryable": "true"})
    await session.connect()
    controller.faults["Executions.Execute"].extend([stopping, stopping])
    assert (await session.run("1")).value == 1


async def test_calls_beside_one_that_was_healed_are_healed_too(session: Any, controller: ScriptedController) -> None:
    seen = threading.Event()
    running = asyncio.ensure_future(session.run("print('x')\ngate('go')\n1", on_output=lambda output: seen.set()))
    await asyncio.to_thread(seen.wait, 10)
    stopping = Refusal("CONTROLLER_UNAVAILABLE", "the controller is stopping", {"retryable": "true"})
    controller.faults["Notebooks.ListCells"].append(stopping)
    assert len(await session.get_cells()) == 1
    await asyncio.to_thread(controller.until, lambda: len(controller.called("Executions.Attach")) == 1)
    controller.gates.open("go")
    assert (await running).value == 1


async def test_patience_ends_as_controller_unavailable(session: Any, line: Faultline) -> None:
    transport(session).reconnect_s = 0.3
    await session.connect()
    line.cut(listen=False)
    for call in (session.run("1"), session.get_cells(), session.start_kernel()):
        with pytest.raises(cellyard.ControllerUnavailable, match=r"did not come back within 0\.3 s") as caught:
            await call
        assert caught.value.retryable
    line.restore()
    assert (await session.run("1")).value == 1


async def test_what_the_controller_refuses_is_not_tried_again(session: Any, controller: ScriptedController) -> None:
    await session.connect()
    controller.faults["Executions.Execute"].append(Refusal("QUOTA_EXCEEDED", "too many"))
    with pytest.raises(cellyard.QuotaExceeded):
        await session.run("1")
    assert len(controller.called("Executions.Execute")) == 1


async def test_another_controller_at_the_same_place_is_no_healing(
    session: Any, controller: ScriptedController, line: Faultline
) -> None:
    await session.connect()
    controller.controller_id = "another"
    controller.faults["Executions.Execute"].append(line.cut)
    with pytest.raises(cellyard.ControllerUnavailable, match="another controller answers"):
        await session.run("1")
    await session.close()
    await session.connect()
    assert (await session.run("1")).value == 1


async def test_leaving_does_not_wait_for_a_controller_that_is_gone(
    flavour: str, endpoint: str, line: Faultline
) -> None:
    async with flavours.session(flavour, endpoint=endpoint) as session:
        await session.run("1")
        line.cut(listen=False)
    assert not await session.is_connected()


async def test_closing_beside_a_running_call_ends_it(session: Any, controller: ScriptedController) -> None:
    running = asyncio.ensure_future(session.run("gate('never')"))
    await asyncio.to_thread(controller.gates.await_reached, "never")
    await session.close()
    with pytest.raises(cellyard.NotConnected, match="closed"):
        await running


async def test_a_file_that_is_no_socket_is_no_controller(flavour: str, tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.write_text("")
    with pytest.raises(cellyard.ControllerUnavailable, match="nobody listens there"):
        await flavours.session(flavour, endpoint=f"unix:{plain}").connect()
