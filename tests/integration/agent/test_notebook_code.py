"""What code in notebooks takes for granted: magics, figures, tasks, processes, a debugger, being in a notebook."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.agent.controller import Controller, Record


def value_of(run: Record) -> Any:
    assert run.value is not None, run.error
    return json.loads(run.value.json)


async def test_figures_are_shown_at_the_end_of_their_cell_or_where_the_code_says(kernel: Controller) -> None:
    run = await kernel.run("a", "import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert [sorted(output["data"]) for output in run.outputs] == [["image/png", "text/plain"]]
    assert run.text("stderr") == ""
    shown = await kernel.run("b", "plt.figure(); plt.plot([1]); plt.show(); print('after')")
    assert [output["output_type"] for output in shown.outputs] == ["display_data", "stream"]
    vector = await kernel.run("c", "%matplotlib inline\n%config InlineBackend.figure_format = 'svg'\nplt.plot([1]);")
    assert "image/svg+xml" in vector.outputs[0]["data"]


MAGICS = {
    "%time sum(range(10))": "CPU times",
    "%%timeit -n1 -r1\npass": "loop",
    "%who": "Interactive namespace is empty",
    "%lsmagic\nNone": "",
    "!echo out; echo err >&2": "out\nerr\n",
    "%%bash\necho from bash": "from bash\n",
    "%%writefile m.py\nprint('from a file')": "Writing m.py",
    "%run m.py": "from a file\n",
    "%env GREETING=hello": "env: GREETING=hello",
    "%pwd": "",
    "%less m.py": "",
    "%history": "%less m.py",
}


async def test_magics_work(kernel: Controller) -> None:
    for number, (source, text) in enumerate(MAGICS.items()):
        run = await kernel.run(f"e{number}", source)
        assert run.outcome == "ok", (source, run.error)
        assert text in run.text().replace("\r\n", "\n"), source  # `!` gives programs a terminal
    captured = await kernel.run("captured", "%%capture c\nprint('hidden'); display(1); 2")
    assert captured.outputs == []
    assert value_of(await kernel.run("b", "[c.stdout, len(c.outputs)]")) == ["hidden\n", 2]
    assert value_of(await kernel.run("c", "lines = !printf 'one\\ntwo'\nlist(lines)")) == ["one", "two"]
    unknown = await kernel.run("d", "%no_such_magic")
    assert unknown.error is not None
    assert unknown.error.ename == "UsageError"


async def test_earlier_results_and_sources_are_at_hand(kernel: Controller) -> None:
    for name, source in (("a", "6 * 7"), ("b", "'two'"), ("c", "1/0"), ("d", "_")):
        run = await kernel.run(name, source)
    assert value_of(run) == "two"
    source = "[_1, Out[2], In[3], _i1, __name__, get_ipython().execution_count]"
    run = await kernel.run("e", source)
    assert value_of(run) == [42, "two", "1/0", "6 * 7", "__main__", 6]
    assert run.end.execution_count == 5


async def test_libraries_find_a_notebook(kernel: Controller) -> None:
    source = """
import comm, sys
from pandas.io.formats.console import in_ipython_frontend
shell = get_ipython()
[any(kind.__name__ == 'ZMQInteractiveShell' for kind in type(shell).__mro__),
 'IPKernelApp' in shell.config, comm.get_comm_manager() is shell.kernel.comm_manager,
 shell.kernel.get_parent()['header']['msg_id'] == shell.get_parent()['header']['msg_id'],
 sys.stdout.isatty(), sys.stdout.encoding, in_ipython_frontend()]
"""
    assert value_of(await kernel.run("a", source)) == [True, True, True, True, False, "UTF-8", True]


async def test_tasks_go_on_between_cells_and_write_to_the_cell_that_started_them(kernel: Controller) -> None:
    source = """
import asyncio
async def tick():
    for number in range(3):
        await asyncio.sleep(0.01)
        print('tick', number, flush=True)
    display('ticked')
