"""Every example of the two specifications, unchanged, against a real controller with real containers.

What an example takes from its context (`session`, `cell_id`, ...) is there before it runs; what its comments promise
is asserted beside it. A test takes all examples of a section; the first one of most only shows a call's parameters.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest

import cellyard
from tests.contract import pages
from tests.contract.pages import Script
from tests.controller_process import Process

pytestmark = pytest.mark.docker

both = pytest.mark.parametrize("page", [pages.SYNC, pages.ASYNC], scope="module")
only_sync = pytest.mark.parametrize("page", [pages.SYNC], scope="module")
only_async = pytest.mark.parametrize("page", [pages.ASYNC], scope="module")


@pytest.fixture(scope="module")
def controller(page: str, built_image: str, module_folder: Path) -> Iterator[Process]:
    """A controller for each page: both pages' complete examples expect that "my-notebook" is empty."""
    folder = module_folder / ("a" if page == pages.ASYNC else "s")
    folder.mkdir()
    process = Process(folder)
    process.start()
    yield process
    process.close()


@pytest.fixture
def session(page: str, controller: Process, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """The page's examples with a new `session`; it finds the controller by the variable that both pages name."""
    monkeypatch.delenv("CELLYARD_ENDPOINT", raising=False)
    monkeypatch.delenv("CELLYARD_TOKEN", raising=False)
    monkeypatch.setenv("RUNTIMED_SOCKET_PATH", controller.endpoint.removeprefix("unix:"))
    monkeypatch.setitem(sys.modules, "runtimed", cellyard)
    session = Script(page)
    session.run(f"session = runtimed.{'AsyncSession' if session.is_async else 'Session'}()")
    yield session
    session.close()


@pytest.fixture
def cell(session: Script) -> Script:
    """The same, connected, with no kernel, and with the cell that the pages show, as `cell_id`."""
    session.names["cell_id"] = session.ask("create_cell", "print('hello')")
    return session


@pytest.mark.parametrize(("page", "count"), [(pages.SYNC, 29), (pages.ASYNC, 30)])
def test_every_example_of_the_page_is_found(page: str, count: int) -> None:
    sections = pages.read(page).values()
    assert sum(len(section.examples) for section in sections) == count
    assert not [line for section in sections for line in section.prose if pages.LOOKS_LIKE_CODE.search(line)]


@pytest.mark.parametrize("page", [pages.SYNC, pages.ASYNC])
def test_names_parameters_defaults_and_results_are_those_of_the_page(page: str) -> None:
    kind = cellyard.Session if page == pages.SYNC else cellyard.AsyncSession
    assert isinstance(inspect.getattr_static(kind, "notebook_id"), property)
    for name in ("is_connected", "kernel_started", "env_source"):
        state = inspect.getattr_static(kind, name)
        assert isinstance(state, property) if page == pages.SYNC else inspect.iscoroutinefunction(state)
    for heading, section in pages.read(page).items():
        if not section.examples or not (heading == "Constructor" or heading.endswith("()")):
            continue
        member = inspect.getattr_static(kind, "__init__" if heading == "Constructor" else heading[:-2])
        assert heading == "Constructor" or inspect.iscoroutinefunction(member) is (page == pages.ASYNC), heading
        call = inspect.signature(member)
        shown = pages.signature(section.examples[0])
        _self, *offered = call.parameters.values()
        own, further = offered[: len(shown)], offered[len(shown) :]
        assert [(given.name, given.default) for given in own] == list(shown.items()), heading
        assert {given.kind for given in own} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}, heading
        assert all(given.default is not given.empty for given in further), heading
        if "return" in section.prose:
            returned = section.prose[section.prose.index("return") + 1]
            assert call.return_annotation == returned.replace("List[", "list["), heading


@both
def test_constructor(session: Script) -> None:
    shape, example = session.sections["Constructor"].examples
    session.names |= {"Session": cellyard.Session, "AsyncSession": cellyard.AsyncSession}
    session.run(shape)
    assert re.fullmatch(r"agent-session-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n", session.run(example))
    assert session.ask("is_connected") is False


