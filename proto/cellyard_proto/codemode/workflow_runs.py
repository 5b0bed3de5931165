"""Runs workflows, where the code runs that calls them: each call anew, in globals of its own."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import linecache
import threading
from collections.abc import Coroutine, Mapping
from typing import Any

from cellyard_proto.codemode.errors import CodeModeError

MAX_NESTED = 50
"""Workflows within workflows."""

_nested: contextvars.ContextVar[int] = contextvars.ContextVar("cellyard_nested_workflows", default=0)


def run(name: str, source: str, namespaces: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """Calls the source's `run`, and awaits it where it is a coroutine function. Raises what it raises."""
    depth = _nested.get()
    if depth >= MAX_NESTED:
        raise CodeModeError(f"workflows call one another more than {MAX_NESTED} deep, at {name!r}")
    token = _nested.set(depth + 1)
    try:
        file = f"<workflow {name}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        variables = {"__name__": f"workflow_{name}", "__file__": file, **namespaces}
        exec(compile(source, file, "exec", dont_inherit=True), variables)
        result = variables["run"](**arguments)
        return _awaited(result) if inspect.iscoroutine(result) else result
    finally:
        _nested.reset(token)


def _awaited(work: Coroutine[Any, Any, Any]) -> Any:
    """Its result. It has an event loop to itself, in a thread where this one runs a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _Thread(work).result()


class _Thread:
    """A coroutine on an event loop of its own, cancelled when whoever waits for it is interrupted."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[Any] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._ready = threading.Event()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._serve,), name="workflow", daemon=True)

    def result(self) -> Any:
        self._thread.start()
        try:
            self._thread.join()
        except BaseException:  # an interrupt: what runs there must not outlive what called it
            self._ready.wait()
            if self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()
            raise
        finally:
            self._loop.close()
        if self._error is not None:
            raise self._error
        return self._value

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                self._value = runner.run(self._main())
            except BaseException as failed:  # raised where it is waited for
                self._error = failed
            finally:
                self._ready.set()

    async def _main(self) -> Any:
        self._task = asyncio.current_task()
        self._ready.set()
        return await self._work
