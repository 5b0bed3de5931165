"""Code in this very process: what it gives back, how it is stopped, and what it does not do to the program."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import linecache
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cellyard.codemode import errors
from cellyard.codemode.errors import SessionClosed
from cellyard.codemode.executors.inprocess import InProcessConfig, InProcessExecutor
from cellyard.codemode.executors.protocol import Executor
from cellyard.codemode.executors.streams import MAX_BYTES
from cellyard.codemode.results import ExecutionResult
from cellyard.errors import InvalidRequest, NotConnected
from cellyard.results import End

PATIENCE_S = 60.0
SOON_S = (0.2, 2.0, 20.0)
"""Timeouts that are meant to be met: the next one where a busy machine had not come far enough by then."""


class Names:
    """Stands for the namespaces: `tools(operation, **arguments)` calls the host."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def globals(self) -> dict[str, Any]:
        return {"tools": lambda operation, **arguments: self._call("codemode.tools", operation, **arguments)}


class Host:
    """Serves calls, and lets tests see them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.events: dict[str, asyncio.Event] = {}
        self.cancelled: list[str] = []

    def event(self, name: str) -> asyncio.Event:
        return self.events.setdefault(name, asyncio.Event())

    async def reached(self, name: str) -> None:
        await asyncio.wait_for(self.event(name).wait(), PATIENCE_S)

    async def call(
        self, function: str, operation: str, arguments: dict[str, Any], *, notebook_id: str, execution_id: str
    ) -> Any:
        assert notebook_id
        assert execution_id
        self.calls.append((function, operation, arguments))
        if operation == "tell":
            self.event(arguments["name"]).set()
            return None
        if operation == "wait":
            try:
                await self.event(arguments["name"]).wait()
            except asyncio.CancelledError:
                self.cancelled.append(arguments["name"])
                raise
            return arguments["name"]
        if operation == "fail":
            raise {
                "tool": errors.ToolNotFoundError("no such tool"),
                "timeout": errors.ToolTimeoutError("it took too long"),
                "value": ValueError("not that"),
                "own": type("OwnError", (Exception,), {})("of the host"),
            }[arguments["how"]]
        if operation == "print":
            print("the host speaks")
        return {"got": arguments}


@pytest.fixture
async def host() -> Host:
    return Host()


@pytest.fixture
async def executor(host: Host) -> AsyncIterator[InProcessExecutor]:
    executor = InProcessExecutor(namespaces=Names)
    await executor.start(host)
    yield executor
    await executor.close()


async def run(executor: InProcessExecutor, code: str, timeout: float | None = PATIENCE_S) -> ExecutionResult:
    return await executor.run(code, timeout)


async def too_long(
    executor: InProcessExecutor,
    code: str,
    enough: Callable[[ExecutionResult], bool] = lambda result: result.stdout.startswith("begun"),
) -> ExecutionResult:
    """What code gives that meets its timeout after it came far enough. It may run several times."""
    for timeout in SOON_S:
        result = await run(executor, code, timeout)
        assert result.end is End.TIMED_OUT
        assert f"timed out after {timeout:g}s" in (result.error or "")
        if enough(result):
            return result
    raise AssertionError(f"it does not come far enough: {result}")


async def value(executor: InProcessExecutor, code: str) -> Any:
    result = await run(executor, code)
    assert result.error is None, result.error
    return result.value


async def failure(executor: InProcessExecutor, code: str) -> str:
    result = await run(executor, code)
    assert not result.is_ok
    assert result.value is None
    assert result.error is not None
    return result.error


def test_it_is_an_executor() -> None:
    assert isinstance(InProcessExecutor(), Executor)


# What code gives back


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 + 1", 2),
        ("1\n2", 2),
        ("x = 5\nx", 5),
        ("x = 5", None),
        ("5;", None),
        ("5;  # no more", None),
        ("'a;b'", "a;b"),
        ("", None),
        ("   \n# nothing", None),
        ("None", None),
        ("float('inf')", float("inf")),
        ("(1, 'two', b'3', {4.5}, 6j)", (1, "two", b"3", {4.5}, 6j)),
        ("list(range(2000))", list(range(2000))),
        ("'x' * 200_000", "x" * 200_000),
        ("2 ** 100", 2**100),
        ("from collections import OrderedDict\nOrderedDict(a=1)", {"a": 1}),
        ("import asyncio\nawait asyncio.sleep(0, 'late')", "late"),
        ("async def f():\n    return 7\nv = await f()\nv + 1", 8),
        ("import asyncio\nt = asyncio.create_task(asyncio.sleep(0, 3))\nawait t", 3),
        ("import asyncio\nasync def f():\n    return 9\nasyncio.run(f())", 9),
        ("'Grüße \\U0001f600'", "Grüße \U0001f600"),
        ("__name__", "__main__"),
        ("import inspect\ndef f():\n    return 1\ninspect.getsource(f)", "def f():\n    return 1\n"),
    ],
)
async def test_a_value_is_that_of_the_last_expression(executor: InProcessExecutor, code: str, expected: Any) -> None:
    assert await value(executor, code) == expected


async def test_what_is_no_data_comes_as_its_repr(executor: InProcessExecutor) -> None:
    result = await run(executor, "class A:\n    def __repr__(self):\n        return '<A>'\nA()")
    assert (result.value, result.value_is_repr) == ("<A>", True)
    result = await run(executor, "class B:\n    def __repr__(self):\n        raise ValueError\nB()")
    assert (result.value, result.value_is_repr, result.error) == ("<B object>", True, None)
    result = await run(executor, "'y' * 3_000_000")
    assert result.value_is_repr
    assert len(result.value) < 100_000
    result = await run(executor, "[[i] * 100 for i in range(50_000)]")
    assert result.value_is_repr
    assert result.value.startswith("[[0, 0")


async def test_a_value_is_a_copy(executor: InProcessExecutor) -> None:
    first = await value(executor, "kept = [1]\nkept")
    first.append(2)
    assert await value(executor, "kept") == [1]


async def test_a_result_tells_of_its_run(executor: InProcessExecutor) -> None:
    result = await run(executor, "import sys\nprint('out')\nprint('err', file=sys.stderr)\n'v'")
    assert (result.value, result.stdout, result.stderr) == ("v", "out\n", "err\n")
    assert (result.is_ok, result.success, result.error, result.end) == (True, True, None, End.SUCCEEDED)
    assert result.backend_info == {"backend": "inprocess"}
    assert result.execution_time_ms is not None
    assert result.execution_time_ms >= 0
    assert result.started_at is not None
    assert result.ended_at is not None
    assert result.execution_id
    assert result.source is not None
    assert "value='v'" in repr(result)


async def test_variables_functions_and_imports_stay_and_a_failure_loses_none(executor: InProcessExecutor) -> None:
    await run(executor, "import json\ndef double(n):\n    return 2 * n\nx = 1")
    await failure(executor, "x = 2\ny = 3\n1 / 0\nx = 4")
    assert await value(executor, "(json.dumps([double(x)]), y)") == ("[4]", 3)


async def test_threads_locals_and_event_loop_are_the_same_in_the_next_run(executor: InProcessExecutor) -> None:
    await run(executor, "import asyncio, sqlite3, threading\ndb = sqlite3.connect(':memory:')\nlock = asyncio.Lock()")
    await run(
        executor,
        "own = threading.local()\nown.x = 1\nawait lock.acquire()\nlater = asyncio.create_task(lock.acquire())",
    )
    assert await value(executor, "lock.release()\nawait later\n(own.x, db.execute('select 1').fetchone())") == (1, (1,))
    await run(executor, "db.close()")


# Errors


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("import sys\nsys.exit()", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit('x')", "GeneratorExit: x"),
        ("await missing()", "NameError: name 'missing' is not defined"),
        ("import asyncio\nasync def f():\n    raise SystemExit(1)\nawait f()", "SystemExit: 1"),
        ("a b", "SyntaxError: invalid syntax"),
        ("'\\ud800'.encode()", "UnicodeEncodeError:"),
        ("x = '\ud800'", "UnicodeEncodeError:"),
        ("x = 1\0", ": source code"),
        ("input('? ')", "EOFError: EOF when reading a line"),
        ("def f():\n    f()\nf()", "RecursionError:"),
        ("(" * 5000, ": "),
        ("class E(Exception):\n    pass\nraise E('own')", "E: own"),
        ("e = ValueError('a')\ne.add_note('noted')\nraise e", "noted"),
        ("raise ExceptionGroup('several', [ValueError(1), KeyError(2)])", "---"),
        ("e = ValueError('self')\ne.__cause__ = e\nraise e", "ValueError: self"),
        ("raise ValueError('x' * 10_000_000)", "xxx"),
        (
            "class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E",
            "E: <exception str() failed>",
        ),
    ],
)
async def test_whatever_is_raised_is_text(executor: InProcessExecutor, code: str, last: str) -> None:
    error = await failure(executor, code)
    assert last in error.rpartition("\n")[2]
    assert "\x1b" not in error
    assert await value(executor, "1") == 1


async def test_a_traceback_shows_the_codes_own_lines_and_nothing_else(executor: InProcessExecutor) -> None:
    await run(executor, "def inner():\n    raise ValueError('deep')  # here")
    error = await failure(executor, "import json\ntry:\n    json.loads('{')\nexcept ValueError:\n    inner()")
    assert error.startswith("Traceback (most recent call last):")
    assert "raise ValueError('deep')  # here" in error
    assert "    raise ValueError('deep')  # here\n    ^^^^^^^^^^^^^^^^^^^^^^^^\n" in error
    assert "json" in error
    assert "cellyard/" not in error
    assert error.count("Traceback") == 2
    assert error.endswith("\nValueError: deep")


async def test_lines_are_kept_of_the_latest_runs_alone(executor: InProcessExecutor) -> None:
    before = len(linecache.cache)
    for _ in range(250):
        await run(executor, "1")
    assert len(linecache.cache) - before <= 200
    await executor.close()
    assert len([file for file in linecache.cache if executor.id[:18] in file]) == 0


# Streams


async def test_output_before_a_failure_is_kept(executor: InProcessExecutor) -> None:
    result = await run(executor, "print('one')\nprint('two', end='')\n1 / 0")
    assert (result.stdout, result.is_ok) == ("one\ntwo", False)


async def test_the_programs_other_threads_keep_their_output(
    executor: InProcessExecutor, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    running = asyncio.create_task(run(executor, "print('code')\ntools('tell', name='begun')\ntools('wait', name='go')"))
    await host.reached("begun")
    print("program")
    other = threading.Thread(target=lambda: print("its thread"))
    other.start()
    other.join()
    host.event("go").set()
    assert (await running).stdout == "code\n"
    assert capsys.readouterr().out == "program\nits thread\n"


async def test_threads_of_the_code_write_to_its_run(executor: InProcessExecutor) -> None:
    code = (
        "import threading, asyncio\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "def outer():\n    inner = threading.Thread(target=print, args=('inner',))\n"
        "    inner.start()\n    inner.join()\n"
        "thread = threading.Thread(target=outer)\nthread.start()\nthread.join()\n"
        "with ThreadPoolExecutor() as pool:\n    pool.submit(print, 'pool').result()\n"
        "await asyncio.to_thread(print, 'to_thread')\n"
        "class Own(threading.Thread):\n    def run(self):\n        print('subclass')\n"
        "own = Own()\nown.start()\nown.join()\nasync def task():\n    print('task')\nawait asyncio.create_task(task())"
    )
    assert (await run(executor, code)).stdout == "inner\npool\nto_thread\nsubclass\ntask\n"


async def test_what_a_host_prints_while_it_serves_a_call_is_the_programs(
    executor: InProcessExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await run(executor, "tools('print')")).stdout == ""
    assert capsys.readouterr().out == "the host speaks\n"


async def test_runs_that_wait_for_one_another_have_their_own_output(executor: InProcessExecutor) -> None:
    results = await asyncio.gather(
        *(run(executor, f"print({n})\nfor _ in range(3): print({n})\n{n}") for n in range(8))
    )
    assert [(result.value, result.stdout) for result in results] == [(n, f"{n}\n" * 4) for n in range(8)]


async def test_sessions_side_by_side_have_their_own_output_and_variables(host: Host) -> None:
    async with contextlib.AsyncExitStack() as stack:
        executors = []
        for _ in range(4):
            each = InProcessExecutor(namespaces=Names)
            await each.start(host)
            stack.push_async_callback(each.close)
            executors.append(each)
        meet = "import threading\ntools('tell', name=str(n))\ntools('wait', name='all')\nprint('of', n)\nn"

        async def let_all_go() -> None:
            for n in range(4):
                await host.reached(str(n))
            host.event("all").set()

        results, _ = await asyncio.gather(
            asyncio.gather(*(run(each, f"n = {n}\n{meet}") for n, each in enumerate(executors))), let_all_go()
        )
    assert [(result.value, result.stdout) for result in results] == [(n, f"of {n}\n") for n in range(4)]


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("import sys\nsys.stdout.buffer.write('äöü'.encode()[:3])\nsys.stdout.buffer.write('äöü'.encode()[3:])", "äöü"),
        ("import sys\nsys.stdout.buffer.write(b'\\xff')", "\ufffd"),
        ("print('10%\\r20%\\r30%')", "30%\n"),
        ("print('\\ud83d\\ude00 \\ud800')", "\U0001f600 \ufffd\n"),
        ("import sys\nsys.stdout.close()\nprint('on')", "on\n"),
        (
            "import sys\nsys.stdout.writelines(['a', 'b'])\nprint(sys.stdout.isatty(), sys.stdout.encoding)",
            "abFalse utf-8\n",
        ),
        ("print('\\x1b[31mred')", "\x1b[31mred\n"),
        ("for line in __import__('sys').stdin:\n    print(line)\nprint('none')", "none\n"),
    ],
)
async def test_streams_behave_as_streams(executor: InProcessExecutor, code: str, shown: str) -> None:
    result = await run(executor, f"{code}\n0")
    assert (result.error, result.stdout) == (None, shown)


async def test_output_past_its_limit_is_cut_with_a_notice(executor: InProcessExecutor) -> None:
    result = await run(executor, "line = 'x' * 1023 + '\\n'\nfor _ in range(11 * 1024):\n    print(line, end='')\n1")
    assert result.value == 1
    assert result.stdout.endswith(f"x\n[cellyard: output truncated after {MAX_BYTES} bytes]\n")
    assert MAX_BYTES <= len(result.stdout) <= MAX_BYTES + 100
    result = await run(executor, "print('€' * 8_000_000)")
    assert result.stdout.endswith(f"€\n[cellyard: output truncated after {MAX_BYTES} bytes]\n")
    assert len(result.stdout.encode()) <= MAX_BYTES + 100


async def test_streams_that_code_replaces_are_back_after_its_run(
    executor: InProcessExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    result = await run(executor, "import io, sys\nsys.stdout = mine = io.StringIO()\nprint('hidden')\nmine.getvalue()")
    assert result.value == "hidden\n"
    print("program")
    assert capsys.readouterr().out == "program\n"
    assert (await run(executor, "print('seen')")).stdout == "seen\n"


async def test_a_stream_that_the_program_puts_there_for_a_while_stands_behind(executor: InProcessExecutor) -> None:
    for _ in range(50):
        with contextlib.redirect_stdout(io.StringIO()) as own:
            assert (await run(executor, "print('code')")).stdout == "code\n"
            print("program")
        assert own.getvalue() == "program\n"
    # Not one behind the other: each would make every write slower.
    depth, stream = 0, sys.stdout
    while type(stream).__name__ == "_StandIn":
        depth, stream = depth + 1, vars(stream)["_cellyard_before"]
    assert depth <= 3


async def test_after_close_all_is_as_it_was(host: Host) -> None:
    before = (sys.stdin, sys.stdout, sys.stderr, threading.Thread.start, list(sys.path))
    first, second = InProcessExecutor(namespaces=Names), InProcessExecutor(namespaces=Names)
    await first.start(host)
    await second.start(host)
    await run(first, "print(1)")
    assert sys.stdout is not before[1]
    await first.close()
    assert (await run(second, "print(2)")).stdout == "2\n"
    await second.close()
    assert (sys.stdin, sys.stdout, sys.stderr, threading.Thread.start, list(sys.path)) == before


# Calls


async def test_calls_carry_data_both_ways_and_copies_of_it(executor: InProcessExecutor, host: Host) -> None:
    assert await value(executor, "tools('echo', a=[1, (2, b'3')], b={'k': None})") == {
        "got": {"a": [1, (2, b"3")], "b": {"k": None}}
    }
    assert host.calls == [("codemode.tools", "echo", {"a": [1, (2, b"3")], "b": {"k": None}})]
    assert "TypeError" in await failure(executor, "tools('echo', a=object())")


@pytest.mark.parametrize(
    ("how", "caught"),
    [
        ("tool", ("ToolNotFoundError", "no such tool", True)),
        ("timeout", ("ToolTimeoutError", "it took too long", True)),
        ("value", ("ValueError", "not that", False)),
        ("own", ("CodeModeError", "OwnError: of the host", True)),
    ],
)
async def test_errors_of_calls_can_be_caught_by_name(
    executor: InProcessExecutor, how: str, caught: tuple[str, str, bool]
) -> None:
    code = (
        "from cellyard_proto.codemode.errors import CodeModeError\n"
        f"try:\n    tools('fail', how={how!r})\nexcept Exception as e:\n"
        "    seen = (type(e).__name__, str(e), isinstance(e, CodeModeError))\nseen"
    )
    assert await value(executor, code) == caught
    error = await failure(executor, f"tools('fail', how={how!r})")
    assert error.rpartition("\n")[2] == f"{caught[0]}: {caught[1]}"
    assert "tools('fail'" in error
    assert "cellyard" not in error


async def test_threads_of_the_code_call_at_once(executor: InProcessExecutor, host: Host) -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(3) as pool:\n"
        "    found = list(pool.map(lambda n: (tools('tell', name=n), tools('wait', name='all')), 'abc'))\nlen(found)"
    )
    running = asyncio.create_task(run(executor, code))
    for name in "abc":
        await host.reached(name)
    host.event("all").set()
    assert (await running).value == 3


async def test_a_call_is_cancelled_with_its_run(executor: InProcessExecutor, host: Host) -> None:
    await too_long(executor, "tools('wait', name='never')", lambda _: bool(host.cancelled))
    assert await value(executor, "1") == 1


async def test_a_thread_that_outlives_its_run_neither_prints_nor_calls(
    executor: InProcessExecutor, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import threading\ngo, ended, seen = threading.Event(), threading.Event(), []\ndef late():\n    go.wait()\n"
        "    print('late')\n    try:\n        tools('echo')\n    except Exception as e:\n        seen.append(str(e))\n"
        "    ended.set()\nthreading.Thread(target=late).start()\nprint('early')"
    )
    assert (await run(executor, code)).stdout == "early\n"
    result = await run(executor, "go.set()\nended.wait()\nseen")
    assert result.stdout == ""
    assert "has ended" in result.value[0]
    assert host.calls == []
    assert "late" not in capsys.readouterr().out


async def test_overwritten_names_stay_until_reset_and_deleted_ones_come_back(executor: InProcessExecutor) -> None:
    assert await value(executor, "tools = 5\ntools") == 5
    assert await value(executor, "tools") == 5
    assert await value(executor, "del tools\n1") == 1
    assert await value(executor, "tools('echo')") == {"got": {}}
    await run(executor, "tools = 5")
    await executor.reset()
    assert await value(executor, "tools('echo')") == {"got": {}}


@pytest.mark.parametrize(
    "code", ["globals().clear()", "__builtins__ = {}", "del __name__", "import sys\nsys.modules.pop('json', 0)"]
)
async def test_code_that_spoils_its_globals_spoils_one_run(executor: InProcessExecutor, code: str) -> None:
    await run(executor, code)
    assert await value(executor, "class A:\n    pass\n(__name__, len([A()]), tools('echo'))") == (
        "__main__",
        1,
        {"got": {}},
    )


# Timeouts


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass",
        "import asyncio\nawait asyncio.sleep(1000)",
        "import asyncio\nwhile True:\n    await asyncio.sleep(0)",
        "async def f():\n    while True:\n        pass\nawait f()",
        "import asyncio\nasync def f():\n    while True:\n        pass\nawait asyncio.gather(f(), f())",
        "def f():\n    try:\n        while True:\n            pass\n    finally:\n        print('cleared up')\nf()",
        "tools('wait', name='never')",
        "class A:\n    def __repr__(self):\n        while True:\n            pass\nA()",
        "class E(Exception):\n    def __str__(self):\n        while True:\n            pass\nraise E",
        "import threading, time\nthreading.Event().wait(0.01)\nwhile True:\n    time.sleep(0.001)",
    ],
)
async def test_code_is_stopped_at_its_timeout(executor: InProcessExecutor, host: Host, code: str) -> None:
    result = await too_long(executor, f"kept = 1\nprint('begun')\n{code}")
    assert not result.is_ok
    assert result.value is None
    assert await value(executor, "kept") == 1


async def test_code_is_really_stopped(executor: InProcessExecutor) -> None:
    await too_long(executor, "n = 0\nprint('begun')\nwhile True:\n    n += 1")
    # Nobody counts any more: the thread that counted runs this.
    assert await value(executor, "import threading\nbefore = n\nthreading.Event().wait(0.05)\nn - before") == 0


async def test_code_that_catches_what_stops_it_is_stopped_again(executor: InProcessExecutor) -> None:
    code = (
        "import time\nfor _ in range(2):\n    try:\n        print('begun')\n        while True:\n"
        "            time.sleep(0.001)\n    except BaseException:\n        pass"
    )
    await too_long(executor, f"{code}\n'what it does after its time does not count'")
    assert await value(executor, "1") == 1


async def test_a_blocking_call_is_left_behind(
    executor: InProcessExecutor, host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    held, left = threading.Event(), threading.Event()
    executor._names["held"], executor._names["left"] = held, left
    code = (
        "kept = 1\ntry:\n    held.wait()\n    kept = 2\nfinally:\n    print('late')\n"
        "    try:\n        tools('echo')\n    finally:\n        left.set()"
    )
    await too_long(executor, code, lambda result: "left" in (result.error or ""))
    assert await value(executor, "kept") == 1
    held.set()
    assert await asyncio.to_thread(left.wait, PATIENCE_S)
    assert (await run(executor, "print('new')\nkept")).stdout == "new\n"
    assert await value(executor, "kept") == 1, "it ended at its next bytecode"
    assert host.calls == []
    assert "late" not in capsys.readouterr().out


async def test_a_thread_left_behind_that_catches_everything_is_reminded(
    executor: InProcessExecutor, host: Host
) -> None:
    ended = threading.Event()
    executor._names["ended"] = ended
    code = (
        "import time\nended.clear()\ncaught = 0\ntry:\n    while caught < 6:\n        try:\n            while True:\n"
        "                time.sleep(0.001)\n        except BaseException:\n            caught += 1\n"
        "finally:\n    ended.set()"
    )
    await too_long(executor, code, lambda result: "left" in (result.error or ""))
    assert await asyncio.to_thread(ended.wait, PATIENCE_S)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "1", True])
async def test_a_timeout_is_above_zero(executor: InProcessExecutor, timeout: Any) -> None:
    with pytest.raises(InvalidRequest, match="timeout"):
        await executor.run("1", timeout)
    with pytest.raises(InvalidRequest, match="timeout"):
        InProcessConfig(timeout=timeout)


async def test_without_a_timeout_code_has_all_its_time(executor: InProcessExecutor, host: Host) -> None:
    running = asyncio.create_task(executor.run("tools('tell', name='begun')\ntools('wait', name='go')", None))
    await host.reached("begun")
    host.event("go").set()
    assert (await running).value == "go"
    assert InProcessConfig(timeout=None).timeout is None


async def test_an_interrupt_that_comes_at_the_codes_end_harms_nothing(executor: InProcessExecutor) -> None:
    assert executor._worker is not None
    for _ in range(50):
        running = asyncio.create_task(executor.run("sum(range(1000))", None))
        await asyncio.sleep(0)
        current = executor._run
        assert current is not None
        executor._worker.interrupt(current)
        result = await asyncio.wait_for(running, PATIENCE_S)
        assert result.value == 499500 or "Stopped" in (result.error or "") or "interrupted" in (result.error or "")
    assert await value(executor, "1") == 1


# Cancelling, resetting, closing


@pytest.mark.parametrize("code", ["while True:\n    pass", "import asyncio\nawait asyncio.sleep(1000)"])
async def test_whoever_gives_up_waiting_stops_the_code(executor: InProcessExecutor, host: Host, code: str) -> None:
    running = asyncio.create_task(run(executor, f"kept = 1\ntools('tell', name='begun')\n{code}", None))
    await host.reached("begun")
    waiting = asyncio.create_task(run(executor, "kept"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await asyncio.wait_for(waiting, PATIENCE_S)).value == 1


async def test_a_run_that_is_cancelled_in_the_queue_never_runs(executor: InProcessExecutor, host: Host) -> None:
    first = asyncio.create_task(run(executor, "tools('tell', name='begun')\ntools('wait', name='go')"))
    await host.reached("begun")
    second = asyncio.create_task(run(executor, "ran = True"))
    third = asyncio.create_task(run(executor, "'ran' in globals()"))
    await asyncio.sleep(0)
    second.cancel()
    host.event("go").set()
    assert (await first).value == "go"
    assert (await third).value is False


async def test_reset_forgets_variables_and_stops_what_runs(executor: InProcessExecutor, host: Host) -> None:
    await run(executor, "import json\nx = 1")
    running = asyncio.create_task(
        run(executor, "print('begun')\ntools('tell', name='begun')\nwhile True:\n    pass", None)
    )
    await host.reached("begun")
    waiting = asyncio.create_task(run(executor, "y = 1"))
    await asyncio.sleep(0)
    await asyncio.wait_for(executor.reset(), PATIENCE_S)
    stopped, never = await running, await waiting
    assert stopped.stdout == "begun\n"
    assert stopped.end is End.INTERRUPTED
    assert (stopped.error or "").endswith("the session was reset")
    assert never.end is End.CANCELLED
    assert "reset" in (never.error or "")
    assert await value(executor, "[name for name in ('x', 'y', 'json') if name in globals()]") == []
    assert await value(executor, "tools('echo')") == {"got": {}}


async def test_close_stops_what_runs_and_refuses_what_comes(executor: InProcessExecutor, host: Host) -> None:
    running = asyncio.create_task(run(executor, "tools('tell', name='begun')\nwhile True:\n    pass", None))
    await host.reached("begun")
    waiting = asyncio.create_task(run(executor, "1"))
    await asyncio.sleep(0)
    await asyncio.gather(executor.close(), executor.close())
    await executor.close()
    assert "closed" in ((await running).error or "")
    assert (await waiting).error == "Session is closed"
    assert (await run(executor, "1")).error == "Session is closed"
    for call in (executor.reset(), executor.start(host), executor.install(["x"]), executor.uninstall(["x"])):
        with pytest.raises(SessionClosed, match="Session is closed"):
            await call
    assert executor.capabilities() == frozenset()


async def test_close_leaves_no_thread(host: Host) -> None:
    before = {thread for thread in threading.enumerate() if thread.name == "cellyard code"}
    executor = InProcessExecutor(namespaces=Names)
    await executor.start(host)
    await run(executor, "import asyncio\ntask = asyncio.create_task(asyncio.sleep(1000))\nawait asyncio.sleep(0)")
    await executor.reset()
    await run(executor, "1")
    await executor.close()
    for thread in threading.enumerate():
        if thread.name == "cellyard code" and thread not in before:
            await asyncio.to_thread(thread.join, PATIENCE_S)
            assert not thread.is_alive()


async def test_a_session_that_is_dropped_gives_the_streams_back_and_ends_its_thread(host: Host) -> None:
    before = (sys.stdin, sys.stdout, sys.stderr, threading.Thread.start)
    executor = InProcessExecutor(namespaces=Names)
    await executor.start(host)
    await run(executor, "import asyncio\nawait asyncio.sleep(0)\nx = tools")
    assert executor._worker is not None
    ended = executor._worker.ended
    del executor
    for _ in range(100):  # the event loop may still hold what the last run was called back by
        gc.collect()
        if await asyncio.to_thread(ended.wait, PATIENCE_S / 100):
            break
    assert ended.is_set()
    assert (sys.stdin, sys.stdout, sys.stderr, threading.Thread.start) == before


async def test_what_is_not_started_says_so(host: Host) -> None:
    executor = InProcessExecutor(namespaces=Names)
    assert executor.capabilities() == frozenset()
    with pytest.raises(NotConnected, match="not connected"):
        await executor.run("1", None)
    await executor.reset()
    await executor.start(host)
    await executor.start(host)
    assert {"timeout", "reset"} <= executor.capabilities()
    await executor.close()
    never = InProcessExecutor(namespaces=Names)
    await never.close()
    assert (await never.run("1", None)).error == "Session is closed"


async def test_code_that_forks_goes_on_once(executor: InProcessExecutor) -> None:
    code = (
        "import os, warnings\nwarnings.simplefilter('ignore')\npid = os.fork()\nif pid == 0:\n    raise SystemExit(7)\n"
        "os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
    )
    assert await value(executor, code) == 7
    assert await value(executor, "1") == 1


async def test_an_event_loop_that_code_closes_is_replaced(executor: InProcessExecutor) -> None:
    await run(executor, "import asyncio\nloop = asyncio.get_running_loop()\nawait asyncio.sleep(0)")
    await run(executor, "loop.close()")
    assert await value(executor, "await asyncio.sleep(0, 'again')") == "again"


async def test_threads_of_the_code_keep_no_program_from_ending(executor: InProcessExecutor) -> None:
    code = "import threading\n(threading.current_thread().daemon, threading.Thread().daemon)"
    assert await value(executor, code) == (True, True)


TRACED = """
import asyncio, sys
from cellyard.codemode import Session

async def main():
    async with Session.inprocess(sys.argv[1]) as session:
        assert (await session.run("6 * 7")).value == 42
        for code in ("while True: pass", "import time; time.sleep(3600)"):
            assert not (await session.run(code, timeout=0.2)).is_ok
        seen = []
        sys.settrace(lambda frame, event, arg: seen.append(event))
        (lambda: None)()
        sys.settrace(None)
        assert seen, "a debugger sees the program"
        assert (await session.run("6 * 7")).value == 42

asyncio.run(main())
"""


async def test_a_program_whose_code_was_stopped_can_be_traced(tmp_path: Path) -> None:
    """As debuggers and coverage do, also while a thread of the code is blocked for good."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", TRACED, str(tmp_path))
    try:
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