@only_async
def test_properties_and_state_calls(session: Script) -> None:
    names = {"is_connected()": "connected", "kernel_started()": "running", "env_source()": "env"}
    for expected in ([False, False, None], [True, True, "uv:prewarmed"]):
        for heading in names:
            (example,) = session.sections[heading].examples
            session.run(example)
        assert [session[name] for name in names.values()] == expected
        session.ask("start_kernel")
    (example,) = session.sections["Properties"].examples
    session.run(example)
    assert (session["connected"], session["kernel_running"], session["env"]) == (True, True, "uv:prewarmed")
    assert session["notebook_id"] == session["session"].notebook_id


@both
def test_connect_start_kernel_and_shutdown_kernel(session: Script, controller: Process) -> None:
    (connect,) = session.sections["connect()"].examples
    start_shape, start = session.sections["start_kernel()"].examples
    (shutdown,) = session.sections["shutdown_kernel()"].examples

    def state() -> list[object]:
        return [session.ask(name) for name in ("is_connected", "kernel_started", "env_source")]

    session.run(connect)
    assert state() == [True, False, None]
    session.run(start)
    assert state() == [True, True, "uv:prewarmed"]
    assert session.ask("run", "x = 1").success
    containers = {container.id for container in controller.containers()}
    session.run(start_shape)  # "returns immediately without starting a new one"
    assert {container.id for container in controller.containers()} == containers
    assert session.ask("run", "print(x)").stdout == "1\n"
    session.run(shutdown)
    assert state() == [True, False, None]


@both
def test_interrupt(session: Script) -> None:
    (example,) = session.sections["interrupt()"].examples
    session.run(f"""\
{"async " if session.is_async else ""}for event in session.stream_execute(
    code="import time; print('running', flush=True); time.sleep(100)"
):
    if isinstance(event, runtimed.OutputEvent) and event.output.text == "running\\n":
{indent(example, " " * 8)}""")
    result = session["event"].result
    assert not result.success
    assert (result.end, result.error.ename) == ("interrupted", "KeyboardInterrupt")
    assert session.ask("run", "print('goes on')").stdout == "goes on\n"


@both
def test_create_cell(session: Script) -> None:
    shape, example = session.sections["create_cell()"].examples
    session.run(shape)
    first = session["cell_id"]
    assert re.fullmatch(r"cell-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n", session.run(example))
    note = session.ask("create_cell", "# note", cell_type="markdown", index=0)
    raw = session.ask("create_cell", "raw", "raw", 1)
    assert [(found.id, found.cell_type, found.source) for found in session.ask("get_cells")] == [
        (note, "markdown", "# note"),
        (raw, "raw", "raw"),
        (first, "code", ""),
        (session["cell_id"], "code", "print('hello')"),
    ]


@both
def test_set_source_and_get_cell(cell: Script) -> None:
    get_shape, get = cell.sections["get_cell()"].examples
    assert cell.run(get) == "print('hello')\nNone\n"
    cell.ask("execute_cell", cell["cell_id"])
    assert cell.run(get) == "print('hello')\n1\n"
    set_shape, set_ = cell.sections["set_source()"].examples
    cell.names["source"] = "print('new')"
    cell.run(set_shape + get_shape)
    assert isinstance(cell["cell"], cellyard.Cell)
    assert (cell["cell"].id, cell["cell"].cell_type) == (cell["cell_id"], "code")
    assert cell["cell"].source == "print('new')"
    cell.run(set_ + get_shape)
    assert cell["cell"].source == "print('updated')"


@both
def test_get_cells_and_delete_cell(cell: Script) -> None:
    shape, example = cell.sections["get_cells()"].examples
    other = cell.ask("create_cell", "print('a line of more than thirty characters')")
    cell.run(shape)
    assert type(cell["cells"]) is list
    assert [type(found) for found in cell["cells"]] == [cellyard.Cell, cellyard.Cell]
    assert cell.run(example) == f"{cell['cell_id']}: print('hello')...\n{other}: print('a line of more than thi...\n"
    first_deletion, second_deletion = cell.sections["delete_cell()"].examples
    cell.run(first_deletion)
    assert [found.id for found in cell.ask("get_cells")] == [other]
    cell.names["cell_id"] = other
    cell.run(second_deletion)
    assert cell.ask("get_cells") == []


