"""Calls from the code to the client that started it, lines for input(), questions to the kernel, comms."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest

from cellyard_proto.v1 import calls_pb2, history_pb2, kernels_pb2, outputs_pb2, sessions_pb2
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard

OFFER = {"session_id": "s", "host_calls": ["add"], "answers_input": True}


async def until(stream: Any, kind: str) -> Any:
    async for event in stream:
        if event.WhichOneof("event") == kind:
            return event
    raise AssertionError(f"the stream ended without {kind}")


async def printed(stream: Any) -> str:
    """What is still printed until the end."""
    return "".join([event.output.stream.text async for event in stream if event.WhichOneof("event") == "output"])


async def answer(stubs: Stubs, stream_id: str, call_id: str, **given: Any) -> bool:
    given = {"request_id": "answer", **given}
    message = ex.AnswerCall(notebook_id="nb", execution_id=stream_id, call_id=call_id, **given)
    return (await stubs.executions.Answer(message)).accepted


def code_of(failed: grpc.aio.AioRpcError) -> str:
    return failed.code().name


async def test_an_offered_function_is_called_and_its_answer_reaches_the_code(stubs: Stubs) -> None:
    stream = aiter(stubs.start("nb", 'call add ["x", 1]', **OFFER))
    execution_id = (await anext(stream)).accepted.execution_id
    call = (await until(stream, "host_call")).host_call
    assert (call.name, call.args_json, call.kwargs_json) == ("add", '["x", 1]', "{}")
    assert await answer(stubs, execution_id, call.call_id, value_json="[2]")
    ended = (await until(stream, "call_ended")).call_ended
    assert ended.call_id == call.call_id
    assert await printed(stream) == "value [2]\n"


async def test_the_first_answer_wins_and_a_repeated_one_is_the_same(stubs: Stubs) -> None:
    stream = aiter(stubs.start("nb", "call add []\ngate g", **OFFER))
    execution_id = (await anext(stream)).accepted.execution_id
    call = (await until(stream, "host_call")).host_call
    assert await answer(stubs, execution_id, call.call_id, value_json="1")
    assert await answer(stubs, execution_id, call.call_id, value_json="1")
    assert not await answer(stubs, execution_id, call.call_id, value_json="2", request_id="another")
    with pytest.raises(grpc.aio.AioRpcError, match="'answer' was used with other content"):
        await answer(stubs, execution_id, call.call_id, value_json="3")
    output = (await until(stream, "output")).output
    assert output.stream.text == "value 1\n"


async def test_a_line_for_input_and_an_error_reach_the_code(stubs: Stubs) -> None:
    stream = aiter(stubs.start("nb", "input name?\ninput again?", **OFFER))
    execution_id = (await anext(stream)).accepted.execution_id
    asked = (await until(stream, "input_requested")).input_requested
    assert asked.prompt == "name?"
    assert await answer(stubs, execution_id, asked.call_id, text="Ada", request_id="1")
    assert (await until(stream, "output")).output.stream.text == "text Ada\n"
    asked = (await until(stream, "input_requested")).input_requested
    error = calls_pb2.CallError(name="EOFError", message="no more")
    assert await answer(stubs, execution_id, asked.call_id, error=error, request_id="2")
    assert await printed(stream) == "error EOFError: no more\n"


@pytest.mark.parametrize(
    ("offer", "why"),
    [
        ({}, "does not offer 'add'"),
        ({"session_id": "s", "host_calls": ["other"]}, "does not offer 'add'"),
    ],
)
async def test_what_is_not_offered_is_unavailable_at_once(stubs: Stubs, offer: dict[str, Any], why: str) -> None:
    done = await stubs.run("nb", "call add []", **offer)
    assert why in done.outputs[0].stream.text
    assert done.outputs[0].stream.text.startswith("unavailable")


async def test_calls_of_a_client_that_is_gone_past_its_grace_are_unavailable(yard: Yard) -> None:
    stubs = await yard.start(sessions={"grace": 0.2})
    stream = stubs.start("nb", "call add []", **OFFER)
    events = aiter(stream)
    execution_id = (await anext(events)).accepted.execution_id
    await until(events, "host_call")
    stream.cancel()
    other = stubs.executions.Attach(
        ex.AttachExecution(notebook_id="nb", execution_id=execution_id, session_id="somebody else")
    )
    assert await printed(other) == "unavailable the client that started this cell is gone\n"


async def test_calls_of_a_client_that_has_left_are_unavailable_at_once(yard: Yard) -> None:
    """Whoever says goodbye is not waited for, as those are whose connection broke: neither for the call that waits,
    nor for one of a cell that comes later."""
    stubs = await yard.start(sessions={"grace": 600.0})
    stays = stubs.start("nb", "1", session_id="stays")  # the kernel's last session would take it along
    await until(aiter(stays), "finished")
    stream = stubs.start("nb", "call add []\ncall add []", **OFFER)
    events = aiter(stream)
    execution_id = (await anext(events)).accepted.execution_id
    await until(events, "host_call")
    later = stubs.start("nb", "call add []", **OFFER)
    later_id = (await anext(aiter(later))).accepted.execution_id
    stream.cancel()
    later.cancel()
    await stubs.sessions.Close(sessions_pb2.CloseSession(notebook_id="nb", session_id="s"))
    gone = "unavailable the client that started this cell is gone\n"
    for name, said in ((execution_id, gone * 2), (later_id, gone)):
        attach = ex.AttachExecution(notebook_id="nb", execution_id=name, session_id="stays")
        assert await printed(stubs.executions.Attach(attach)) == said


async def test_a_client_that_comes_back_within_its_grace_answers(yard: Yard) -> None:
    stubs = await yard.start(sessions={"grace": 5.0})
    stream = stubs.start("nb", "call add []\ncall add []", **OFFER)
    events = aiter(stream)
    execution_id = (await anext(events)).accepted.execution_id
    first = await until(events, "host_call")
    stream.cancel()
    again = aiter(
        stubs.executions.Attach(
            ex.AttachExecution(notebook_id="nb", execution_id=execution_id, session_id="s", after_seq=first.seq)
        )
    )
    assert await answer(stubs, execution_id, first.host_call.call_id, value_json="1", request_id="1")
    second = (await until(again, "host_call")).host_call
    assert second.call_id != first.host_call.call_id
    assert await answer(stubs, execution_id, second.call_id, value_json="2", request_id="2")
    done = await until(again, "finished")
    assert done.finished.end == ex.EXECUTION_END_SUCCEEDED


async def test_an_answer_that_the_sandbox_missed_is_said_again(yard: Yard) -> None:
    """The link is cut when the answer is committed: it is sent to nobody, and again when the agent is back."""
    stubs = await yard.start()
    stream = aiter(stubs.start("nb", "call add []", **OFFER))
    execution_id = (await anext(stream)).accepted.execution_id
    call = (await until(stream, "host_call")).host_call
    (sandbox,) = yard.controller.supervisor.sandboxes()
    yard.runtime.drop_link(sandbox.instance_id, stay_away=True)
    assert await answer(stubs, execution_id, call.call_id, value_json="7")
    yard.runtime.let_dial(sandbox.instance_id)
    assert await printed(stream) == "value 7\n"


async def test_an_interrupted_call_is_over_for_its_client_too(stubs: Stubs) -> None:
    stream = aiter(stubs.start("nb", "call add []", **OFFER))
    execution_id = (await anext(stream)).accepted.execution_id
    call = (await until(stream, "host_call")).host_call
    await stubs.kernels.Interrupt(kernels_pb2.InterruptKernel(notebook_id="nb"))
    assert (await until(stream, "call_ended")).call_ended.call_id == call.call_id
    assert (await until(stream, "finished")).finished.end == ex.EXECUTION_END_INTERRUPTED
    assert not await answer(stubs, execution_id, call.call_id, value_json="1")


async def test_bad_answers_are_refused_by_name(stubs: Stubs) -> None:
    stream = aiter(stubs.start("nb", "call add []", **OFFER))
    execution_id = (await anext(stream)).accepted.execution_id
    call = (await until(stream, "host_call")).host_call
    for given, said in [
        ({"call_id": "none", "value_json": "1"}, "'none' not found"),
        ({"call_id": call.call_id, "value_json": "{"}, "no JSON"),
        ({"call_id": call.call_id}, "neither a value"),
    ]:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await answer(stubs, execution_id, **given)
        assert code_of(refused.value) == "INVALID_ARGUMENT"
        assert said in (refused.value.details() or "")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await answer(stubs, "unknown", call.call_id, value_json="1")
    assert code_of(refused.value) == "NOT_FOUND"
    assert await answer(stubs, execution_id, call.call_id, value_json="1")


async def test_questions_are_answered_by_the_kernel(stubs: Stubs) -> None:
    await stubs.run("nb", "print a")
    completed = await stubs.kernels.Complete(kernels_pb2.CompleteRequest(notebook_id="nb", code="al"))
    assert list(completed.matches) == ["alpha"]
    assert (completed.cursor_start, completed.cursor_end) == (0, 2)
    inspected = await stubs.kernels.Inspect(kernels_pb2.InspectRequest(notebook_id="nb", code="alpha", cursor=2))
    assert inspected.found
    assert inspected.data["text/plain"].text == "alpha: a word"
    complete = await stubs.kernels.IsComplete(kernels_pb2.IsCompleteRequest(notebook_id="nb", code="one {"))
    assert (complete.status, complete.indent) == ("incomplete", "  ")
    info = await stubs.kernels.Info(kernels_pb2.KernelInfoRequest(notebook_id="nb"))
    assert json.loads(info.content_json)["language_info"] == {"name": "fake"}
    history = await stubs.kernels.History(kernels_pb2.HistoryRequest(notebook_id="nb"))
    assert [(entry.execution_count, entry.source) for entry in history.entries] == [(1, "print a")]


async def test_questions_without_a_kernel_to_a_busy_one_and_past_the_code_are_refused(stubs: Stubs) -> None:
    question = kernels_pb2.CompleteRequest(notebook_id="nb", code="a")
    await stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="c", cell_type="code"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.kernels.Complete(question)
    assert code_of(refused.value) == "FAILED_PRECONDITION"
    stream = aiter(stubs.start("nb", "hang"))
    await until(stream, "started")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.kernels.Complete(question)
    assert code_of(refused.value) == "DEADLINE_EXCEEDED"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.kernels.Complete(kernels_pb2.CompleteRequest(notebook_id="nb", code="a", cursor=2))
    assert code_of(refused.value) == "INVALID_ARGUMENT"


async def exported(stubs: Stubs) -> dict[str, Any]:
    parts = [part.content async for part in stubs.notebooks.Export(nb.ExportRequest(notebook_id="nb"))]
    return dict(json.loads(b"".join(parts)))


async def test_widgets_are_saved_with_the_notebook_and_outlive_the_controller(yard: Yard) -> None:
    stubs = await yard.start(on_stop="keep")
    opened = {"state": {"_model_name": "IntSliderModel", "_model_module": "controls", "value": 3}}
    source = f'comm one {json.dumps(opened)}\ncomm one {{"state": {{"value": 4}}}}\ncomm other {{"x": 1}}'
    await stubs.run("nb", source)
    said = outputs_pb2.Comm(
        comm_id="one", message=outputs_pb2.CommMessage(data_json='{"method": "update", "state": {"value": 5}}')
    )
    await stubs.kernels.SendComm(kernels_pb2.SendCommRequest(notebook_id="nb", request_id="r", comm=said))
    await stubs.kernels.SendComm(kernels_pb2.SendCommRequest(notebook_id="nb", request_id="r", comm=said))
    (sandbox,) = yard.controller.supervisor.sandboxes()
    assert len(yard.runtime.comms(sandbox.instance_id)) == 1
    for _ in range(2):
        saved = (await exported(stubs))["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]
        assert saved["version_major"] == 2
        assert list(saved["state"]) == ["one"]
        assert saved["state"]["one"]["model_name"] == "IntSliderModel"
        assert saved["state"]["one"]["state"]["value"] == 5
        await yard.stop()
        stubs = await yard.start(on_stop="keep")


async def test_another_kernels_widgets_take_the_place_of_the_last_ones(stubs: Stubs) -> None:
    for name in ("one", "two"):
        await stubs.run("nb", f'comm {name} {{"state": {{"_model_name": "{name}"}}}}')
        await stubs.kernels.Shutdown(kernels_pb2.ShutdownKernel(notebook_id="nb"))
    saved = (await exported(stubs))["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]
    assert list(saved["state"]) == ["two"]


async def test_many_calls_at_once_each_get_their_own_answer(stubs: Stubs) -> None:
    async def one(number: int) -> str:
        stream = aiter(stubs.start(f"nb-{number}", f"call add [{number}]", **OFFER))
        accepted = (await anext(stream)).accepted
        call = (await until(stream, "host_call")).host_call
        given = ex.AnswerCall(
            notebook_id=accepted.notebook_id,
            execution_id=accepted.execution_id,
            call_id=call.call_id,
            value_json=call.args_json,
        )
        await stubs.executions.Answer(given)
        return await printed(stream)

    got = await asyncio.gather(*(one(number) for number in range(5)))
    assert got == [f"value [{number}]\n" for number in range(5)]


async def test_whoever_watches_hears_comms_and_a_later_one_finds_widgets_as_they_are(stubs: Stubs) -> None:
    await stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="c", cell_type="code"))
    first = aiter(stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb")))
    await until(first, "snapshot_end")
    await stubs.run("nb", 'comm one {"state": {"_model_name": "m", "value": 1}}\ncomm one {"state": {"value": 2}}')
    heard = [(await until(first, "comm")).comm for _ in range(2)]
    assert [comm.WhichOneof("what") for comm in heard] == ["open", "message"]
    assert json.loads(heard[1].message.data_json) == {"state": {"value": 2}}
    later = aiter(stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb")))
    opened = (await until(later, "comm")).comm
    assert (opened.comm_id, opened.open.target_name) == ("one", "jupyter.widget")
    assert json.loads(opened.open.data_json)["state"] == {"_model_name": "m", "value": 2}
    await stubs.kernels.Shutdown(kernels_pb2.ShutdownKernel(notebook_id="nb"))
    last = aiter(stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb")))
    kinds = []
    while not kinds or kinds[-1] != "snapshot_end":
        kinds.append((await anext(last)).WhichOneof("event"))
    assert "comm" not in kinds


async def test_a_history_is_a_range_or_a_search_and_within_its_limits(stubs: Stubs) -> None:
    await stubs.run("nb", "print a")
    asked = [
        {"limit": -1},
        {"range": history_pb2.HistoryRange(start=1), "search": history_pb2.HistorySearch(pattern="a")},
        {"search": history_pb2.HistorySearch(pattern="*" * 10_001)},
    ]
    for each in asked:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stubs.kernels.History(kernels_pb2.HistoryRequest(notebook_id="nb", **each))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_whoever_watches_hears_comms_in_their_place_among_outputs(stubs: Stubs) -> None:
    await stubs.notebooks.CreateCell(nb.CreateCellRequest(notebook_id="nb", cell_id="c", cell_type="code"))
    watch = aiter(stubs.notebooks.Watch(nb.WatchNotebook(notebook_id="nb")))
    await until(watch, "snapshot_end")
    said = "\n".join(f'comm one {{"n": {number}}}\nhtml {number}' for number in range(5))
    await stubs.run("nb", said)
    heard: list[str] = []
    while "finished" not in heard:
        event = await anext(watch)
        if event.HasField("comm"):
            said_last = event.comm.open.data_json or event.comm.message.data_json
            heard.append(f"comm {json.loads(said_last)['n']}")
        elif event.HasField("execution_changed"):
            told = event.execution_changed.event
            if told.HasField("output"):
                heard.append(f"html {told.output.display_data.data['text/html'].text}")
            elif told.HasField("finished"):
                heard.append("finished")
    assert heard == [f"{kind} {number}" for number in range(5) for kind in ("comm", "html")] + ["finished"]
