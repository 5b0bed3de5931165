"""One call of a tool, and the client's say in it."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cellyard.codemode.errors import CodeModeError, ToolCallError, ToolRefusedError


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that running code wants to use."""

    tool: str
    recipe: str | None = None
    """None for the tool itself."""
    args: dict[str, Any] = field(default_factory=dict)
    """As the code gave them: presets and defaults are not among them."""
    notebook_id: str | None = None
    execution_id: str | None = None


OnToolCall: TypeAlias = Callable[[ToolCall], Awaitable[ToolCall | None] | ToolCall | None]
"""Is asked before each call. None lets it go; a ToolCall with another recipe or other args goes in its place; what it
raises refuses the call, and running code sees the message. One that is no coroutine function is called in a thread, so
it may block, as a question to a person does."""


async def asked(ask: OnToolCall, call: ToolCall) -> ToolCall:
    """The call that may go. Raises ToolRefusedError, and ToolCallError for an answer that is none."""
    # A copy, so that what a callback does to the arguments counts only where it returns them.
    shown = ToolCall(call.tool, call.recipe, copy.deepcopy(call.args), call.notebook_id, call.execution_id)
    try:
        if inspect.iscoroutinefunction(ask) or inspect.iscoroutinefunction(getattr(ask, "__call__", None)):  # noqa: B004
            answer: object = ask(shown)
        else:
            answer = await asyncio.to_thread(ask, shown)
        if inspect.isawaitable(answer):
            answer = await answer
    except ToolRefusedError:
        raise
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if caller is not None and caller.cancelling():
            raise
        raise ToolRefusedError("on_tool_call was cancelled") from None
    except Exception as refusal:  # whatever a callback raises is its way to say no
        message = refusal.message if isinstance(refusal, CodeModeError) else str(refusal)
        raise ToolRefusedError(message or type(refusal).__name__) from refusal
    if answer is None:
        return call
    if not isinstance(answer, ToolCall):
        raise ToolCallError(f"on_tool_call returned a {type(answer).__name__}, neither None nor a ToolCall")
    if (answer.tool, answer.notebook_id, answer.execution_id) != (call.tool, call.notebook_id, call.execution_id):
        raise ToolCallError("on_tool_call may change a call's recipe and args, nothing else")
    if not (answer.recipe is None or isinstance(answer.recipe, str)):
        raise ToolCallError(f"on_tool_call returned a call whose recipe is a {type(answer.recipe).__name__}")
    return answer
