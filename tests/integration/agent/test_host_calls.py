"""Code that calls functions of its client, through a real agent and a real kernel."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from typing import Any

import pytest
from tests.integration.agent.controller import Controller

from cellyard_proto.v1 import calls_pb2

IMPORT = "from cellyard_sandbox import host\n"


def value_of(run: Any) -> Any:
    assert run.value is not None, run.error
    return json.loads(run.value.json)


async def test_a_call_goes_to_the_client_and_its_result_comes_back(kernel: Controller) -> None:
    run = kernel.dispatch("a", IMPORT + "host.call('search', 'cats', (1, 2**70), limit=3)")
    call = await kernel.call(run)
    assert call.name == "search"
    assert json.loads(call.args_json) == ["cats", {"$tuple": [1, {"$int": str(2**70)}]}]
    assert json.loads(call.kwargs_json) == {"limit": 3}
    assert run.kinds == ["started", "host_call"]
    kernel.answer(call.call_id, value_json='{"$tuple":["tom",{"$bytes":"AA=="},{"$float":"inf"}]}')
    await kernel.until(lambda: run.ended is not None)
    assert value_of(run) == {"$tuple": ["tom", {"$bytes": "AA=="}, {"$float": "inf"}]}


async def test_functions_are_called_by_their_names_and_in_await(kernel: Controller) -> None:
    run = kernel.dispatch("a", IMPORT + "[host.add(1, 2), await host.acall('add', 3, b=4)]")
    for number in (1, 2):
        call = await kernel.call(run, number)
        arguments = [*json.loads(call.args_json), *json.loads(call.kwargs_json).values()]
        kernel.answer(call.call_id, value_json=str(sum(arguments)))
    await kernel.until(lambda: run.ended is not None)
    assert value_of(run) == [3, 7]


async def test_an_exception_of_the_client_is_one_in_the_code(kernel: Controller) -> None:
    source = """
try: host.fail()
except host.HostCallError as failed: print(failed.name, '|', failed)
host.fail()
"""
    run = kernel.dispatch("a", IMPORT + source)
    for number in (1, 2):
        call = await kernel.call(run, number)
        kernel.answer(call.call_id, error=calls_pb2.CallError(name="ValueError", message="no ünits"))
    await kernel.until(lambda: run.ended is not None)
    assert run.text() == "ValueError | ValueError: no ünits\n"
    assert run.error is not None
    assert (run.error.ename, run.error.evalue) == ("HostCallError", "ValueError: no ünits")


async def test_where_nobody_offers_the_function_the_code_is_told(kernel: Controller) -> None:
    run = kernel.dispatch("a", IMPORT + "host.missing()")
    kernel.answer((await kernel.call(run)).call_id, unavailable="nobody offers 'missing'")
    await kernel.until(lambda: run.ended is not None)
    assert run.error is not None
    assert (run.error.ename, run.error.evalue) == ("HostUnavailable", "nobody offers 'missing'")


async def test_what_cannot_travel_is_refused_in_the_code(kernel: Controller) -> None:
    source = """
bad = {"host.f(1, object())": TypeError, "host.f(url=[len])": TypeError, "host.f('x' * 2**20)": ValueError,
       "host.f(*['x' * 2**19] * 3)": ValueError, "host.call(7)": TypeError}
for call, kind in bad.items():
    try: eval(call)
    except kind as refused: print(refused)
"""
    run = await kernel.run("a", IMPORT + source)
    assert run.text().splitlines() == [
        "argument 2 of 'f' is no data: object",
        "argument 'url' of 'f' is no data: builtin_function_or_method",
        "argument 1 of 'f' is larger than 1048576 bytes",
        "the arguments of 'f' take 1572879 bytes, more than 1048576",
        "the name of a function is a str, not int",
    ]
    assert run.calls == []
    largest = kernel.dispatch("b", IMPORT + "len(host.f('x' * (2**20 - 9)))")
    call = await kernel.call(largest)
    kernel.answer(call.call_id, value_json=call.args_json)
    await kernel.until(lambda: largest.ended is not None)
    assert value_of(largest) == 1


async def test_threads_and_programs_call_at_the_same_time(kernel: Controller) -> None:
    source = """
import concurrent.futures, subprocess, sys
program = 'from cellyard_sandbox import host; print(host.echo("program"), end="")'
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    child = pool.submit(subprocess.run, [sys.executable, '-c', program], capture_output=True, text=True)
    echoes = list(pool.map(lambda n: host.echo(n), range(50)))
[echoes == list(range(50)), child.result().stdout, child.result().stderr]
"""
    run = kernel.dispatch("a", IMPORT + source)
    for number in range(1, 52):
        call = await kernel.call(run, number)
        kernel.answer(call.call_id, value_json=json.dumps(json.loads(call.args_json)[0]))
    await kernel.until(lambda: run.ended is not None)
    assert value_of(run) == [True, "program", ""]
    assert len({call.call_id for call in run.calls}) == 51


async def test_too_many_open_calls_are_refused_and_the_others_go_on(kernel: Controller) -> None:
    source = """
