"""Runs code in the caller's own process: the fastest, without isolation, durability or a controller.

Code shares everything with the program around it: memory, imported modules, working directory, environment, rights.
What it does to these (`os.chdir`, `sys.setrecursionlimit`, `os._exit`, a crash in C) it does to the program; what
child processes write goes to the program's own streams. A call that blocks in C cannot be cut, and one that holds the
interpreter meanwhile (`9**9**9`) holds the program up too.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextvars
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cellyard import _requests
from cellyard.codemode.errors import SessionClosed
from cellyard.codemode.executors.code import Sources, readable
from cellyard.codemode.executors.packages import Packages
from cellyard.codemode.executors.protocol import NOTHING, ExecutorConfig, Host, Needs
from cellyard.codemode.executors.streams import STREAMS, here
from cellyard.codemode.executors.worker import Outcome, Run, Worker
from cellyard.codemode.results import ExecutionResult, Failure, timed_out
from cellyard.errors import CellyardError, InvalidRequest, NotConnected
from cellyard.results import End
from cellyard_proto import values
from cellyard_proto.codemode import errors as shared
from cellyard_proto.codemode.namespaces import Namespaces
from cellyard_proto.stream_text import apply_controls

CLOSED = "Session is closed"
BACKEND = "inprocess"

_STOPS_S = (0.5, 0.5, 0.5)
"""Pauses after the first and between further interrupts; code that then still runs is left behind."""
_REMINDER_S = 1.0
"""Between interrupts of code that was left behind."""
_ENDING_S = 2.0
"""That the thread has for its end, when a session closes."""
_LARGE = 256 * 1024  # characters that are looked through in a thread, not on the event loop


@dataclass(frozen=True)
class InProcessConfig(ExecutorConfig):
    """Of an InProcessExecutor."""


class NamespaceSource(Protocol):
    """What gives code its namespaces (cellyard_proto.codemode.namespaces.Namespaces)."""

    def globals(self) -> Mapping[str, Any]:
        """By the names under which code finds them."""
        ...


class InProcessExecutor:
    """Runs code in a thread of this process. See Executor.

    Names `tools`, `workflows`, `artifacts` and `deps` that code has overwritten stay so until `reset`; those that it
    has deleted are there again in the next run. Threads that code starts may outlive the run; what they print and ask
    of the session from then on goes nowhere.
    """

    def __init__(
        self,
        config: InProcessConfig | None = None,
        *,
        install_root: str | Path | None = None,
        namespaces: Callable[[Callable[..., Any]], NamespaceSource] | None = None,
    ) -> None:
        """`install_root`: where packages go; by default a temporary folder, removed by `close`."""
        self.config = config or InProcessConfig()
        self.id = f"inprocess-{uuid.uuid4()}"
        self._make_namespaces = namespaces
        self._packages = Packages(None if install_root is None else Path(install_root))
        self._sources = Sources(self.id[:18])
        self._turn = asyncio.Lock()
        self._era = 0
        self._host: Host | None = None
        self._worker: Worker | None = None
        self._run: Run | None = None
        self._stopping: asyncio.Task[bool] | None = None
        self._left: list[tuple[Worker, Run]] = []
        self._reminding: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._capabilities: frozenset[str] = frozenset()
        self._gone = False
        self._names: dict[str, Any] = {}
        self._given: Mapping[str, Any] = {}

    async def start(self, host: Host, needs: Needs = NOTHING) -> None:
        """See Executor. There is no network to choose here, and no template."""
        if self._closing is not None:
            raise SessionClosed(CLOSED)
        if self._host is not None:
            return
        if needs.network is not None or needs.template is not None:
            raise InvalidRequest("code in this process has no network policy and no template: ask for a container")
        self._loop = asyncio.get_running_loop()
        # Calls of code are served in the context of whoever started this, not in that of the code.
        self._context = contextvars.copy_context()
        self._forget()
        self._host = host
        self._worker = Worker()
        STREAMS.begin()
        can_install = self._packages.installer() is not None
        self._capabilities = frozenset({"timeout", "reset", *(["deps_install"] if can_install else ())})

    async def run(self, code: str, timeout: float | None) -> ExecutionResult:
        """See Executor."""
        if not isinstance(code, str):
            raise InvalidRequest(f"code is a str, not {type(code).__name__}")
        timeout = _requests.seconds("timeout", timeout)
        era = self._era
        if self._closing is None and self._host is None:
            raise NotConnected("not connected: the executor has not been started")
        async with self._turn:
            if self._stopping is not None:
                await asyncio.shield(self._stopping)  # of a run that nobody waits for any more
            if self._closing is not None:
                return ExecutionResult.refused(CLOSED, source=code)
            if era != self._era:
                return ExecutionResult.refused("the session was reset before this code ran", source=code)
            return await self._in_turn(code, timeout)

    async def reset(self) -> None:
        """See Executor. Without effect before `start`."""
        if self._closing is not None:
            raise SessionClosed(CLOSED)
        if self._host is None:
            return
        self._era += 1
        self._halt(Failure.said("KeyboardInterrupt", "the session was reset"))
        async with self._turn:
            if self._stopping is not None:
                await asyncio.shield(self._stopping)
            if self._worker is not None:
                self._worker.stop()
                self._worker = Worker()
            self._forget()

    async def close(self) -> None:
        """See Executor."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def install(self, requirements: Sequence[str]) -> tuple[list[str], list[str]]:
        """See Executor. What comes can be imported in the whole process, and nothing that was there is replaced."""
        self._check_open()
        return await self._packages.install(requirements)

    async def uninstall(self, packages: Sequence[str]) -> tuple[list[str], list[str]]:
        """See Executor."""
        self._check_open()
        return await self._packages.uninstall(packages)

    def capabilities(self) -> frozenset[str]:
        """See Executor."""
        return frozenset() if self._closing is not None else self._capabilities

    def _check_open(self) -> None:
        if self._closing is not None:
            raise SessionClosed(CLOSED)

    # Runs

    async def _in_turn(self, code: str, timeout: float | None) -> ExecutionResult:
        assert self._worker is not None
        for name, given in {"__name__": "__main__", **self._given}.items():
            self._names.setdefault(name, given)
        self._names["__builtins__"] = builtins
        run = Run(str(uuid.uuid4()), code, self._sources.add(code), self._names, asyncio.get_running_loop())
        STREAMS.ensure()
        self._run = run
        self._worker.begin(run)
        ends: set[asyncio.Future[Any]] = {run.done, run.halt}
        try:
            await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if run.done.done():
                return await self._result(run, run.done.result(), End.FAILED)
            if run.halt.done():
                end, failure = End.INTERRUPTED, run.halt.result()
            else:
                end, failure = End.TIMED_OUT, Failure.said("ExecutionTimeout", f"the code {timed_out(timeout)}")
            if await asyncio.shield(self._begin_stop(run)):
                left = f"{failure.message}; a call in it could not be cut, its thread is left to end by itself"
                failure = Failure.said(failure.name, left)
            now = datetime.now(UTC)
            ran = now - (run.began or now)
            return await self._result(run, Outcome(None, False, failure, run.began, now, ran.total_seconds()), end)
        finally:
            if not run.done.done() and not run.over:
                self._begin_stop(run)  # whoever waited has given up
            run.end_calls()
            run.capture.stdout.end()
            run.capture.stderr.end()
            STREAMS.restore()
            self._run = None

    def _halt(self, why: Failure) -> None:
        if self._run is not None and not self._run.halt.done():
            self._run.halt.set_result(why)

    def _begin_stop(self, run: Run) -> asyncio.Task[bool]:
        """Stops a run. Gives whether its thread had to be left behind."""
        run.end_calls()
        assert self._worker is not None
        self._worker.interrupt(run)
        self._stopping = asyncio.create_task(self._finish_stop(run, self._worker))
        return self._stopping

    async def _finish_stop(self, run: Run, worker: Worker) -> bool:
        try:
            for pause in _STOPS_S:
                await asyncio.wait({run.done}, timeout=pause)
                if run.done.done():
                    return False
                worker.interrupt(run)
            worker.stop()
            self._left.append((worker, run))
            self._worker = Worker()
            if self._reminding is None or self._reminding.done():
                self._reminding = asyncio.create_task(self._remind())
            return True
        finally:
            self._stopping = None

    async def _remind(self) -> None:
        """Interrupts what was left behind until it has ended: it may catch what stops it."""
        while self._left:
            await asyncio.sleep(_REMINDER_S)
            for worker, run in self._left:
                worker.interrupt(run)
            self._left = [(worker, run) for worker, run in self._left if not worker.ended.is_set()]

    async def _result(self, run: Run, outcome: Outcome, end: End) -> ExecutionResult:
        texts = [stream.end() for stream in (run.capture.stdout, run.capture.stderr)]
        if max(map(len, texts)) > _LARGE:
            stdout, stderr = await asyncio.to_thread(lambda: [_shown(text) for text in texts])
        else:
            stdout, stderr = map(_shown, texts)
        return ExecutionResult.of_run(
            run.execution_id,
            end=End.SUCCEEDED if outcome.failure is None else end,
            stdout=stdout,
            stderr=stderr,
            value=outcome.value,
            value_is_repr=outcome.value_is_repr,
            error=outcome.failure,
            started_at=outcome.started_at,
            ended_at=outcome.ended_at,
            execution_time_ms=outcome.seconds * 1000,
            source=run.source,
            backend_info={"backend": BACKEND},
        )

    def _forget(self) -> None:
        """New variables, with the namespaces among them."""
        make = self._make_namespaces or Namespaces
        self._given = dict(make(self._call).globals())
        self._names = {"__doc__": None}

    async def _close(self) -> None:
        self._halt(Failure.said("KeyboardInterrupt", "the session was closed"))
        packages = asyncio.create_task(self._packages.close())  # code may be waiting for what is being installed
        try:
            async with self._turn:
                if self._stopping is not None:
                    await asyncio.shield(self._stopping)
            await packages
        finally:
            if self._reminding is not None:
                self._reminding.cancel()
            self._let_go()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.ended.wait, _ENDING_S)

    def _let_go(self) -> None:
        if self._worker is not None and not self._gone:
            self._gone = True
            self._worker.stop()
            STREAMS.end()
        self._sources.clear()
        self._names, self._given = {}, {}

    def __del__(self) -> None:
        # Dropped without a close: the program gets its streams back, and no thread waits for ever.
        if hasattr(self, "_given") and not self._gone:
            self._let_go()

    # Calls of the code

    def _call(self, function: str, operation: str, /, **arguments: Any) -> Any:
        """From a thread of the code. Raises what the host raised, as code knows it."""
        capture = here()
        run = capture.owner if capture is not None else None
        host, data = self._host, {name: _data(function, name, value) for name, value in arguments.items()}
        if not isinstance(run, Run) or host is None:
            raise shared.CodeModeError(f"{function} was called from outside of a run")

        def make() -> concurrent.futures.Future[Any]:
            call = host.call(function, operation, data, notebook_id=self.id, execution_id=run.execution_id)
            try:
                return self._context.copy().run(asyncio.run_coroutine_threadsafe, call, self._loop)
            except RuntimeError:  # the event loop is closed
                call.close()
                raise concurrent.futures.CancelledError from None

        try:
            return _data(function, "the answer", run.call(make))
        except concurrent.futures.CancelledError:
            raise shared.CodeModeError(f"{function} does not answer: the run that calls has ended") from None
        except Exception as error:  # of the host: code gets what it can catch, without the host's frames
            raise _for_code(error) from None


