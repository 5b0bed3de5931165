"""Calls of a fake agent's scripts that wait for their answers."""

from __future__ import annotations

import asyncio

from cellyard_proto.v1 import link_pb2 as link


class Calls:
    """Open calls over an agent's life; each is answered once."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, asyncio.Future[link.CallAnswer]]] = {}
        self._made = 0

    def open(self, execution_id: str) -> tuple[str, asyncio.Future[link.CallAnswer]]:
        """A new call's id, and where its answer will be."""
        self._made += 1
        call_id = f"call-{self._made}"
        answer: asyncio.Future[link.CallAnswer] = asyncio.get_running_loop().create_future()
        self._open[call_id] = (execution_id, answer)
        return call_id, answer

    def answer(self, answer: link.CallAnswer) -> None:
        """Takes the first answer of a call."""
        _, waiting = self._open.pop(answer.call_id, ("", None))
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def drop(self, execution_id: str) -> None:
        """An execution is over: nobody waits for its answers."""
        self._open = {name: call for name, call in self._open.items() if call[0] != execution_id}

    def told(self) -> list[link.OpenCall]:
        """As a hello tells them."""
        return [link.OpenCall(execution_id=owner, call_id=name) for name, (owner, _) in self._open.items()]


def reply(ask: link.AskKernel, *, busy: bool) -> link.Reply:
    """A fake kernel's reply: it knows one word."""
    if busy and not ask.HasField("info"):
        return link.Reply(request=ask.request, error="busy")
    content = {
        "complete": '{"status": "ok", "matches": ["alpha"], "cursor_start": 0, "cursor_end": 2, "metadata": {}}',
        "inspect": '{"status": "ok", "found": true, "data": {"text/plain": "alpha: a word"}, "metadata": {}}',
        "history": '{"status": "ok", "history": [[0, 1, "print a"]]}',
        "is_complete": '{"status": "incomplete", "indent": "  "}',
        "info": '{"status": "ok", "language_info": {"name": "fake"}}',
    }[ask.WhichOneof("what") or "complete"]
    return link.Reply(request=ask.request, content_json=content)