import threading
told = []
def call(n): told.append(host.echo(n))
threads = [threading.Thread(target=call, args=(n,)) for n in range(64)]
for thread in threads: thread.start()
input()
try: host.one_more()
except host.HostError as failed: refused = str(failed)
input()
for thread in threads: thread.join()
[refused, sorted(n for (n,) in told) == list(range(64))]
"""
    run = kernel.dispatch("a", IMPORT + source, allow_stdin=True)
    question = await kernel.question(run)
    await kernel.until(lambda: len(run.calls) == 64)
    kernel.answer(question.call_id, text="")
    again = await kernel.question(run, 2)
    assert len(run.calls) == 64
    for call in run.calls:
        kernel.answer(call.call_id, value_json=call.args_json)
    kernel.answer(again.call_id, text="")
    await kernel.until(lambda: run.ended is not None)
    refused, answered = value_of(run)
    assert "64 calls wait" in refused
    assert answered is True


async def test_a_thread_whose_cell_has_ended_is_told(kernel: Controller) -> None:
    source = """
import threading
def call():
    for _ in range(2):
        try: host.slow()
        except host.HostUnavailable as gone: print(gone, flush=True)
threading.Thread(target=call).start()
input()
"""
    run = kernel.dispatch("a", IMPORT + source, allow_stdin=True)
    call = await kernel.call(run)
    kernel.answer((await kernel.question(run)).call_id, text="")
    await kernel.until(lambda: run.ended is not None)
    kernel.answer(call.call_id, value_json="1")
    await kernel.until(lambda: run.text().count("\n") == 2)
    assert run.text() == "the cell that called it has ended\nno cell runs that could call it\n"
    assert len(run.calls) == 1


async def test_an_interrupt_ends_the_wait(kernel: Controller) -> None:
    run = kernel.dispatch("a", IMPORT + "host.slow()")
    call = await kernel.call(run)
    kernel.interrupt("a")
    await kernel.until(lambda: run.ended is not None)
    assert run.end.interrupted_by == "interrupt"
    assert run.error is not None
    assert run.error.ename == "KeyboardInterrupt"
    kernel.answer(call.call_id, value_json="1")
    assert value_of(await kernel.run("b", "1 + 1")) == 2


async def test_an_open_call_outlives_the_controller(kernel: Controller) -> None:
    run = kernel.dispatch("a", IMPORT + "[host.slow(), host.slow()]")
    first = await kernel.call(run)
    kernel.drop()
    await kernel.until(lambda: len(kernel.hellos) == 2)
    assert [(call.execution_id, call.call_id) for call in kernel.hellos[-1].open_calls] == [("a", first.call_id)]
    kernel.answer("unknown", value_json="0")
    for _ in range(3):
        kernel.answer(first.call_id, value_json="1")
    kernel.answer((await kernel.call(run, 2)).call_id, value_json="2")
    await kernel.until(lambda: run.ended is not None)
    assert value_of(run) == [1, 2]
    kernel.drop()
    await kernel.until(lambda: len(kernel.hellos) == 3)
    assert list(kernel.hellos[-1].open_calls) == []


ENDS = {
    "restart": "host.slow()",
    "death": "import os, threading\nthreading.Timer(1, os._exit, (1,)).start()\nhost.slow()",
    "gave up": "import asyncio\ntry: await asyncio.wait_for(host.acall('slow'), 0.3)\nexcept TimeoutError: host.next()",
}


@pytest.mark.parametrize("how", ENDS)
async def test_a_call_whose_caller_is_gone_is_open_no_more(kernel: Controller, how: str) -> None:
    run = kernel.dispatch("a", IMPORT + ENDS[how])
    await kernel.call(run)
    if how == "restart":
        await kernel.restart()
    elif how == "death":
        await kernel.until(lambda: run.ended is not None)
    else:
        await kernel.call(run, 2)
    kernel.drop()
    await kernel.until(lambda: len(kernel.hellos) == 2)
    assert [call.call_id for call in kernel.hellos[-1].open_calls] == [call.call_id for call in run.calls[1:]]


async def test_the_socket_is_this_users_alone_and_takes_no_nonsense(kernel: Controller) -> None:
    source = """
import os, socket, struct
path = os.environ['CELLYARD_HOST_SOCKET']
def say(data):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        try: connection.sendall(data)
        except OSError: pass
        connection.shutdown(socket.SHUT_WR)
        try: return connection.recv(1000)[4:11].decode()
        except OSError: return 'reset'
frame = lambda content: struct.pack('>I', len(content)) + content
[os.stat(path).st_mode, os.stat(os.path.dirname(path)).st_mode, say(b''),
 say(frame(b'7') + frame(b'[]') + frame(b'{}')), say(frame(b'x') * 3),
 say(frame(bytes([255])) * 3), say(b'x' * 3_000_000)]
"""
    run = await kernel.run("a", source)
    socket, folder, *answers = value_of(run)
    assert stat.S_IMODE(socket) == 0o600
    assert stat.S_IMODE(folder) == 0o700
    assert answers == ["", "refused", "refused", "refused", "refused"]
    assert run.calls == []


def test_code_that_imports_host_needs_little() -> None:
    source = """
import sys
from cellyard_sandbox import host
heavy = {'zmq', 'google', 'IPython', 'ipykernel', 'asyncio', 'cellyard_proto.v1'}
print([name for name in sys.modules if name.split('.')[0] in heavy or name in heavy])
try: host.f()
except host.HostUnavailable as gone: print(gone)
"""
    said = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\nthis code runs outside of a sandbox\n"
