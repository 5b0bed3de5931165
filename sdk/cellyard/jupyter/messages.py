"""From what the SDK tells to the content of Jupyter's messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cellyard import errors, events
from cellyard._execution import refusal
from cellyard.results import End, ExecutionResult, Output

UNTOLD = frozenset({"output"})
"""Kinds of warnings that the output itself tells."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message for iopub, without its parent."""

    kind: str
    content: dict[str, Any]


def shown(event: events.Event) -> Message | None:
    """What an event shows; None for nothing."""
    match event:
        case events.OutputEvent(output=output):
            return _output(output)
        case events.OutputCleared(wait=wait):
            return Message("clear_output", {"wait": wait})
        case events.DisplayUpdated(display_id=display_id, output=output):
            content = _bundle(output.to_nbformat())
            return Message("update_display_data", {**content, "transient": {"display_id": display_id}})
        case events.Warned(kind=kind, message=message) if kind not in UNTOLD:
            return Message("stream", {"name": "stderr", "text": f"[cellyard: {message}]\n"})
    return None


def reply(result: ExecutionResult, count: int) -> dict[str, Any]:
    """The content of an execute_reply; `count`: the last one that is known."""
    counted = {"execution_count": result.execution_count or count}
    if result.end is End.SUCCEEDED:
        expressions, payload = result.reply.get("user_expressions", {}), result.reply.get("payload", [])
        return {"status": "ok", **counted, "user_expressions": expressions, "payload": payload}
    return {"status": "error", **counted, **failure(result), "user_expressions": {}, "payload": []}


def failure(result: ExecutionResult) -> dict[str, Any]:
    """What an execution failed of, as an `error` message has it."""
    error = result.error
    if error is not None:
        return error_content(error.ename or "", error.evalue or "", error.traceback or [])
    if result.end in (End.INTERRUPTED, End.CANCELLED):
        refused = refusal(result, None)
        if refused is not None:
            return of_error(refused)
        return error_content("KeyboardInterrupt", result.end_message or "")
    return error_content(str(result.end), result.end_message or result.end_reason or "")


def of_error(error: errors.CellyardError) -> dict[str, Any]:
    """An error of the SDK, as an `error` message has it."""
    return error_content(type(error).__name__, str(error))


def error_content(name: str, text: str, traceback: list[str] | None = None) -> dict[str, Any]:
    """The content of an `error` message."""
    return {"ename": name, "evalue": text, "traceback": traceback or [f"{name}: {text}"]}


def comm(said: events.CommSaid, requests: Mapping[str, str]) -> Message:
    """A comm's message; `requests`: by execution the `msg_id` of the request that started it.

    A widget that captures output (ipywidgets' Output) names whose by the request's id, as its code sees it: there that
    is the execution's.
    """
    data = said.data
    state = data.get("state")
    if isinstance(state, dict) and isinstance(state.get("msg_id"), str):
        known = requests.get(state["msg_id"].removeprefix("comm:"))
        if known is not None:
            data = {**data, "state": {**state, "msg_id": known}}
    content: dict[str, Any] = {"comm_id": said.comm_id, "data": data}
    if said.kind == "open":
        content["target_name"] = said.target_name
        return Message("comm_open", content)
    return Message("comm_msg" if said.kind == "message" else "comm_close", content)


def _output(output: Output) -> Message:
    content = output.to_nbformat()
    kind = content.pop("output_type")
    if kind in ("stream", "error"):
        return Message(kind, content)
    told = _bundle(content)
    told["transient"] = {"display_id": output.display_id} if output.display_id else {}
    if kind == "execute_result":
        told["execution_count"] = output.execution_count
    return Message(kind, told)


def _bundle(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": content.get("data", {}), "metadata": content.get("metadata", {})}
