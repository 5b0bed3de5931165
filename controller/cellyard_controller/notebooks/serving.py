"""A room's calls that the controller serves itself: each in a task of its own, which ends with its call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog

from cellyard_controller import faults
from cellyard_controller.errors import QuotaExceeded, SandboxAway, Stopping, Unavailable
from cellyard_controller.executions.calls import Answer
from cellyard_controller.ids import ExecutionId, NotebookRef
from cellyard_controller.library import serving
from cellyard_controller.library.places import Place
from cellyard_controller.library.serving import Called, Library
from cellyard_controller.notebooks.inbox import Ask
from cellyard_controller.notebooks.visits import Visits
from cellyard_controller.sandboxes.flows import Content, Done, Flow, Opened, ReadFile, WriteFile
from cellyard_controller.tenants.allowances import Allowances
from cellyard_controller.tenants.audit import Audit
from cellyard_proto.codemode.errors import CodeModeError

AT_A_TIME = 8
"""Calls of one notebook's code that are served at a time; others wait."""
_AGAIN_S = 0.5
"""Seconds until a transfer that broke is begun again."""
_MAX_MESSAGE = 10_000

log = structlog.get_logger()

Say = Callable[[Answer], Awaitable[None]]


class Serving:
    """What is served for one room's code. Used by the room's task; its own tasks come back to that with answers."""

    def __init__(
        self,
        ref: NotebookRef,
        *,
        library: Library,
        visits: Visits,
        allowances: Allowances,
        audit: Audit,
        ask: Ask,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._ref, self._library, self._allowances, self._audit = ref, library, allowances, audit
        self._files = _Files(visits)
        self._ask, self._spawn = ask, spawn
        self._turn = asyncio.Semaphore(AT_A_TIME)
        self._tasks: dict[tuple[ExecutionId, str], asyncio.Task[None]] = {}

    @property
    def busy(self) -> bool:
        """Whether anything is being served."""
        return bool(self._tasks)

    def begin(self, execution_id: ExecutionId, call_id: str, body: Mapping[str, str], say: Say) -> None:
        """Serves a call of this execution; `say` is called in the room's task. Once, until it has its end."""
        key = (execution_id, call_id)
        if key not in self._tasks:
            # By this name what the call has changed is known, should it be served again.
            called = Called(body["name"], body["args"], body["kwargs"], f"call:{execution_id}:{call_id}")
            self._tasks[key] = self._spawn(self._serve(execution_id, called, say))
            self._tasks[key].add_done_callback(lambda _: self._tasks.pop(key, None))

    def keep_only(self, execution_id: ExecutionId | None, call_ids: Collection[str]) -> None:
        """Gives up what is served for any other call than these: nobody waits for it."""
        for (owner, call_id), task in list(self._tasks.items()):
            if owner != execution_id or call_id not in call_ids:
                task.cancel()

    async def _serve(self, execution_id: ExecutionId, called: Called, say: Say) -> None:
        async with self._turn:
            answer = await self._answer(execution_id, called)
        faults.point("call-served")
        try:
            await self._ask(partial(say, answer))
        except Stopping:
            pass  # the controller's successor serves it again

    async def _answer(self, execution_id: ExecutionId, called: Called) -> Answer:
        await self._may()
        while True:
            try:
                returned = await serving.serve(self._library, Place(self._ref.tenant), called, self._files)
            except SandboxAway:
                await asyncio.sleep(_AGAIN_S)  # it comes back, or its end ends the call
            except CodeModeError as failed:
                await self._note(execution_id, called, type(failed).__name__)
                return Answer("error", str(failed)[:_MAX_MESSAGE], type(failed).__name__)
            except Exception:  # a defect here must not leave the code waiting for ever
                log.exception("a call of code failed", notebook_id=self._ref.notebook_id, function=called.function)
                await self._note(execution_id, called, "internal_error")
                return Answer("error", "internal error; the controller's log says more", "StorageError")
            else:
                await self._note(execution_id, called, "ok")
                return Answer("value", returned)

    async def _may(self) -> None:
        """Counts as a request of the tenant's; past its rate code waits."""
        while True:
            try:
                return self._allowances.request(self._ref.tenant)
            except QuotaExceeded as wait:
                await asyncio.sleep(wait.retry_after_s or _AGAIN_S)

    async def _note(self, execution_id: ExecutionId, called: Called, outcome: str) -> None:
        what = await asyncio.to_thread(serving.changes, called)
        if what:
            about = {"notebook_id": self._ref.notebook_id, "execution_id": execution_id}
            self._audit.note(called.function, tenant=self._ref.tenant, about=about, **what, outcome=outcome)


class _Files:
    """The home of the sandbox, as what is served reads and writes it."""

    def __init__(self, visits: Visits) -> None:
        self._visits = visits

    @asynccontextmanager
    async def read(self, path: str, max_bytes: int) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        async with self._visits.begin(ReadFile(path, max_bytes)) as flow:
            opened = await flow.next()
            if not isinstance(opened, Opened):
                raise Unavailable("the sandbox does not say how large its file is")
            yield opened.size, _contents(flow)

    @asynccontextmanager
    async def write(self, path: str, size: int) -> AsyncIterator[Flow]:
        async with self._visits.begin(WriteFile(path, size)) as flow:
            yield flow
            await flow.done()


async def _contents(flow: Flow) -> AsyncIterator[bytes]:
    while not isinstance(said := await flow.next(), Done):
        if isinstance(said, Content):
            yield said.content
