"""What the Python kernel of our own adds to what both hosts do (see the other tests of this folder)."""

from __future__ import annotations

import collections
import json
from typing import Any

import pytest
from tests.integration.agent.controller import Controller, Record


def value_of(run: Record) -> Any:
    assert run.value is not None, run.error
    return json.loads(run.value.json)


@pytest.fixture
def kernel_host() -> str:
    return "python"


async def test_nothing_of_zeromq_is_loaded_and_a_library_may_load_it(kernel: Controller) -> None:
    loaded = "import sys\n[name for name in ('zmq', 'tornado', 'ipykernel', 'jupyter_client') if name in sys.modules]"
    assert value_of(await kernel.run("a", loaded)) == []
    source = """
import ipykernel.ipkernel, jupyter_client, tornado.ioloop, zmq
import ipywidgets
context = zmq.Context(); context.socket(zmq.PUSH).close(); context.term()
loop = tornado.ioloop.IOLoop.current()
slider = ipywidgets.IntSlider(3)
"""
    run = await kernel.run("b", source)
    assert run.outcome == "ok", run.error
    assert len(run.comms) == 3, "the widget reaches its front end"
    run = await kernel.run("c", "from ipykernel.comm import Comm\nc = Comm('t', data={'x': 1})")
    assert [json.loads(comm.open.data_json) for comm in run.comms] == [{"x": 1}]


async def test_what_makes_a_first_cell_quick_leaves_no_trace(kernel: Controller) -> None:
    """The kernel has run cells of its own before it was ready; here it also does what it does at its leisure."""
    state = """
import sys
shell = get_ipython()
[
    shell.execution_count,
    list(In)[1:-1],
    dict(Out),
    sorted(name for name in globals() if name.strip("_iho0123456789")),
    [name for name in ("last_type", "last_value", "last_traceback") if hasattr(sys, name)],
]
"""
    first = await kernel.run("a", state)
    count, cells, results, names, last = value_of(first)
    assert (count, cells, results, last) == (2, [], {}, []), "it counts on before the cell runs"
    assert {"In", "Out", "exit", "get_ipython", "open", "quit", "shell", "sys"} >= {
        name for name in names if not name.startswith("_")
    }
    run = await kernel.run("b", "shell.warm_up_errors()")
    assert run.outcome == "ok"
    assert run.outputs == []
    assert value_of(await kernel.run("c", state))[0] == 4
    failed = await kernel.run("d", "1/0")
    assert failed.error is not None, "errors are shown as ever"


async def test_what_a_process_says_as_it_crashes_is_shown(kernel: Controller) -> None:
    source = "import faulthandler, ctypes\nfaulthandler.enable()\nprint('before', flush=True)\nctypes.string_at(0)"
    run = await kernel.run("a", source)
    assert run.end.reason == "signal 11"
    assert run.text() == "before\n"
    assert "Segmentation fault" in run.text("stderr")


async def test_programs_write_to_the_cells_streams_when_they_are_given_them(kernel: Controller) -> None:
    source = """
import subprocess, sys
print('first')
subprocess.run(['echo', 'second'], stdout=sys.stdout)
subprocess.run(['sh', '-c', 'echo third >&2'], stderr=sys.stderr)
print('fourth')
"""
    run = await kernel.run("a", source)
    assert run.text() == "first\nsecond\nfourth\n"
    assert run.text("stderr") == "third\n"


async def test_what_is_written_to_the_descriptor_stands_before_what_is_printed_after_it(kernel: Controller) -> None:
    source = "import os\nfor n in range(500):\n    print(n)\n    os.write(1, b'+\\n')"
    run = await kernel.run("a", source)
    assert run.text() == "".join(f"{n}\n+\n" for n in range(500))


async def test_that_order_stands_however_the_threads_take_turns(kernel: Controller) -> None:
    source = """
import os, sys
interval = sys.getswitchinterval()
sys.setswitchinterval(1e-6)
for n in range(20_000):
    print(n)
    os.write(1, b'+\\n')
sys.setswitchinterval(interval)
"""
    run = await kernel.run("a", source)
    assert run.text() == "".join(f"{n}\n+\n" for n in range(20_000))