def _shown(text: str) -> str:
    return apply_controls(readable(text))


def _data(function: str, what: str, value: Any) -> Any:
    """A copy of data: neither side sees what the other does to its own. Raises TypeError for what is no data."""
    if type(value) in (str, bytes, int, float, bool, type(None)):
        return value
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: _data(function, what, item) for key, item in value.items()}
    if type(value) is list:
        return [_data(function, what, item) for item in value]
    try:
        return values.decode(values.encode(value))
    except values.TooLarge as large:
        raise ValueError(f"{what} of {function} is {large}") from None
    except values.NotData as bad:
        raise TypeError(f"{what} of {function} is no data: {bad}") from None


def _for_code(error: Exception) -> Exception:
    """A host's error as code can catch it: code mode's own by name, Python's own as they are."""
    message = error.args[0] if len(error.args) == 1 and isinstance(error.args[0], str) else str(error)
    for kind in type(error).__mro__:
        if issubclass(kind, shared.CodeModeError) and kind.__name__ in shared.CLASSES:
            return shared.CLASSES[kind.__name__](message)
    if isinstance(error, CellyardError):
        return shared.CodeModeError(message)
    if type(error).__module__ == "builtins":
        try:
            return type(error)(message)
        except TypeError:
            pass  # one that is made of more than a message
    return shared.CodeModeError(f"{type(error).__name__}: {message}")
