"""The shell channel: requests are answered one after the other, as a kernel in one's own process does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cellyard import AsyncSession
from cellyard.errors import CellyardError
from cellyard.jupyter import comms, messages
from cellyard.jupyter.channels import Channels, Request, log
from cellyard.jupyter.runs import Runs, lost

_Answer = Callable[[Request], Awaitable[dict[str, Any]]]
MAX_HISTORY = 1_000


class Shell:
    """The queue of requests and who works it off. Belongs to one event loop."""

    def __init__(
        self,
        session: AsyncSession,
        channels: Callable[[], Channels],
        runs: Runs,
        on_lost: Callable[[str], None],
    ) -> None:
        """`on_lost`: called where the kernel ended under a cell, once that is told."""
        self._session, self._channels, self._runs, self._on_lost = session, channels, runs, on_lost
        self._queue: asyncio.Queue[Request] = asyncio.Queue()
        self._answers: Mapping[str, _Answer] = {
            "complete_request": self._complete,
            "inspect_request": self._inspect,
            "is_complete_request": self._is_complete,
            "history_request": self._history,
        }
        self.parent: dict[str, Any] | None = None
        """The header of the request that is worked on, or was last."""

    def put(self, request: Request) -> None:
        """A request, to be answered in its turn."""
        if request.kind == "execute_request" or request.kind in self._answers or request.kind in comms.KINDS:
            self._queue.put_nowait(request)
        else:
            log.warning(
                "a message of the kind %s is dropped: there is no such on the shell channel", request.kind[:100]
            )

    def forget(self) -> None:
        """Whoever waits is not answered: the kernel is gone."""
        while not self._queue.empty():
            self._queue.get_nowait()

    async def work(self) -> None:
        """Answers requests, for ever."""
        while True:
            request = await self._queue.get()
            self.parent = request.header
            self._channels().publish("status", {"execution_state": "busy"}, request.header)
            try:
                await self._answer(request)
            except CellyardError as failed:
                content = {"status": "error", **messages.of_error(failed)}
                self._channels().reply(request, request.kind.replace("_request", "_reply"), content)
            except Exception:  # a defect here must not leave the front end without a kernel
                log.exception("a %s could not be answered", request.kind)
                content = {"status": "error", **messages.error_content("InternalError", "the log says more")}
                self._channels().reply(request, request.kind.replace("_request", "_reply"), content)
            finally:
                self._channels().publish("status", {"execution_state": "idle"}, request.header)

    async def _answer(self, request: Request) -> None:
        if request.kind in comms.KINDS:
            await comms.send(self._session, request)
        elif request.kind == "execute_request":
            await self._execute(request)
        else:
            content = await self._answers[request.kind](request)
            self._channels().reply(request, request.kind.replace("_request", "_reply"), {"status": "ok", **content})

    async def _execute(self, request: Request) -> None:
        if not isinstance(request.content.get("code"), str):
            log.warning("an execute_request without code is refused")
            content = {"status": "error", "execution_count": self._runs.count}
            content |= messages.error_content("InvalidRequest", "code must be text")
            self._channels().reply(request, "execute_reply", content)
            return
        content, result = await self._runs.run(request)
        if content["status"] == "error" and request.content.get("stop_on_error") is not False:
            waiting = self._taken()
        else:
            waiting = []
        self._channels().reply(request, "execute_reply", content)
        self._abort(waiting)
        if lost(result):
            assert result is not None
            self._on_lost(result.end_message or result.end_reason or "the kernel ended")

    def _taken(self) -> list[Request]:
        waiting = []
        while not self._queue.empty():
            waiting.append(self._queue.get_nowait())
        return waiting

    def _abort(self, waiting: list[Request]) -> None:
        """What a front end has put behind a cell that failed does not run; what it has asked is answered."""
        for request in waiting:
            if request.kind != "execute_request":
                self._queue.put_nowait(request)
                continue
            channels = self._channels()
            channels.publish("status", {"execution_state": "busy"}, request.header)
            aborted = {"status": "aborted", "execution_count": self._runs.count, "user_expressions": {}, "payload": []}
            channels.reply(request, "execute_reply", aborted, metadata={"status": "aborted"})
            channels.publish("status", {"execution_state": "idle"}, request.header)

    async def _complete(self, request: Request) -> dict[str, Any]:
        code, cursor = _place(request)
        found = await self._session.complete(code, cursor)
        span = {"cursor_start": found.start, "cursor_end": found.end}
        return {"matches": found.matches, **span, "metadata": found.metadata}

    async def _inspect(self, request: Request) -> dict[str, Any]:
        code, cursor = _place(request)
        data = await self._session.inspect(code, cursor, 1 if request.content.get("detail_level") else 0)
        return {"found": data is not None, "data": data or {}, "metadata": {}}

    async def _is_complete(self, request: Request) -> dict[str, Any]:
        told = await self._session.is_complete(_text(request.content.get("code")))
        return {"status": told.status, **({"indent": told.indent} if told.status == "incomplete" else {})}

    async def _history(self, request: Request) -> dict[str, Any]:
        content = request.content
        asked: dict[str, Any] = {
            "output": content.get("output") is True,
            "raw": content.get("raw") is not False,
            "limit": MAX_HISTORY,
        }
        access = content.get("hist_access_type")
        if isinstance(content.get("n"), int) and access != "range":
            asked["limit"] = max(content["n"], 1)
        if access == "range":
            asked |= {"session": _number(content.get("session")) or 0, "start": _number(content.get("start")) or 0}
            asked["stop"] = _number(content.get("stop"))
        elif access == "search":
            asked |= {"pattern": _text(content.get("pattern")), "unique": content.get("unique") is True}
        found = await self._session.find_history(**asked)
        return {
            "history": [
                (each.session, each.execution_count, (each.source, each.output) if asked["output"] else each.source)
                for each in found
            ]
        }


def _place(request: Request) -> tuple[str, int | None]:
    code, cursor = _text(request.content.get("code")), request.content.get("cursor_pos")
    return code, min(max(cursor, 0), len(code)) if isinstance(cursor, int) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and abs(value) < 2**31 else None
