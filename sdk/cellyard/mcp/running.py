"""The tools that run code, and those that read what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mcp import types

from cellyard import events
from cellyard._display import shorten
from cellyard._execution import refusal
from cellyard.errors import ExecutionTimeout
from cellyard.mcp import arguments, results
from cellyard.mcp.tools import Call, Tool, listing
from cellyard.results import End, ExecutionResult, Progress

_TOLD = 200


async def run_code(call: Call, given: arguments.RunCode) -> types.CallToolResult:
    """Runs new code and waits for its end. When the request is cancelled, the code is interrupted."""
    async with call.at(given.notebook_id, makes=True, kernel=True) as session:
        happening = session.stream_execute(
            code=given.code, timeout_secs=given.timeout_s or call.timeout, on_cancel="interrupt"
        )
        return results.execution(await _followed(call, happening), session.notebook_id, call.limit)


async def run_cell(call: Call, given: arguments.RunCell) -> types.CallToolResult:
    """Runs a cell that is there, as `run_code` does new code."""
    async with call.at(given.notebook_id, kernel=True) as session:
        happening = session.stream_execute(
            given.cell_id, timeout_secs=given.timeout_s or call.timeout, on_cancel="interrupt"
        )
        return results.execution(await _followed(call, happening), session.notebook_id, call.limit)


async def read_output(call: Call, given: arguments.ReadOutput) -> types.CallToolResult:
    """What an execution has shown, page by page, or one of its images."""
    async with call.at(given.notebook_id) as session:
        result = await session.get_execution(given.execution_id)
        if result.end is None and given.wait_s:
            try:
                result = await session.wait(given.execution_id, given.wait_s)
            except ExecutionTimeout as still_running:
                result = still_running.result or result
        if given.image is not None:
            return results.one_image(result, given.image)
        return results.output_page(result, session.notebook_id, given.offset, call.limit)


async def list_executions(call: Call, given: arguments.ListExecutions) -> types.CallToolResult:
    """What ran in a notebook, whoever asked for it."""
    async with call.at(given.notebook_id) as session:
        found = await session.list_executions(given.limit)
        shown = [
            {
                **results.fields(each, "execution_id", "cell_id", "status", "end_reason", "started_at", "duration"),
                "source": shorten(each.source or "", _TOLD),
            }
            for each in found
        ]
        return results.data({"executions": shown})


async def _followed(call: Call, happening: AsyncIterator[events.Event]) -> ExecutionResult:
    """Waits for the end, and tells the caller meanwhile what is going on.

    It waits for nothing but the events: so a cancellation reaches the stream, which interrupts the code.
    """
    async for event in happening:
        if isinstance(event, events.Finished):
            error = refusal(event.result, None)
            if error is not None and event.result.end is not End.TIMED_OUT:
                raise error  # it never ran: there is no output to show
            return event.result
        message = _said(event)
        if message:
            call.tell(message)
    raise AssertionError("a stream of events ends with Finished")


def _said(event: events.Event) -> str:
    match event:
        case Progress():
            return event.message
        case events.Queued():
            return f"waits behind {event.ahead} other cells" if event.ahead else ""
        case events.Waiting():
            return f"waits for a sandbox ({event.reason}), place {event.position}"
        case events.Started():
            return "runs"
        case events.OutputEvent():
            lines = str(event.output).strip().splitlines()
            return shorten(lines[-1], _TOLD) if lines else ""
        case events.Warned():
            return event.message
        case _:
            return ""


TOOLS = (
    Tool(
        "run_code",
        "Run code",
        "Runs Python code in a notebook's kernel, in an isolated sandbox, and gives what it shows: text, errors,"
        " images. Variables, imports and files stay for the next call. The value of the last expression is shown, so"
        " print is not needed for it; matplotlib figures come as images. The code is kept as a cell of the notebook."
        " Long output is cut in the middle and says how to read the rest. A sandbox has no network unless the operator"
        " allows some; install_packages works without it.",
        arguments.RunCode,
        run_code,
        destroys=True,
    ),
    Tool(
        "run_cell",
        "Run a cell",
        "Runs a code cell of a notebook with the source that it has now; results as from run_code.",
        arguments.RunCell,
        run_cell,
        destroys=True,
    ),
    Tool(
        "read_output",
        "Read output",
        "Reads the output of an execution from an offset on: what was cut from a result, what code that still runs has"
        " shown so far, or one of its images.",
        arguments.ReadOutput,
        read_output,
        reads=True,
    ),
    Tool(
        "list_executions",
        "List executions",
        "Lists what ran, runs and waits in a notebook, newest first, whoever started it.",
        arguments.ListExecutions,
        list_executions,
        reads=True,
        gives=listing("executions"),
    ),
)
