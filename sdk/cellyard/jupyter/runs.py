"""execute_request: run as an execution of the notebook, told as Jupyter's messages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

from cellyard import AsyncSession, events
from cellyard.errors import CellNotFound, CellyardError, NoKernel
from cellyard.jupyter import messages
from cellyard.jupyter.channels import Channels, Request, log
from cellyard.jupyter.order import Order
from cellyard.jupyter.questions import Questions
from cellyard.results import End, ExecutionResult

_REMEMBERED = 1_000  # executions, whose later output is told as theirs
_MAX_CELLS = 10_000


class Runs:
    """The cells of one kernel that ran, and the one that runs. Belongs to one event loop."""

    def __init__(self, session: AsyncSession, channels: Callable[[], Channels]) -> None:
        self._session, self._channels = session, channels
        self.questions = Questions()
        self.order = Order(self._show)
        self.count = 0
        """Of the last cell that was counted."""
        self.current: Request | None = None
        """What runs."""
        self._execution_id = ""
        self._interrupted = False
        self._requests: OrderedDict[str, Request] = OrderedDict()
        self._cells: OrderedDict[str, tuple[str, str]] = OrderedDict()

    @property
    def message_ids(self) -> dict[str, str]:
        """By execution the `msg_id` of its request."""
        return {execution_id: request.header["msg_id"] for execution_id, request in self._requests.items()}

    async def run(self, request: Request) -> tuple[dict[str, Any], ExecutionResult | None]:
        """Runs a cell; all that it has shown is published when this returns the reply's content, and how it ended.

        Without an end there was none: nobody could be asked to run it.
        """
        self.current, self._execution_id, self._interrupted = request, "", False
        self.questions.password = False
        try:
            result = await self._run(request)
        except CellyardError as failed:
            content = messages.of_error(failed)
            self._channels().publish("error", content, request.header)
            return {"status": "error", "execution_count": self.count, **content}, None
        finally:
            self.current = None
        if result.execution_count:
            self.count = result.execution_count
        content = messages.reply(result, self.count)
        if content["status"] == "error" and result.error is None:
            self._channels().publish("error", messages.failure(result), request.header)
        return content, result

    async def interrupt(self) -> None:
        """Ends what runs; what somebody else runs in this kernel too."""
        self._interrupted = True
        if self._execution_id:
            await self._session.cancel(self._execution_id)
        elif self.current is None:
            try:
                await self._session.interrupt()
            except NoKernel:
                pass  # then there is nothing to interrupt

    def forget(self) -> None:
        """The kernel is a new one. What comes of its predecessor's cells is nobody's any more."""
        self.count = 0
        self.current = None
        self._requests.clear()

    async def _run(self, request: Request) -> ExecutionResult:
        code = request.content["code"]
        silent = request.content.get("silent") is True
        how: dict[str, Any] = {
            "timeout_secs": None,
            "silent": silent,
            "store_history": request.content.get("store_history") is not False,
            "user_expressions": _expressions(request.content.get("user_expressions")),
            "payload": True,
            "on_accepted": self._accepted,
        }
        if request.content.get("allow_stdin") is True:
            how["on_input"] = lambda prompt: self.questions.ask(self._channels(), request, prompt)
        front_end_cell = "" if silent else str(request.metadata.get("cellId") or "")
        cell_id = await self._cell(front_end_cell, code)
        if cell_id is not None:
            try:
                return await self._follow(self._session.stream_execute(cell_id, **how))
            except CellNotFound:
                self._cells.pop(front_end_cell, None)  # somebody has deleted it
        result = await self._follow(self._session.stream_execute(code=code, **how))
        if front_end_cell:
            self._cells[front_end_cell] = (result.cell_id, code)
            while len(self._cells) > _MAX_CELLS:
                self._cells.popitem(last=False)
        return result

    async def _cell(self, front_end_cell: str, code: str) -> str | None:
        """The document's cell that is the front end's, with this source; None where there is none yet."""
        known = self._cells.get(front_end_cell)
        if known is None:
            return None
        cell_id, source = known
        if source != code:
            try:
                await self._session.set_source(cell_id, code)
            except CellNotFound:
                del self._cells[front_end_cell]
                return None
            self._cells[front_end_cell] = (cell_id, code)
        return cell_id

    async def _follow(self, stream: Any) -> ExecutionResult:
        async with aclosing(stream) as happening:
            async for event in happening:
                if isinstance(event, events.InputRequested):
                    self.questions.password = event.password
                if getattr(event, "seq", 0):
                    await self.order.reached(self._execution_id, event.seq, event)
                if isinstance(event, events.Finished):
                    return event.result
        raise AssertionError("a stream of events ends with Finished")

    async def _accepted(self, execution_id: str) -> None:
        assert self.current is not None, "an execution is accepted while its request is worked on"
        self._execution_id = execution_id
        self._requests[execution_id] = self.current
        while len(self._requests) > _REMEMBERED:
            self._requests.popitem(last=False)
        self.order.begin(execution_id)
        if self._interrupted:
            await self._session.cancel(execution_id)

    def _show(self, execution_id: str, event: events.Event) -> None:
        request = self._requests.get(execution_id)
        if request is None:
            return
        channels = self._channels()
        if isinstance(event, events.Started):
            if request.content.get("silent") is not True:
                self.count = event.execution_count or self.count
                told = {"code": request.content["code"], "execution_count": self.count}
                channels.publish("execute_input", told, request.header)
            return
        message = messages.shown(event)
        if message is None:
            return
        parent = request
        if message.kind == "update_display_data" and self.current is not None:
            parent = self.current  # it is what this cell does, whichever shows it
        channels.publish(message.kind, message.content, parent.header)


def lost(result: ExecutionResult | None) -> bool:
    """Whether the kernel ended under a cell."""
    return result is not None and result.end is End.LOST


def _expressions(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        return {}
    known = {name: text for name, text in given.items() if isinstance(name, str) and isinstance(text, str)}
    if len(known) != len(given):
        log.warning("user expressions that are no text are left out")
    return known