task = asyncio.create_task(tick())
"""
    run = await kernel.run("a", source)
    await kernel.until(lambda: len(run.outputs) == 2)
    assert run.text() == "tick 0\ntick 1\ntick 2\n"
    assert run.kinds.index("ended") < len(run.kinds) - 1
    waited = kernel.dispatch("b", "later = asyncio.create_task(tick())\nawait later\nprint('other')")
    await kernel.until(lambda: waited.ended is not None)
    assert waited.text() == "tick 0\ntick 1\ntick 2\nother\n"
    failed = await kernel.run("c", "async def fail(): 1/0\nawait asyncio.gather(fail(), asyncio.sleep(0))")
    assert failed.error is not None
    assert failed.error.ename == "ZeroDivisionError"


async def test_context_variables_live_as_long_as_the_kernel(kernel: Controller) -> None:
    await kernel.run("a", "import asyncio, decimal\ndecimal.getcontext().prec = 3")
    assert value_of(await kernel.run("b", "str(decimal.Decimal(1) / 3)")) == "0.333"
    assert value_of(await kernel.run("c", "await asyncio.sleep(0)\nstr(decimal.Decimal(1) / 3)")) == "0.333"


async def test_processes_are_started_in_every_way(kernel: Controller) -> None:
    module = b"def double(n):\n    print(f'doubles {n}\\n', end='', flush=True)\n    return 2 * n"
    assert await kernel.put_file("work.py", module) == ""
    source = """
import concurrent.futures, multiprocessing, work
results = []
for method in ('fork', 'spawn'):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool: results.append(pool.map(work.double, [1, 2]))
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        results.append(list(pool.map(work.double, [3])))
results
"""
    run = await kernel.run("b", source)
    assert value_of(run) == [[2, 4], [6]] * 2
    await kernel.until(lambda: run.text().count("\n") == 6)
    assert sorted(run.text().splitlines()) == sorted(f"doubles {n}" for n in (1, 2, 3) * 2)


async def test_warnings_and_logs_are_text_of_the_cell(kernel: Controller) -> None:
    source = "import logging, warnings\nlogging.warning('logged %s', 1)\nwarnings.warn('careful')"
    run = await kernel.run("a", source)
    assert "WARNING:root:logged 1\n" in run.text("stderr")
    assert "UserWarning: careful" in run.text("stderr")
    thread = "import threading\nthread = threading.Thread(target=lambda: 1/0); thread.start(); thread.join()"
    assert "ZeroDivisionError" in (await kernel.run("b", thread)).text("stderr")


async def test_modules_of_the_user_are_imported_and_stand_in_for_no_other(kernel: Controller) -> None:
    await kernel.put_file("mine.py", b"x = 'mine'")
    await kernel.put_file("json.py", b"x = 'not json'")
    assert value_of(await kernel.run("a", "import mine, json\n[mine.x, json.dumps([])]")) == ["mine", "[]"]


async def test_the_debugger_asks_for_its_commands(kernel: Controller) -> None:
    run = kernel.dispatch("a", "def f(x):\n    breakpoint()\n    return x\nf(5)", allow_stdin=True)
    for number, command in enumerate(["p x + 1", "c"], 1):
        question = await kernel.question(run, number)
        assert question.prompt.startswith("ipdb> ")
        kernel.answer(question.call_id, text=command)
    await kernel.until(lambda: run.ended is not None)
    assert value_of(run) == 5
    assert "6\n" in run.text()
    stuck = kernel.dispatch("b", "f(5)", allow_stdin=True)
    await kernel.question(stuck)
    kernel.interrupt("b")
    await kernel.until(lambda: stuck.ended is not None, timeout_s=10)
    assert value_of(await kernel.run("c", "1 + 1")) == 2


async def test_a_thread_asks_while_the_cell_waits_for_it(kernel: Controller) -> None:
    source = """
import threading
answers = []
thread = threading.Thread(target=lambda: answers.append(input('name? ')))
thread.start(); thread.join()
answers
"""
    run = kernel.dispatch("a", source, allow_stdin=True)
    kernel.answer((await kernel.question(run)).call_id, text="Zoë")
    await kernel.until(lambda: run.ended is not None)
    assert value_of(run) == ["Zoë"]


async def test_interrupts_amid_output_lose_no_message(kernel: Controller) -> None:
    for number in range(20):
        run = kernel.dispatch(f"e{number}", "while True: print('x' * 1000, flush=True); display(1)")
        await kernel.until(lambda run=run, number=number: len(run.events) > 2 + number)
        kernel.interrupt(f"e{number}")
        following = await kernel.run(f"f{number}", "'here'")
        assert run.end.interrupted_by == "interrupt"
        assert run.error is not None
        assert value_of(following) == "here"


async def test_a_nested_event_loop_runs_in_a_cell(kernel: Controller, kernel_host: str) -> None:
    source = "import asyncio, nest_asyncio2\nnest_asyncio2.apply()\nasyncio.run(asyncio.sleep(0.01, 'nested'))"
    assert value_of(await kernel.run("a", source)) == "nested"
    if kernel_host == "python":  # of ipykernel's own loop the library makes what it likes: rarely, its end
        assert value_of(await kernel.run("b", "import asyncio; await asyncio.sleep(0.01, 'still')")) == "still"
