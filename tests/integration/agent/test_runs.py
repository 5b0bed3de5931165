"""What cells do and show, through a real agent and a real kernel."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from tests.integration.agent.controller import AgentProcess, Controller

from cellyard_proto.v1 import link_pb2


async def test_a_result_has_its_representation_and_its_value(kernel: Controller) -> None:
    run = await kernel.run("a", "x = 20\nx + 1")
    assert run.kinds == ["started", "output", "ended"]
    assert run.outputs == [
        {"output_type": "execute_result", "execution_count": 1, "data": {"text/plain": "21"}, "metadata": {}}
    ]
    assert run.outcome == "ok"
    assert run.end.execution_count == 1
    assert run.value is not None
    assert (run.value.json, run.value.is_repr) == ("21", False)
    assert run.events[0].started.execution_count == 1


async def test_values_of_every_kind_travel_as_data(kernel: Controller) -> None:
    expected: dict[str, Any] = {
        "(1, 2.5, 'é', None, True)": {"$tuple": [1, 2.5, "é", None, True]},
        "{'a': [b'\\x00'], 'b': {1}}": {"a": [{"$bytes": "AA=="}], "b": {"$set": [1]}},
        "{1: 2}": {"$dict": [[1, 2]]},
        "2**70": {"$int": str(2**70)},
        "[float('inf'), 1j]": [{"$float": "inf"}, {"$complex": [0.0, 1.0]}],
        "__import__('datetime').datetime(2026, 1, 2, 3)": {"$datetime": "2026-01-02T03:00:00"},
    }
    for number, (source, data) in enumerate(expected.items()):
        run = await kernel.run(f"value-{number}", source)
        assert run.value is not None, source
        assert not run.value.is_repr
        assert json.loads(run.value.json) == data


@pytest.mark.parametrize("source", ["None", "1 + 1;", "x = 1", "", "print('only printed')", "def f(): pass"])
async def test_a_cell_without_a_result_has_no_value(kernel: Controller, source: str) -> None:
    run = await kernel.run("a", source)
    assert run.outcome == "ok"
    assert run.value is None


async def test_a_value_that_is_no_data_is_its_repr(kernel: Controller) -> None:
    await kernel.run("a", "class Thing:\n    def __repr__(self): return 'a thing'")
    run = await kernel.run("b", "Thing()")
    assert run.value is not None
    assert (json.loads(run.value.json), run.value.is_repr) == ("a thing", True)
    large = await kernel.run("c", "list(range(10**7))")
    assert large.value is not None
    assert large.value.is_repr
    assert len(large.value.json) < 100_000


async def test_an_error_ends_the_cell_and_not_the_kernel(kernel: Controller) -> None:
    run = await kernel.run("a", "print('before')\n1/0")
    assert run.outcome == "error"
    assert run.error is not None
    assert (run.error.ename, run.error.evalue) == ("ZeroDivisionError", "division by zero")
    assert any("1" in line and "/" in line for line in run.error.traceback)
    assert run.outputs[0]["text"] == "before\n"
    following = [await kernel.run(f"b{number}", "6 * 7") for number in range(5)]
    assert all(after.outcome == "ok" for after in following), "what follows an error is not refused"


async def test_a_syntax_error_is_an_error(kernel: Controller) -> None:
    run = await kernel.run("a", "def (:")
    assert run.outcome == "error"
    assert run.error is not None
    assert run.error.ename == "SyntaxError"


async def test_rich_outputs_keep_their_representations(kernel: Controller) -> None:
    source = """
from IPython.display import display, HTML, JSON
display(HTML('<b>x</b>'), metadata={'text/html': {'isolated': True}})
display({'image/png': b'\\x89PNG\\r\\n\\x1a\\n', 'text/plain': 'png'}, raw=True)
JSON({'a': [1, None, float('nan')]})
"""
    run = await kernel.run("a", source)
    first, second, third = run.outputs
    assert first["output_type"] == "display_data"
    assert first["data"]["text/html"] == "<b>x</b>"
    assert first["metadata"] == {"text/html": {"isolated": True}}
    assert second["data"]["image/png"].strip() == "iVBORw0KGgo="
    assert third["output_type"] == "execute_result"
    assert third["data"]["application/json"] == {"a": [1, None, None]}
    assert "application/vnd.cellyard.value+json" not in third["data"]


async def test_an_object_that_displays_itself_has_a_value_and_no_result(kernel: Controller) -> None:
    source = """