async def test_many_threads_print_at_once(kernel: Controller) -> None:
    source = """
import sys, threading
failed = []
def say(name):
    try:
        for n in range(2_000):
            print(name)
    except BaseException as error:
        failed.append(repr(error))
interval = sys.getswitchinterval()
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=say, args=(name,)) for name in "abcd"]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.setswitchinterval(interval)
failed
"""
    run = await kernel.run("a", source)
    assert value_of(run) == []
    assert collections.Counter(run.text()) == {"a": 2_000, "b": 2_000, "c": 2_000, "d": 2_000, "\n": 8_000}


async def test_the_traceback_of_an_interrupt_shows_the_cell_alone(kernel: Controller) -> None:
    source = "import _thread, time\n_thread.interrupt_main()\ntime.sleep(60)"
    run = await kernel.run("a", source)
    assert run.error is not None
    assert run.error.ename == "KeyboardInterrupt"
    shown = "".join(run.error.traceback)
    assert "interrupt_main" in shown
    assert "python_kernel" not in shown


async def test_a_fork_that_comes_to_the_end_of_the_cell_ends_there(kernel: Controller) -> None:
    source = """
import os
child = os.fork()
if child: os.waitpid(child, 0)
print('parent' if child else 'child')
display('shown')
"""
    run = await kernel.run("a", source)
    assert run.text() == "child\n'shown'\nparent\n"
    assert [output["output_type"] for output in run.outputs] == ["stream", "display_data"]
    assert run.kinds.count("ended") == 1


async def test_a_cell_that_stops_the_event_loop_or_cancels_all_tasks_ends_nothing_else(kernel: Controller) -> None:
    await kernel.run("a", "import asyncio\nasyncio.get_running_loop().stop()")
    assert value_of(await kernel.run("b", "await asyncio.sleep(0.01, 'still')")) == "still"
    for source in ("", "await asyncio.sleep(60)"):
        run = await kernel.run(f"c{source}", f"[task.cancel() for task in asyncio.all_tasks()]\n{source}")
        assert run.outcome == ("error" if source else "ok")
        assert value_of(await kernel.run(f"d{source}", "1 + 1")) == 2


async def test_text_is_not_kept(kernel: Controller) -> None:
    await kernel.run("a", "for _ in range(15): print('x' * 1_000_000)")
    size = "sum(len(text) for kept in get_ipython().history_manager.outputs.values() for text in str(kept))"
    assert value_of(await kernel.run("b", size)) < 10_000


async def test_an_alarm_that_raises_wherever_it_hits_breaks_nothing(kernel: Controller) -> None:
    source = """
import signal
def ring(*_):
    global armed
    if armed:
        armed = False
        raise TimeoutError('rang')
signal.signal(signal.SIGALRM, ring)
armed, rung, printed = False, 0, []
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
for n in range(3_000):
    try:
        armed = True
        print('x' * 50_000 if n % 100 == 0 else n, flush=True)
        printed.append(n)
        if n % 50 == 0: display(n)
        armed = False
    except TimeoutError: rung += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print('last')
[rung > 10, printed]
"""
    run = await kernel.run("a", source)
    assert run.outcome == "ok", run.error
    assert run.text().endswith("last\n")
    rung, printed = value_of(run)
    assert rung
    text = run.text()
    assert [n for n in printed if f"{n}\n" not in text and n % 100] == []
    assert value_of(await kernel.run("b", "1 + 1")) == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        "b'\\xff\\xff\\xff\\xff'",
        "b'\\x00\\x00\\x00\\x04\\x00\\x00\\x00\\x00'",
        "b'\\x00\\x00\\x00\\x08\\x7f\\xff\\xff\\xff\\x00\\x00\\x00\\x00'",
        "b'GET / HTTP/1.1\\r\\n\\r\\n'",
    ],
)
async def test_a_kernel_that_sends_nonsense_is_ended(kernel: Controller, nonsense: str) -> None:
    source = f"""
import os, time
os.write(get_ipython().kernel.connection.fileno(), {nonsense})
get_ipython().kernel.connection.send(b'x' * 100_000)
time.sleep(60)
"""
    run = await kernel.run("a", source)
    assert run.end.reason == "channels closed"
    await kernel.restart()
    assert value_of(await kernel.run("b", "1 + 1")) == 2


async def test_a_display_that_is_too_large_is_an_error_in_the_cell(kernel: Controller) -> None:
    run = await kernel.run("a", "display({'text/plain': 'x' * 130 * 2**20}, raw=True)")
    assert run.error is not None
    assert run.error.ename == "ValueError"
    assert value_of(await kernel.run("b", "1 + 1")) == 2
