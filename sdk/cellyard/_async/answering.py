"""Answers to what running code asks its client: functions that were offered, lines for input()."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cellyard import _io_async, _requests, events
from cellyard._async.core import AsyncSessionCore
from cellyard._calls import Offers
from cellyard._values import encode_value
from cellyard.errors import InvalidRequest
from cellyard_proto.v1 import calls_pb2, executions_pb2


class AsyncAnswering(AsyncSessionCore):
    """The part of a session that answers. Each call is answered once: its event is taken once."""

    async def _answer(
        self,
        execution_id: str,
        call: events.HostCalled | events.InputRequested,
        offers: Offers,
        answers: _io_async.Beside,
    ) -> None:
        if isinstance(call, events.HostCalled) and call.name not in offers.functions:
            return  # the controller answers it
        answer = executions_pb2.AnswerCall(
            notebook_id=self._notebook_id,
            execution_id=execution_id,
            call_id=call.call_id,
            request_id=_requests.request_id(),
        )
        try:
            if isinstance(call, events.HostCalled):
                value = await _io_async.ask(offers.functions[call.name], *call.args, **call.kwargs)
                answer.value_json = encode_value(value)
            else:
                answer.text = _line(await _io_async.ask(_given(offers.on_input), call.prompt))
        except Exception as failed:  # whatever the caller's function raises is for the code to catch
            answer.error.CopyFrom(_error(failed))
        answers.close_up(call.call_id)  # that the call has ended may be told before the answer is confirmed
        try:
            await self._transport.call(lambda s: s.executions.Answer, answer)
        except InvalidRequest as refused:  # too large, say: the code must hear something
            answer.error.CopyFrom(_error(refused))
            await self._transport.call(lambda s: s.executions.Answer, answer)


def _given(function: Callable[[str], Any] | None) -> Callable[[str], Any]:
    if function is None:
        raise EOFError("nobody answers input()")
    return function


def _line(value: object) -> str:
    if value is None:
        raise EOFError("there is no line")
    return _requests.text("what on_input returns", value)


def _error(failed: Exception) -> calls_pb2.CallError:
    return calls_pb2.CallError(name=type(failed).__name__, message=_requests.sendable(str(failed))[:10_000])
