"""Requests to a kernel beside its runs: completion, inspection, history, and what it is.

A kernel answers them only when it is idle. So what is asked while a cell runs waits here until its end, or until its
time is over: the kernel never has to work off what nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cellyard_proto.v1 import link_pb2
from cellyard_sandbox import wire

NO_KERNEL = "no kernel"
BUSY = "busy"

MAX_CONTENT = 1024 * 1024
"""Bytes of an answer's content, at most."""

_MAX_OPEN = 100
_USUAL_S = 5.0  # where the order names no time
_USUAL_HISTORY = 1000
_PREFIX = "ask-"


@dataclass(slots=True)
class _Ask:
    order: link_pb2.AskKernel
    answer: Callable[[link_pb2.Reply], None]
    timer: asyncio.TimerHandle
    sent: bool = False


class Asks:
    """What was asked and not answered yet. Belongs to the event loop's thread."""

    def __init__(self, send: Callable[[wire.Request], None]) -> None:
        """`send`: to the kernel's shell channel."""
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._made = 0
        self._open: dict[str, _Ask] = {}
        self.info: dict[str, Any] = {}
        """What the kernel said of itself at its start (kernel_info_reply)."""

    def ask(self, order: link_pb2.AskKernel, answer: Callable[[link_pb2.Reply], None], *, idle: bool) -> None:
        """Asks now, if the kernel is idle."""
        if len(self._open) >= _MAX_OPEN or order.WhichOneof("what") is None:
            error = BUSY if order.WhichOneof("what") else "not a question"
            answer(link_pb2.Reply(request=order.request, error=error))
            return
        if order.HasField("info"):
            answer(link_pb2.Reply(request=order.request, **_reply(order, {"status": "ok", **self.info})))
            return
        self._made += 1
        msg_id = f"{_PREFIX}{self._made}"
        within_s = order.within_s if order.within_s > 0 else _USUAL_S
        timer = self._loop.call_later(within_s, self._close, msg_id, BUSY)
        self._open[msg_id] = _Ask(order, answer, timer)
        if idle:
            self.kernel_idle()

    def kernel_idle(self) -> None:
        """Sends what waits. To be called before the next run goes out, which may take long."""
        for msg_id, ask in list(self._open.items()):  # sending reads, too
            if not ask.sent:
                ask.sent = True
                self._send(wire.Request(msg_id, *_request(ask.order)))

    def answered(self, message: wire.Message) -> bool:
        """Takes a message from the shell channel; False where it answers none of these."""
        if not message.parent.startswith(_PREFIX) or not message.kind.endswith("_reply"):
            return False
        ask = self._open.get(message.parent)
        if ask is not None:
            try:
                self._close(message.parent, **_reply(ask.order, message.content()))
            except wire.NotAMessage:
                self._close(message.parent, "the kernel's answer cannot be read")
        return True

    def kernel_gone(self) -> None:
        """Nobody answers any more."""
        for msg_id in list(self._open):
            self._close(msg_id, NO_KERNEL)

    def _close(self, msg_id: str, error: str = "", content_json: str = "") -> None:
        ask = self._open.pop(msg_id)
        ask.timer.cancel()
        ask.answer(link_pb2.Reply(request=ask.order.request, error=error, content_json=content_json))


def _request(order: link_pb2.AskKernel) -> tuple[str, dict[str, Any]]:
    """The kind of the message and its content (Jupyter messaging: "Messages on the shell ROUTER/DEALER channel")."""
    match order.WhichOneof("what"):
        case "complete":
            code = order.complete.code
            return "complete_request", {"code": code, "cursor_pos": _cursor(code, order.complete.cursor)}
        case "inspect":
            inspect = order.inspect
            place = {"code": inspect.code, "cursor_pos": _cursor(inspect.code, inspect.cursor)}
            return "inspect_request", {**place, "detail_level": int(inspect.detail_level > 0)}
        case "is_complete":
            return "is_complete_request", {"code": order.is_complete.code}
        case _:
            return "history_request", _history(order.history)


def _history(asked: link_pb2.AskHistory) -> dict[str, Any]:
    limit = asked.limit if asked.limit > 0 else _USUAL_HISTORY
    how = {"raw": not asked.transformed, "output": asked.output}
    if asked.HasField("range"):
        stop = asked.range.stop if asked.range.HasField("stop") else None
        span = {"session": asked.range.session, "start": asked.range.start, "stop": stop}
        return {"hist_access_type": "range", **span, **how}
    if asked.HasField("search"):
        search = {"pattern": asked.search.pattern, "unique": asked.search.unique, "n": limit}
        return {"hist_access_type": "search", **search, **how}
    # Of this kernel's life; a range that starts before its first cell starts with that (ipython.py).
    return {"hist_access_type": "range", "session": 0, "start": -limit, **how}


def _cursor(code: str, cursor: int) -> int:
    return min(max(cursor, 0), len(code))


def _reply(order: link_pb2.AskKernel, content: dict[str, Any]) -> dict[str, str]:
    """The fields of the Reply."""
    if content.get("status") != "ok" and not order.HasField("is_complete"):  # whose status is the answer
        return {"error": f"{content.get('ename', 'an error')}: {content.get('evalue', '')}"[:1000]}
    text = _json(content)
    history = content.get("history")
    if order.HasField("history") and isinstance(history, list):
        while len(text) > MAX_CONTENT and history:
            del history[: len(history) // 4 + 1]  # the oldest go
            text = _json(content)
    if len(text) > MAX_CONTENT:
        return {"error": f"the kernel's answer takes {len(text)} bytes, more than {MAX_CONTENT}"}
    return {"content_json": text}


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"))
