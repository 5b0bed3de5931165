"""All tools of a session: their definitions, what is wrong with those, and calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from cellyard.codemode.errors import (
    SessionClosed,
    ToolCallError,
    ToolDefinitionError,
    ToolNotFoundError,
)
from cellyard.codemode.storage.protocols import StoredTool
from cellyard.codemode.tools.calls import OnToolCall, ToolCall, asked
from cellyard.errors import CapabilityUnavailable

if TYPE_CHECKING:
    from cellyard.codemode.tools.loading import Loaded
    from cellyard.codemode.tools.parameters import Outline, Tool

_T = TypeVar("_T")
_SHOWN = 20
_log = logging.getLogger(__name__)


class ToolSet:
    """Tools made from definitions, all of one event loop. `start`, use from as many tasks as you like, `close`.

    A definition that is wrong costs only its own tool: it is in `problems`, and calling the tool says why. Of two
    definitions of one name the first counts; the other is a problem. An MCP server that cannot be connected is a
    problem too; each call of it tries again.
    """

    def __init__(self, stored: Sequence[StoredTool], on_tool_call: OnToolCall | None = None) -> None:
        """Does nothing but remember; definitions are read once, by `start`."""
        self._stored = tuple(stored)
        self._on_tool_call = on_tool_call
        self._tools: dict[str, Tool] = {}
        self._bad: dict[str, ToolDefinitionError] = {}
        self._starting = asyncio.Lock()
        self._started = False
        self._closed = False
        self._running: set[asyncio.Task[Any]] = set()
        self.problems: list[ToolDefinitionError] = []
        """What is wrong with definitions and servers, known after `start`; each names a file and a line."""

    async def start(self) -> None:
        """Reads the definitions and connects MCP servers, all side by side; a second time does nothing.

        Every other method does this by itself. Raises CapabilityUnavailable where what the extra `cellyard[codemode]`
        brings is not installed, SessionClosed after `close`.
        """
        async with self._starting:
            if self._closed:
                raise SessionClosed("Session is closed")
            if not self._started:
                await self._owned(self._start())
                self._started = True

    async def close(self) -> None:
        """Ends running calls, processes and connections: they are gone when this returns. Twice is fine."""
        self._closed = True
        running = {task for task in self._running if task is not asyncio.current_task()}
        for task in running:
            task.cancel()
        try:
            if running:
                await asyncio.wait(running)
        finally:
            await self._close_tools()

    async def call(self, call: ToolCall) -> Any:
        """What the tool says: data as JSON has them, text or bytes.

        Raises ToolNotFoundError, ToolDefinitionError (the tool's definition is wrong), ToolCallError,
        ToolTimeoutError, ToolRefusedError. What was called is ended at once when the caller is cancelled.
        """
        await self.start()
        return await self._owned(self._call(call))

    async def names(self) -> dict[str, list[str] | None]:
        """Recipes by tool, tools by name. None where a call tells: what is wrong with a definition, or what a server
        has that could not be connected."""
        known = {each.name: None if each.recipes is None else [*each.recipes] for each in await self._outlines()}
        return dict(sorted({**dict.fromkeys(self._bad), **known}.items()))

    async def list(self) -> list[dict[str, Any]]:
        """ToolDicts, by name: name, description, tags, callables."""
        return [each.as_data() for each in await self._outlines()]

    async def _outlines(self) -> Sequence[Outline]:
        await self.start()
        return [self._tools[name].outline() for name in sorted(self._tools)]

    async def _call(self, call: ToolCall) -> Any:
        tool = self._tool(call.tool)
        if not isinstance(call.args, dict):
            raise ToolCallError(f"a call's args are a dict, not {type(call.args).__name__}")
        tool.check(call.recipe, call.args)
        if self._on_tool_call is not None:
            call = await asked(self._on_tool_call, call)
        return await tool.call(call.recipe, call.args)

    def _tool(self, name: str) -> Tool:
        if name in self._tools:
            return self._tools[name]
        if name in self._bad:
            raise ToolDefinitionError(self._bad[name].message)
        known = sorted(self._tools)
        more = f" (and {len(known) - _SHOWN} more)" if len(known) > _SHOWN else ""
        raise ToolNotFoundError(f"Unknown tool: {name:.80}. Available: {', '.join(known[:_SHOWN]) or 'none'}{more}")

    async def _start(self) -> None:
        if not self._stored:
            return  # what tools need, need not be installed
        # Imports, and large definitions, take long enough to hold up everything else of this loop.
        loaded = await asyncio.to_thread(_loaded, self._stored)
        self._tools = dict(loaded.tools)
        paths = {name: stored.path for name, (stored, _) in loaded.definitions.items()}
        try:
            async with asyncio.TaskGroup() as opening:
                opened = {name: opening.create_task(_problem(tool)) for name, tool in self._tools.items()}
        except BaseException:  # what was opened would be known to nobody
            await self._close_tools()
            raise
        self._bad = loaded.bad
        problems = [
            ToolDefinitionError(f"{paths[name]}:1: {task.result()}") for name, task in opened.items() if task.result()
        ]
        self.problems = [*loaded.problems, *problems]
        for problem in self.problems:
            _log.warning("%s", problem)

    async def _close_tools(self) -> None:
        """Also where this is cancelled: then what was being ended gently is cut."""
        tools, self._tools = self._tools, {}
        if not tools:
            return
        closing = [asyncio.create_task(tool.close()) for tool in tools.values()]
        try:
            await asyncio.wait(closing)
        finally:
            for each in closing:
                each.cancel()
            await asyncio.gather(*closing, return_exceptions=True)

    async def _owned(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Runs it as a task that `close` can end."""
        task = asyncio.create_task(work)
        self._running.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._closed and caller is not None and not caller.cancelling():
                raise SessionClosed("Session is closed") from None
            raise
        finally:
            self._running.discard(task)


def _loaded(stored: Sequence[StoredTool]) -> Loaded:
    try:
        from cellyard.codemode.tools.loading import load

        return load(stored)
    except ImportError as missing:
        raise CapabilityUnavailable(
            f"the module {missing.name} is not there, which tools need: pip install 'cellyard[codemode]'"
        ) from missing


async def _problem(tool: Tool) -> str:
    """Opens it, and says what is wrong with it."""
    try:
        await tool.open()
    except ToolCallError as failure:
        return f"{tool.name}: {failure.message}"
    return ""
