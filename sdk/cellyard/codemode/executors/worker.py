"""The thread that runs code, and how it is stopped."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextvars
import ctypes
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cellyard.codemode.executors import code as codes
from cellyard.codemode.executors.streams import Capture, captured
from cellyard.codemode.results import Failure

_ENDING_S = 1.0  # that tasks of the code's event loop have once they are cancelled


class Stopped(KeyboardInterrupt):
    """What code gets that has to end. A KeyboardInterrupt, because event loops and libraries let that pass."""


@dataclass(slots=True)
class Outcome:
    """How a run ended by itself."""

    value: Any = None
    value_is_repr: bool = False
    failure: Failure | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    seconds: float = 0.0


class Run:
    """Code that runs, or waits for it."""

    def __init__(
        self, execution_id: str, source: str, file: str, names: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.execution_id = execution_id
        self.source, self.file, self.names = source, file, names
        self.capture = Capture(self)
        self.done: asyncio.Future[Outcome] = loop.create_future()
        """Set when the code has ended by itself, or by being stopped."""
        self.halt: asyncio.Future[Failure] = loop.create_future()
        """Set by whoever wants it to be stopped, with what to say of it."""
        self.began: datetime | None = None
        self._loop = loop
        self._lock = threading.Lock()
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self.over = False
        """Nobody waits for it any more: it is not begun, and calls nobody."""

    def finish(self, outcome: Outcome) -> None:
        """From the run's thread."""
        try:
            self._loop.call_soon_threadsafe(self._finish, outcome)
        except RuntimeError:
            pass  # the event loop is closed: nobody waits any more

    def _finish(self, outcome: Outcome) -> None:
        if not self.done.done():
            self.done.set_result(outcome)

    def call(self, make: Callable[[], concurrent.futures.Future[Any]]) -> Any:
        """What a call to the host returns; from any thread of the run. Raises what the call raised.

        Raises CancelledError where the run is over, or is so before the answer comes.
        """
        with self._lock:
            if self.over:
                raise concurrent.futures.CancelledError
            future = make()
            self._calls.add(future)
        try:
            return future.result()
        finally:
            with self._lock:
                self._calls.discard(future)

    def end_calls(self) -> None:
        """Gives up all calls under way, and refuses all later ones."""
        with self._lock:
            self.over = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()


class Worker:
    """A thread that runs code, run after run, with one event loop and one context for all of it."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._runs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._current: Run | None = None  # whose code the thread is in; else nothing may be raised in it
        self._raised = False  # something was, since the thread was quiet
        self._task: asyncio.Task[Any] | None = None
        self._asked: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = contextvars.Context()
        self._process = os.getpid()
        # A daemon: code that cannot be stopped must not keep the program from ending. Nor do threads that code
        # starts: they are what their parent is.
        self._thread = threading.Thread(target=self._main, name="cellyard code", daemon=True)
        self._thread.start()

    def begin(self, run: Run) -> None:
        """Runs it after those before it."""
        self._runs.put(run)

    def stop(self) -> None:
        """Lets the thread end after the runs that it has."""
        self._runs.put(None)

    def interrupt(self, run: Run) -> None:
        """Stops a run: at its next bytecode, or where it awaits something. To be repeated until it has ended."""
        with self._lock:
            if self._current is not run:
                return
            if self._task is not None and self._task is not self._asked:
                self._asked = self._task  # to be cancelled; where it never awaits, that comes to nothing
                self._wake(self._task.cancel)
                return
            self._raised = True
            _raise_in(self._thread.ident or 0)
            self._wake(lambda: None)  # the loop may be waiting, and then does not come to its next bytecode
        _settle()

    def _wake(self, callback: Callable[[], object]) -> None:
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(callback)

    def _main(self) -> None:
        while (run := self._runs.get()) is not None:
            try:
                outcome = self._run(run)
            except BaseException as late:  # a repeated interrupt, between two steps of ours
                self._quiet()
                outcome = Outcome(failure=Failure.said(type(late).__name__, "interrupted"))
            run.finish(outcome)
            run.names = {}  # threads and tasks of the code hold the run
            del run, outcome
        self._close_loop()
        self.ended.set()

    def _run(self, run: Run) -> Outcome:
        started, began = time.monotonic(), datetime.now(UTC)
        run.began = began
        outcome = Outcome(failure=Failure.said("KeyboardInterrupt", "interrupted"))
        with self._lock:
            if run.over:
                return outcome
            self._current = run
        try:
            outcome = self._context.run(self._evaluate, run)
        except BaseException as error:  # an interrupt while the code's end was told
            outcome.failure = Failure.said(type(error).__name__, "interrupted")
        finally:
            self._quiet()
        outcome.started_at, outcome.ended_at = began, datetime.now(UTC)
        outcome.seconds = time.monotonic() - started
        return outcome

    def _quiet(self) -> None:
        """From here on nothing is raised in this thread from outside."""
        while True:
            try:
                with self._lock:
                    self._current = None
                if not self._raised:
                    return
                _raise_in(threading.get_ident())  # in the place of one that has not come yet, if there is one
                while True:
                    pass
            except Stopped:
                self._raised = False

    def _evaluate(self, run: Run) -> Outcome:
        with captured(run.capture):
            exit_code = 0
            try:
                parts = codes.compiled(run.source, run.file)
                value, is_repr = codes.as_data(codes.evaluate(parts, run.names, self._complete))
                outcome = Outcome(value, is_repr)
            except BaseException as error:  # whatever it is, it is the code's, and told to whoever ran it
                outcome = Outcome(failure=codes.failure_of(error))
                exit_code = (error.code if isinstance(error.code, int) else 1) if isinstance(error, SystemExit) else 1
                if isinstance(error, SystemExit) and error.code is None:
                    exit_code = 0
            if os.getpid() != self._process:
                os._exit(exit_code)  # a process that the code has forked, at the code's end
            return outcome

    def _complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine on the code's event loop, which goes on where it was in the run before."""
        if self._loop is None or self._loop.is_closed() or self._loop.is_running():
            self._loop = contextvars.Context().run(asyncio.new_event_loop)  # or it would hold this run for good
        loop = self._loop
        asyncio.set_event_loop(loop)
        task = loop.create_task(coroutine)
        with self._lock:
            self._task = task
        try:
            return loop.run_until_complete(task)
        finally:
            with self._lock:
                self._task = self._asked = None
            if task.done() and not task.cancelled():
                task.exception()  # seen: or the loop would complain
            elif not task.done():
                task.cancel()

    def _close_loop(self) -> None:
        loop = self._loop
        if loop is None or loop.is_closed() or loop.is_running():
            return
        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=_ENDING_S))
            loop.run_until_complete(loop.shutdown_asyncgens())
        except BaseException:  # the code's own, and nobody is left to be told
            pass
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _raise_in(ident: int) -> None:
    """Raises Stopped in a thread at its next bytecode."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Stopped))


def _settle() -> None:
    """To be called after an exception was raised in another thread.

    The interpreter notes that there is one for all threads together, and CPython 3.11 never ends a function that is
    traced (by a debugger, by coverage) while it is so noted, which is until some thread gets one: one that is blocked
    may never. So one is raised where it comes at once. The thread that it was meant for finds its own all the same:
    it looks whenever it goes on.
    """
    got = _thread.allocate_lock()
    got.acquire()

    def get() -> None:
        try:
            _raise_in(_thread.get_ident())
            while True:
                pass
        except Stopped:
            got.release()

    _thread.start_new_thread(get, ())  # not the caller: signals' handlers may raise there, and this come too late
    got.acquire()