@both
def test_execute_cell(session: Script) -> None:
    shape, example = session.sections["execute_cell()"].examples
    assert session.run(example) == "True\n1\n"  # no kernel was running: it "will start one automatically"
    assert session.ask("kernel_started") is True
    session.ask("set_source", session["cell_id"], "print(x); x")
    session.run(shape)
    assert isinstance(session["result"], cellyard.ExecutionResult)
    assert (session["result"].success, session["result"].execution_count) == (True, 2)
    assert [type(output) for output in session["result"].outputs] == [cellyard.Output, cellyard.Output]
    endless = session.ask("create_cell", "while True: pass")
    with pytest.raises(cellyard.RuntimedError, match="timed out"):
        session.ask("execute_cell", endless, timeout_secs=0.5)


@both
def test_run(session: Script) -> None:
    shape, example = session.sections["run()"].examples
    assert session.run(example) == "hello\n\nTrue\n"
    session.names["code"] = "1 / 0"
    session.run(shape)
    assert session["result"].success is False
    assert [found.source for found in session.ask("get_cells")] == ["print('hello')", "1 / 0"]


@both
def test_queue_cell(cell: Script) -> None:
    shape, example = cell.sections["queue_cell()"].examples
    for source in (shape, example):
        cell.run(source)
        cell.ask("run", "pass")  # ends behind what is queued
        assert [output.text for output in cell.ask("get_cell", cell["cell_id"]).outputs] == ["hello\n"]
    assert cell["cell"].id == cell["cell_id"]
    assert cell.ask("get_cell", cell["cell_id"]).execution_count == 3


@both
def test_calls_raise_where_the_page_says_so(cell: Script) -> None:
    shapes = [cell.sections[heading].examples[0] for heading in ("get_cell()", "execute_cell()", "queue_cell()")]
    known, cell.names["cell_id"] = cell["cell_id"], "cell-nobody"
    for shape in shapes:
        with pytest.raises(cellyard.RuntimedError, match="not found"):
            cell.run(shape)
    cell.names["cell_id"] = known
    cell.ask("close")
    for shape in shapes:
        with pytest.raises(cellyard.RuntimedError, match="not connected"):
            cell.run(shape)


@only_sync
def test_metadata(session: Script) -> None:
    set_shape, set_example = session.sections["set_metadata()"].examples
    get_shape, get_example = session.sections["get_metadata()"].examples
    session.run(set_example)
    session.names["metadata"] = None
    session.run(get_example)
    assert session["metadata"] == {"kernelspec": {"name": "python3"}}
    session.names["key"] = "mine"
    session.run(get_shape)
    assert session["value"] is None
    session.names["value"] = '"set"'
    session.run(f"{set_shape}value = None\n{get_shape}")
    assert session["value"] == '"set"'


@both
def test_context_manager(session: Script) -> None:
    (example,) = session.sections["Async Context Manager" if session.is_async else "Context Manager"].examples
    session.run(example)
    assert session["result"].success
    assert [output.data["text/plain"] for output in session["result"].outputs] == ["2"]
    session.ask("connect")
    assert session.ask("kernel_started") is False  # "Kernel automatically shut down on exit"
    assert [cell.id for cell in session.ask("get_cells")] == [session["cell_id"]]


@both
def test_complete_example(session: Script) -> None:
    (example,) = session.sections["Complete Example"].examples
    assert session.run(example) == (
        "Environment: uv:prewarmed\nSuccess: True\nOutput: 42\n\nTotal cells: 2\nUpdated output: 100\n\n"
    )


@only_async
def test_parallel_execution(session: Script) -> None:
    (example,) = session.sections["Parallel Execution"].examples
    with cellyard.Client() as client:
        before = {notebook.notebook_id for notebook in client.list_notebooks()}
        assert session.run(example) == "Executed 3 cells\n"
        (made,) = {notebook.notebook_id for notebook in client.list_notebooks()} - before
        assert [execution.success for execution in client.list_executions(made)] == [True, True, True]
