"""Whatever order of runs, timeouts, givings-up, resets and closings: an in-process session holds what its code left."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cellyard.codemode.executors.inprocess import InProcessExecutor
from cellyard.codemode.results import ExecutionResult
from cellyard.results import End

from .test_inprocess import PATIENCE_S, Host, Names, too_long

T = TypeVar("T")
names = st.sampled_from("abc")


class Sessions(RuleBasedStateMachine):
    """One session after another, and what its variables should be."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.before = (sys.stdout, sys.stderr, sys.stdin, threading.Thread.start)
        self.variables: dict[str, int] = {}
        self.overwritten = False
        self.open()

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asyncio.wait_for(coroutine, PATIENCE_S))

    def run(self, code: str, timeout: float | None = PATIENCE_S) -> ExecutionResult:
        return self.do(self.executor.run(code, timeout))

    def open(self) -> None:
        async def start() -> tuple[Host, InProcessExecutor]:
            host, executor = Host(), InProcessExecutor(namespaces=Names)
            await executor.start(host)
            return host, executor

        self.host, self.executor = self.do(start())
        self.closed = False
        self.variables, self.overwritten = {}, False

    @precondition(lambda self: self.closed)
    @rule()
    def another(self) -> None:
        self.open()

    @precondition(lambda self: not self.closed)
    @rule(name=names, number=st.integers(0, 9), fails=st.booleans())
    def assigns(self, name: str, number: int, fails: bool) -> None:
        result = self.run(f"{name} = {number}\nprint({name}, end='')\n{name}" + ("\n1 / 0" if fails else ""))
        assert (result.is_ok, result.value, result.stdout) == (not fails, None if fails else number, str(number))
        self.variables[name] = number

    @precondition(lambda self: not self.closed)
    @rule(name=names, code=st.sampled_from(["while True: pass", "import asyncio\nawait asyncio.sleep(1000)"]))
    def takes_too_long(self, name: str, code: str) -> None:
        assert self.do(too_long(self.executor, f"{name} = 10\nprint('begun', end='')\n{code}\n{name} = 11"))
        self.variables[name] = 10

    @precondition(lambda self: not self.closed)
    @rule(name=names)
    def is_given_up(self, name: str) -> None:
        async def give_up() -> None:
            self.host.events.clear()
            running = asyncio.create_task(
                self.executor.run(f"{name} = 20\ntools('tell', name='begun')\nwhile True: pass\n{name} = 21", None)
            )
            await self.host.reached("begun")
            running.cancel()
            await asyncio.wait({running})
            assert running.cancelled()

        self.overwrite(False)
        self.do(give_up())
        self.variables[name] = 20

    @precondition(lambda self: not self.closed)
    @rule(name=names)
    def run_at_once(self, name: str) -> None:
        async def at_once() -> list[ExecutionResult]:
            code = f"{name} = globals().get({name!r}, 0) + 1\nprint({name}, end='')\n{name}"
            return await asyncio.gather(*(self.executor.run(code, PATIENCE_S) for _ in range(3)))

        begun = self.variables.get(name, 0)
        results = self.do(at_once())
        assert [result.value for result in results] == [begun + 1, begun + 2, begun + 3]
        assert [result.stdout for result in results] == [str(begun + 1), str(begun + 2), str(begun + 3)]
        self.variables[name] = begun + 3

    @precondition(lambda self: not self.closed)
    @rule(overwritten=st.booleans())
    def overwrite(self, overwritten: bool) -> None:
        self.run("tools = 5" if overwritten else "del tools")
        self.overwritten = overwritten

    @precondition(lambda self: not self.closed)
    @rule(while_running=st.booleans())
    def resets(self, while_running: bool) -> None:
        async def reset() -> None:
            if not while_running or self.overwritten:
                await self.executor.reset()
                return
            self.host.events.clear()
            running = asyncio.create_task(self.executor.run("tools('tell', name='begun')\nwhile True: pass", None))
            await self.host.reached("begun")
            await self.executor.reset()
            assert (await running).end is End.INTERRUPTED

        self.do(reset())
        self.variables, self.overwritten = {}, False

    @precondition(lambda self: not self.closed)
    @rule()
    def closes(self) -> None:
        self.do(self.executor.close())
        self.closed = True

    @invariant()
    def holds_what_was_left(self) -> None:
        if self.closed:
            assert self.run("1").error == "Session is closed"
            assert (sys.stdout, sys.stderr, sys.stdin, threading.Thread.start) == self.before
            return
        result = self.run("{name: globals()[name] for name in 'abc' if name in globals()}, tools == 5")
        assert result.value == (self.variables, self.overwritten), result.error
        assert result.stdout == ""

    def teardown(self) -> None:
        self.do(self.executor.close())
        self.runner.close()


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
