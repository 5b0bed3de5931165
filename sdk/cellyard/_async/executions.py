"""A session's executions: run and wait, queue, follow, look up, cancel."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

from cellyard import _io_async, _requests, _tracing, _translate, events
from cellyard._async import blobs
from cellyard._async.answering import AsyncAnswering
from cellyard._async.transport import Connection, Deadline
from cellyard._calls import HostCalls, Offers, offers
from cellyard._execution import ExecutionView, is_last, is_started, refusal, timed_out
from cellyard.errors import InvalidRequest
from cellyard.results import ExecutionResult, Output, Progress
from cellyard_proto.v1 import executions_pb2

CANCEL_TIMEOUT_S = 10.0


class AsyncExecutionCalls(AsyncAnswering):
    """The part of a session that is about running cells."""

    async def execute_cell(
        self,
        cell_id: str,
        timeout_secs: float | None = 60.0,
        *,
        on_output: Callable[[Output], Any] | None = None,
        on_timeout: Literal["interrupt", "detach"] = "interrupt",
        on_cancel: Literal["detach", "interrupt"] = "detach",
        on_input: Callable[[str], Any] | None = None,
        host_calls: HostCalls = (),
    ) -> ExecutionResult:
        """Runs a code cell with the source that the document has now, and waits for its end.

        Connects and starts a kernel where needed. An exception in the cell is a result, not raised.

        `timeout_secs` counts from the moment the kernel starts the cell; None means no limit. At the timeout the
        cell is interrupted, or with `on_timeout="detach"` goes on, and ExecutionTimeout is raised, with the output
        until then in its `result`. `on_output` gets outputs as they come. When the call is broken off (a cancelled
        task, Ctrl-C), the execution goes on, unless `on_cancel` is "interrupt".

        `on_input` gets the prompt of each input() and returns the line; without it, input() raises in the cell.
        `host_calls` are functions that the code may call, by name (`from cellyard_sandbox import host`, then
        `host.name(...)`): they run here, with this program's rights, while this call waits. Coroutine functions
        answer calls of several threads at the same time, and are cancelled where the code waits no more; others one
        after the other. What they take and return is data, what they raise is an exception in the code. The code of
        whatever else runs in that kernel meanwhile could call them too.

        Raises CellNotFound, InvalidRequest for a cell that is not code, ExecutionTimeout, ControllerUnavailable;
        where no kernel can be had, what `start_kernel` raises.
        """
        start = executions_pb2.Start(cell_id=_requests.named("cell_id", cell_id))
        given = offers(host_calls, on_input)
        return await self._run(start, timeout_secs, on_output, on_timeout, on_cancel, given)

    async def run(
        self,
        code: str,
        timeout_secs: float | None = 60.0,
        *,
        on_output: Callable[[Output], Any] | None = None,
        on_timeout: Literal["interrupt", "detach"] = "interrupt",
        on_cancel: Literal["detach", "interrupt"] = "detach",
        on_input: Callable[[str], Any] | None = None,
        host_calls: HostCalls = (),
    ) -> ExecutionResult:
        """Adds a cell with this code at the end of the notebook and runs it: `create_cell` and `execute_cell` in
        one round trip. Parameters and errors as there."""
        start = executions_pb2.Start(source=_requests.new_cell(code))
        given = offers(host_calls, on_input)
        return await self._run(start, timeout_secs, on_output, on_timeout, on_cancel, given)

    async def queue_cell(self, cell_id: str, *, stop_on_error: bool = True) -> str:
        """Queues a code cell and returns the id of its execution at once; starts a kernel where needed.

        A cell that this session already has waiting or running with the same source gives that execution. With
        `stop_on_error` an error in an earlier execution of this session cancels this one while it waits.

        Raises CellNotFound, InvalidRequest for a cell that is not code, NotConnected before a connection.
        """
        start = executions_pb2.Start(
            cell_id=_requests.named("cell_id", cell_id), stop_on_error=bool(stop_on_error), coalesce=True
        )
        self._need_connection()
        accepted = await self._transport.call(lambda s: s.executions.Enqueue, self._complete(start))
        return accepted.execution_id

    def stream_execute(
        self,
        cell_id: str | None = None,
        *,
        code: str | None = None,
        timeout_secs: float | None = 60.0,
        on_timeout: Literal["interrupt", "detach"] = "interrupt",
        on_cancel: Literal["detach", "interrupt"] = "detach",
        on_input: Callable[[str], Any] | None = None,
        host_calls: HostCalls = (),
        silent: bool = False,
        store_history: bool = True,
        user_expressions: Mapping[str, str] | None = None,
        payload: bool = False,
        on_accepted: Callable[[str], Any] | None = None,
    ) -> AsyncIterator[events.Event]:
        """Runs a cell, or new code, and gives events as they come; the last is `Finished` with the result.

        How it ended is in that result, a timeout too; only with `on_timeout="detach"` ExecutionTimeout is raised.
        Leaving the loop early leaves the execution running. Other parameters and errors as for `execute_cell`.

        The others are for front ends. `on_accepted` gets the execution's id as soon as it has one. A `silent` execution
        is not counted, its last value is not shown, and `code` gets no cell; without `store_history` it is not
        counted. `user_expressions` are evaluated after it, by names of the caller's own, and come in the result's
        `reply`; so does what the kernel has for a front end with `payload`: help to page, which without is an output.
        """
        if (cell_id is None) == (code is None):
            raise InvalidRequest("stream_execute takes a cell_id or code=, one of them")
        start = executions_pb2.Start()
        if cell_id is not None:
            start.cell_id = _requests.named("cell_id", cell_id)
        else:
            start.source.CopyFrom(_requests.new_cell(code))
        if silent or not store_history or user_expressions or payload:
            start.manner.CopyFrom(_requests.manner(silent, store_history, user_expressions, payload))
        limit, detach, interrupt = _checked(timeout_secs, on_timeout, on_cancel)
        return self._stream(start, limit, detach, interrupt, offers(host_calls, on_input), on_accepted)

    def follow(self, execution_id: str) -> AsyncIterator[events.Event]:
        """What an execution has shown and shows, as events, whoever started it; the last is `Finished`.

        Of one that has ended long ago the outputs come, and not how they came. Leaving the loop ends nothing. What the
        code asks of its own client (host calls, input) is not answered from here.

        Raises ExecutionNotFound, NotebookNotFound, ControllerUnavailable.
        """
        return self._follow(_requests.named("execution_id", execution_id))

    async def _follow(self, execution_id: str) -> AsyncGenerator[events.Event, None]:
        await self._connected()
        view = ExecutionView()

        def ask(connection: Connection) -> _io_async.Call[executions_pb2.ExecutionEvent]:
            return self._attach(connection, execution_id, view.seq, None)

        async with aclosing(self._transport.stream(ask, is_last)) as messages:
            async for message in messages:
                await blobs.fill(self._transport, self._notebook_id, message)
                event = view.take(message)
                if isinstance(event, events.Finished):  # what happened during a break may have come folded
                    event = events.Finished(await self.get_execution(execution_id), view.seq)
                if event is not None:
                    yield event

    async def cancel(self, execution_id: str) -> None:
        """Ends one execution: a waiting one is cancelled, a running one interrupted. An ended one stays as it is.

        Raises ExecutionNotFound.
        """
        request = self._cancellation(_requests.named("execution_id", execution_id))
        await self._connected()
        await self._transport.call(lambda s: s.executions.Cancel, request)

    async def get_execution(self, execution_id: str) -> ExecutionResult:
        """An execution of this notebook as it stands, whoever started it. Raises ExecutionNotFound."""
        await self._connected()
        request = self._getting(execution_id)
        return _translate.execution(
            await blobs.call(self._transport, self._notebook_id, lambda s: s.executions.Get, request)
        )

    async def list_executions(self, limit: int = 100, before: str | None = None) -> list[ExecutionResult]:
        """The notebook's executions, newest first, without outputs; with `before`, those accepted before it."""
        request = executions_pb2.ListExecutions(
            notebook_id=self._notebook_id,
            limit=_requests.count("limit", limit),
            before_execution_id="" if before is None else _requests.named("before", before),
        )
        await self._connected()
        answer = await self._transport.call(lambda s: s.executions.List, request)
        return [_translate.execution(found) for found in answer.executions]

    async def wait(self, execution_id: str, timeout: float | None = None) -> ExecutionResult:
        """Waits for the end of an execution, whoever started it, and returns it with its outputs.

        After `timeout` seconds ExecutionTimeout is raised, and the execution goes on. Raises ExecutionNotFound.
        """
        limit = _requests.seconds("timeout", timeout)
        expires = None if limit is None else time.monotonic() + limit
        await self._connected()
        execution = await self._transport.call(lambda s: s.executions.Get, self._getting(execution_id))
        if execution.state == executions_pb2.EXECUTION_STATE_ENDED:
            return await self.get_execution(execution_id)

        def ask(connection: Connection) -> _io_async.Call[executions_pb2.ExecutionEvent]:
            return self._attach(connection, execution_id, execution.last_seq, expires)

        try:
            async for _ in self._transport.stream(ask, is_last):
                pass
        except Deadline:
            raise timed_out(await self.get_execution(execution_id), limit) from None
        return await self.get_execution(execution_id)

    async def _run(
        self,
        start: executions_pb2.Start,
        timeout_secs: object,
        on_output: Callable[[Output], Any] | None,
        on_timeout: object,
        on_cancel: object,
        given: Offers,
    ) -> ExecutionResult:
        limit, detach, interrupt = _checked(timeout_secs, on_timeout, on_cancel)
        view = ExecutionView()
        with _tracing.span("cellyard.run") as traced:
            try:
                async with aclosing(self._events(start, view, limit, detach, given)) as happening:
                    async for event in happening:
                        if isinstance(event, events.OutputEvent):
                            await _io_async.tell(on_output, event.output)
                        elif isinstance(event, Progress):
                            await _io_async.tell(self._on_progress, event)
                        elif isinstance(event, events.Finished):
                            traced.note(end=str(event.result.end), end_reason=event.result.end_reason or "")
                            error = refusal(event.result, limit)
                            if error is not None:
                                raise error
                            return event.result
            except _io_async.Cancelled:
                if interrupt:
                    await self._cancel_started(start, view)
                raise
            finally:
                traced.note(notebook_id=self._notebook_id, execution_id=view.execution_id)
        raise AssertionError("a stream of events ends with Finished")

    async def _stream(
        self,
        start: executions_pb2.Start,
        limit: float | None,
        detach: bool,
        interrupt: bool,
        given: Offers,
        on_accepted: Callable[[str], Any] | None,
    ) -> AsyncGenerator[events.Event, None]:
        view = ExecutionView()
        try:
            async with aclosing(self._events(start, view, limit, detach, given, on_accepted)) as happening:
                async for event in happening:
                    yield event
        except _io_async.Cancelled:
            if interrupt:
                await self._cancel_started(start, view)
            raise

    async def _events(
        self,
        start: executions_pb2.Start,
        view: ExecutionView,
        limit: float | None,
        detach: bool,
        given: Offers,
        on_accepted: Callable[[str], Any] | None = None,
    ) -> AsyncGenerator[events.Event, None]:
        """The events of an execution that is started here, healed; `Finished` is the last."""
        await self._connected()
        self._complete(start)
        given.write(start)
        if limit is not None and not detach:
            start.timeout_s = limit
        expires: float | None = None
        resumed = missed = False

        def ask(connection: Connection) -> _io_async.Call[executions_pb2.ExecutionEvent]:
            nonlocal resumed
            if not view.execution_id:
                return connection.stubs.executions.Execute(start, metadata=connection.metadata)
            resumed = True
            return self._attach(connection, view.execution_id, view.seq, expires, self._session_id)

        # To leave a running cell after its time, the stream is taken up anew when it starts, with that deadline.
        stages = (is_started, is_last) if detach and limit is not None else (is_last,)
        ended = False
        try:
            for last in stages:
                async with (
                    aclosing(self._transport.stream(ask, last)) as messages,
                    _io_async.Beside() as answers,
                ):
                    async for message in messages:
                        if not await blobs.fill(self._transport, self._notebook_id, message):
                            missed = True
                        if message.HasField("accepted") and not view.execution_id:
                            await _io_async.tell(on_accepted, message.accepted.execution_id)
                        event = view.take(message)
                        if isinstance(event, events.Started):
                            self._kernel_seen = True
                        elif isinstance(event, events.Finished):
                            ended = True
                            if resumed or missed:  # what happened during a break may have come folded, or not at all
                                whole = await self.get_execution(view.execution_id)
                                event = events.Finished(replace(whole, reply=event.result.reply), view.seq)
                        if event is not None:
                            yield event
                        if isinstance(event, events.HostCalled | events.InputRequested):
                            await answers.start(event.call_id, self._answer, view.execution_id, event, given, answers)
                        elif message.HasField("call_ended"):
                            answers.cancel(message.call_ended.call_id)
                if ended:
                    return
                if limit is not None:
                    expires = time.monotonic() + limit
        except Deadline:
            raise timed_out(view.result(), limit) from None

    def _complete(self, start: executions_pb2.Start) -> executions_pb2.Start:
        start.notebook_id = self._notebook_id
        start.session_id = self._session_id
        start.request_id = _requests.request_id()
        self._presence.used_kernel = True
        start.kernel.CopyFrom(self._kernel_settings())
        return start

    async def _cancel_started(self, start: executions_pb2.Start, view: ExecutionView) -> None:
        """Cancels what `start` started, as well as it can be done in passing."""
        execution_id = view.execution_id
        if not execution_id:  # the same request gives the same execution, if it was accepted
            accepted = await self._transport.attempt(lambda s: s.executions.Enqueue, start, timeout=CANCEL_TIMEOUT_S)
            if accepted is None:
                return
            execution_id = accepted.execution_id
        request = self._cancellation(execution_id)
        await self._transport.attempt(lambda s: s.executions.Cancel, request, timeout=CANCEL_TIMEOUT_S)

    def _cancellation(self, execution_id: str) -> executions_pb2.CancelExecution:
        return executions_pb2.CancelExecution(
            notebook_id=self._notebook_id, execution_id=execution_id, request_id=_requests.request_id()
        )

    def _getting(self, execution_id: str) -> executions_pb2.GetExecution:
        return executions_pb2.GetExecution(
            notebook_id=self._notebook_id, execution_id=_requests.named("execution_id", execution_id)
        )

    def _attach(
        self, connection: Connection, execution_id: str, after_seq: int, expires: float | None, session_id: str = ""
    ) -> _io_async.Call[executions_pb2.ExecutionEvent]:
        """The rest of an execution's stream, cut at `expires` (monotonic seconds). With `session_id` this session
        answers its calls."""
        left = None if expires is None else expires - time.monotonic()
        if left is not None and left <= 0:
            raise Deadline
        request = executions_pb2.AttachExecution(
            notebook_id=self._notebook_id, execution_id=execution_id, after_seq=after_seq, session_id=session_id
        )
        return connection.stubs.executions.Attach(request, timeout=left, metadata=connection.metadata)


def _checked(timeout_secs: object, on_timeout: object, on_cancel: object) -> tuple[float | None, bool, bool]:
    """The time limit, and whether to detach at it, and whether to interrupt when the caller is cancelled."""
    return (
        _requests.seconds("timeout_secs", timeout_secs),
        _requests.one_of("on_timeout", on_timeout, ("interrupt", "detach")) == "detach",
        _requests.one_of("on_cancel", on_cancel, ("detach", "interrupt")) == "interrupt",
    )