class Loud:
    def _ipython_display_(self): print('displayed')
    def __repr__(self): return 'loud'
Loud()
"""
    run = await kernel.run("a", source)
    assert run.text() == "displayed\n"
    assert [output["output_type"] for output in run.outputs] == ["stream"]


async def test_clear_output_empties_what_was_shown(kernel: Controller) -> None:
    source = """
from IPython.display import clear_output
print('gone'); clear_output(wait=True); print('here')
"""
    run = await kernel.run("a", source)
    assert "clear_output" in run.kinds
    assert run.outputs == [{"output_type": "stream", "name": "stdout", "text": "here\n"}]


async def test_a_display_is_updated_by_its_own_cell_and_by_another(kernel: Controller) -> None:
    first = await kernel.run("a", "handle = display('one', display_id='d')\nhandle.update('two')")
    shown = first.outputs[0]
    assert shown["transient"] == {"display_id": "d"}
    assert shown["data"]["text/plain"] == "'two'"
    second = await kernel.run("b", "handle.update('three')")
    assert second.kinds == ["started", "display_updated", "ended"], "it comes with the cell that ran"
    updated = second.events[1].display_updated
    assert updated.display_id == "d"
    assert updated.data["text/plain"].text == "'three'"


async def test_text_of_a_thread_belongs_to_the_cell_that_started_it(kernel: Controller) -> None:
    source = """
import threading
go, done = threading.Event(), threading.Event()
def late():
    go.wait(); print('late', flush=True); display('shown late'); done.set()
threading.Thread(target=late).start()
print('early')
"""
    first = await kernel.run("a", source)
    assert first.text() == "early\n"
    second = await kernel.run("b", "go.set(); done.wait(); print('other')")
    await kernel.until(lambda: len(first.outputs) == 2)
    assert second.text() == "other\n"
    assert first.text() == "early\nlate\n"
    assert first.outputs[1]["data"]["text/plain"] == "'shown late'"
    assert first.kinds.index("ended") < len(first.kinds) - 1, "it came after the end"


async def test_text_of_programs_belongs_to_their_cell_and_is_whole(kernel: Controller) -> None:
    """Written to the descriptor, in pieces that cut characters."""
    program = "import sys; sys.stdout.write('é' * 100_000); sys.stderr.write('oops')"
    source = f"""
import subprocess, sys
print('first', flush=True)
subprocess.run([sys.executable, '-c', {program!r}])
None
"""
    run = await kernel.run("a", source)
    assert run.text() == "first\n" + "é" * 100_000
    assert run.text("stderr") == "oops"
    assert (await kernel.run("b", "1")).text() == ""


async def test_text_of_forked_processes_arrives(kernel: Controller) -> None:
    source = """
import multiprocessing
def work(n): print('child', n, flush=True)
context = multiprocessing.get_context('fork')
children = [context.Process(target=work, args=(n,)) for n in range(3)]
for child in children: child.start()
for child in children: child.join()
"""
    run = await kernel.run("a", source)
    await kernel.until(lambda: len(run.text().split("\n")) == 4)
    assert sorted(run.text().split("\n")) == ["", "child 0", "child 1", "child 2"]


@pytest.mark.parametrize(
    "source",
    [
        "print('a\\ud800b')",
        "raise ValueError('a\\ud800b')",
        "display({'text/plain': 'a\\ud800b'}, raw=True)",
        "'a\\ud800b'",
    ],
)
async def test_lone_surrogates_are_replaced_and_lose_nothing(kernel: Controller, source: str) -> None:
    run = await kernel.run("a", "print('kept')\n" + source)
    assert run.end.outcome in (link_pb2.OUTCOME_OK, link_pb2.OUTCOME_ERROR)
    assert run.text().startswith("kept\n")
    assert len(run.outputs) == (1 if "print('a" in source else 2)
    assert (await kernel.run("b", "1")).outcome == "ok"


async def test_input_raises_in_the_cell(kernel: Controller) -> None:
    run = await kernel.run("a", "input('name? ')")
    assert run.error is not None
    assert run.error.ename == "StdinNotImplementedError"


async def test_await_works_at_the_top_of_a_cell(kernel: Controller) -> None:
    run = await kernel.run("a", "import asyncio\nawait asyncio.sleep(0.01, 'slept')")
    assert run.value is not None
    assert run.value.json == '"slept"'


async def test_a_dispatch_that_is_repeated_runs_once(kernel: Controller) -> None:
    await kernel.run("a", "ran = 0")
    run = kernel.dispatch("b", "ran += 1\nimport time; time.sleep(0.2)")
    kernel.dispatch("b", "ran += 1")
    await kernel.until(lambda: run.ended is not None)
    kernel.dispatch("b", "ran += 1")
    counted = await kernel.run("c", "ran")
    assert counted.value is not None
    assert counted.value.json == "1"
    assert run.kinds == ["started", "ended"]


async def test_executions_run_one_after_the_other_in_order(kernel: Controller) -> None:
    runs = [kernel.dispatch(f"e{number}", f"print({number}); 1/({number} % 2)") for number in range(20)]
    await kernel.until(lambda: all(run.ended for run in runs))
    assert [run.text() for run in runs] == [f"{number}\n" for number in range(20)]
    assert [run.outcome for run in runs] == ["error", "ok"] * 10
    numbers = [(run.events[0].number, run.events[-1].number) for run in runs]
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(numbers))


async def test_the_kernel_sees_its_home_and_its_variables(agent: AgentProcess, controller: Controller) -> None:
    await controller.start_kernel(env={"GREETING": "hello", "PATH": "/nowhere"})
    source = """
import getpass, os
[os.getcwd(), *(os.environ[name] for name in ('HOME', 'GREETING', 'PATH')), bool(getpass.getuser())]
"""
    run = await controller.run("a", source)
    assert run.value is not None
    assert json.loads(run.value.json) == [str(agent.home), str(agent.home), "hello", "/nowhere", True]
    assert list(agent.home.iterdir()) == [], "the kernel leaves nothing in the home"


async def test_a_claim_sets_variables_once_before_what_runs_next_and_in_later_kernels(
    agent: AgentProcess, controller: Controller
) -> None:
    read = "import os\nos.environ.get('GREETING')"

    async def greeting(execution_id: str) -> str:
        run = await controller.run(execution_id, read)
        assert run.value is not None
        assert run.end.interrupted_by == ""
        return str(json.loads(run.value.json))

    await controller.until(lambda: controller.connected)
    controller.claim({"GREETING": "early"})
    await controller.start_kernel()
    controller.claim({"GREETING": "second"})
    assert await greeting("a") == "early"
    await controller.run("b", "os.environ['GREETING'] = 'mine'")
    assert await greeting("c") == "mine"
    await controller.restart()
    assert await greeting("d") == "early"


async def test_a_claim_of_a_kernel_that_is_up_shows_in_the_first_cell(
    agent: AgentProcess, controller: Controller
) -> None:
    await controller.start_kernel()
    controller.claim({"GREETING": 'it\'s "here"\n'})
    run = await controller.run("a", "import os\nprint(os.environ['GREETING'])")
    assert run.text() == 'it\'s "here"\n\n'
    assert run.events[0].started.execution_count == 1


async def test_usage_is_measured(kernel: Controller) -> None:
    source = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\ntime.sleep(0.1)"
    end = (await kernel.run("a", source)).end
    assert 0.15 < end.cpu_s < 0.3
    assert end.wall_s >= 0.3
    before = (await kernel.run("b", "1")).end.peak_memory_bytes
    grown = (await kernel.run("c", "x = bytes(1) * 100_000_000; del x")).end.peak_memory_bytes
    assert grown > before + 90_000_000
    assert (await kernel.run("d", "1")).end.peak_memory_bytes < grown, "the peak is that of the cell"


async def test_pings_are_answered_while_a_cell_computes(kernel: Controller) -> None:
    run = kernel.dispatch("a", "while True: pass")
    await kernel.until(lambda: run.started)
    kernel.send(ping=link_pb2.Ping(id=7))
    await kernel.until(lambda: kernel.pongs == [7], timeout_s=5)
    kernel.interrupt("a")
    await kernel.until(lambda: run.ended is not None)


async def test_the_hello_tells_facts(controller: Controller, agent: AgentProcess) -> None:
    hello = controller.hellos[0]
    assert hello.protocol == 1
    assert hello.kernel.state == link_pb2.HOST_STATE_NONE
    assert int(hello.facts.cap_eff, 16) >= 0
    assert "lo" in hello.facts.interfaces
    assert hello.last_number == 0


async def test_an_unknown_kernel_type_does_not_start(agent: AgentProcess, controller: Controller) -> None:
    controller.send(start_kernel=link_pb2.StartKernelHost(kernel_type="cobol"))
    await controller.until(lambda: controller.kernel.state == link_pb2.HOST_STATE_DEAD)
    assert "cobol" in controller.kernel.reason
