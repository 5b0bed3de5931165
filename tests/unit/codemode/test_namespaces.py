"""The namespaces of running code, over a stand-in for whoever serves them."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import pytest

from cellyard_proto.codemode import names
from cellyard_proto.codemode.errors import CodeModeError, ToolDefinitionError, ToolNotFoundError, WorkflowNotFoundError
from cellyard_proto.codemode.frames import own
from cellyard_proto.codemode.namespaces import INLINE, Item, Namespaces
from cellyard_sandbox import codemode, host_client

SUMMARY = {"name": "w", "description": "", "parameters": [{"name": "n", "type": "integer", "description": ""}]}


class Served:
    """Answers by what it was given, and writes down what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, function: str, operation: str, /, **arguments: Any) -> Any:
        self.asked.append((function, operation, arguments))
        answer = self.answers[operation]
        return answer(**arguments) if isinstance(answer, Callable) else answer  # type: ignore[arg-type]


class Files:
    """Places in memory."""

    def __init__(self) -> None:
        self.there: dict[str, bytes] = {}
        self.made = 0

    def new(self) -> str:
        self.made += 1
        return f"place-{self.made}"

    def write(self, place: str, content: bytes) -> None:
        self.there[place] = content

    def take(self, place: str) -> bytes:
        return self.there[place]

    def remove(self, place: str) -> None:
        self.there.pop(place, None)


def test_items_are_dicts_with_attributes() -> None:
    item = Item({"name": "a", "items_": 1})
    assert (item.name, item["name"], item.to_dict()) == ("a", "a", {"name": "a", "items_": 1})
    with pytest.raises(AttributeError, match="nothing"):
        _ = item.nothing


def test_names_of_tools_are_asked_for_once_and_again_for_an_unknown_one() -> None:
    served = Served(names={"say": ["hello"]}, call=lambda **call: call)
    tools = Namespaces(served).tools
    assert tools.say(a=1) == {"tool": "say", "recipe": None, "arguments": {"a": 1}}
    assert tools.say.hello() == {"tool": "say", "recipe": "hello", "arguments": {}}
    assert [operation for _, operation, _ in served.asked] == ["names", "call", "call"]
    served.answers["names"] = {"say": [], "late": []}
    assert tools.late(recipe="mine", tool="x")["arguments"] == {"recipe": "mine", "tool": "x"}
    assert "late" in dir(tools)


def test_what_is_no_tool_is_an_attribute_error_that_names_some() -> None:
    tools = Namespaces(Served(names={f"t{number:02}": ["r"] for number in range(15)})).tools
    with pytest.raises(ToolNotFoundError, match=r"Available: t00, .*\(and 5 more\)"):
        _ = tools.nothing
    with pytest.raises(ToolNotFoundError, match="Available: r"):
        _ = tools.t00.nothing
    with pytest.raises(TypeError, match="keyword arguments only"):
        tools.t00("x")
    assert not hasattr(tools, "_repr_html_")
    assert not hasattr(tools, "nothing")


def test_what_may_be_of_a_tool_is_its_servers_to_say() -> None:
    """A definition that is wrong, a server that was not there: recipes are unknown, and every call is made."""

    def call(tool: str, recipe: str | None, arguments: dict[str, Any]) -> Any:
        raise ToolDefinitionError(f"{tool}.{recipe}")

    tools = Namespaces(Served(names={"bad": None}, call=call)).tools
    with pytest.raises(ToolDefinitionError, match=r"bad\.None"):
        tools.bad()
    with pytest.raises(ToolDefinitionError, match=r"bad\.late"):
        tools.bad.late(a=1)
    assert "bad" in repr(tools.bad)


def test_a_workflow_runs_with_the_namespaces_alone() -> None:
    source = "def run(n):\n    return n, __name__, sorted(k for k in globals() if not k.startswith('__'))"
    workflows = Namespaces(Served(get=SUMMARY | {"source": source})).workflows
    found = sorted([*names.GLOBALS, "run"])
    assert workflows.w(n=1) == (1, "workflow_w", found)
    assert workflows.invoke("w", n=2)[0] == 2
    assert workflows.get("w").params == {"n": "integer"}  # type: ignore[union-attr]


def test_a_parameter_may_have_any_name() -> None:
    workflows = Namespaces(Served(get=SUMMARY | {"source": "def run(**all): return all"})).workflows
    given = {"name": 1, "self": 2, "workflow_name": 3, "source": 4, "run": 5}
    assert workflows.invoke("w", **given) == given
    assert workflows.w(**given) == given


async def test_a_coroutine_runs_wherever_it_is_called() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    source = "async def run():\n    import asyncio\n    await asyncio.sleep(0)\n    return tools.ask()"
    served = Served(get=SUMMARY | {"source": source}, names={"ask": []}, call=lambda **_: variable.get())
    workflows = Namespaces(served).workflows
    variable.set("seen")
    assert workflows.w() == "seen"  # a loop runs here already
    assert await asyncio.to_thread(workflows.w) == "seen"


async def test_what_a_coroutine_raises_reaches_the_caller_also_an_exit() -> None:
    for raised in (KeyError, SystemExit):
        source = f"async def run():\n    raise {raised.__name__}('x')"
        with pytest.raises(raised):
            Namespaces(Served(get=SUMMARY | {"source": source})).workflows.w()


async def test_an_interrupt_cancels_the_coroutine_that_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the thread that waits; what runs in the other one must not go on."""
    source = """
async def run():
    import asyncio
    tools.told()
    try:
        await asyncio.Event().wait()
    finally:
        tools.ended()
"""
    begun = threading.Event()
    said: list[str] = []

    def call(*, tool: str, **_: Any) -> None:
        said.append(tool)
        begun.set()

    served = Served(get=SUMMARY | {"source": source}, names={"told": [], "ended": []}, call=call)
    join = threading.Thread.join
    interrupted: list[threading.Thread] = []

    def interrupt(self: threading.Thread, timeout: float | None = None) -> None:
        if self.name == "workflow" and not interrupted:
            interrupted.append(self)
            begun.wait(30)
            raise KeyboardInterrupt
        join(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Namespaces(served).workflows.w()
    assert said == ["told", "ended"]
    assert not interrupted[0].is_alive()


def test_workflows_that_call_themselves_end() -> None:
    for source in ("def run(): return workflows.w()", "async def run(): return workflows.w()"):
        with pytest.raises(CodeModeError, match="more than 50 deep"):
            Namespaces(Served(get=SUMMARY | {"source": source})).workflows.w()


def test_what_is_no_workflow_is_said_by_both_names() -> None:
    workflows = Namespaces(Served(get=None)).workflows
    for kind in (WorkflowNotFoundError, AttributeError, ValueError):
        with pytest.raises(kind, match="Workflow not found: nothing"):
            workflows.invoke("nothing")


def test_small_artifacts_go_with_the_call_and_large_or_deep_ones_through_a_file() -> None:
    files = Files()
    kept: dict[str, Any] = {}

    def save(**about: Any) -> dict[str, Any]:
        kept.update(about, content=files.there.get(about["file"]["path"]) if "file" in about else about["data"])
        return {"name": about["name"]}

    artifacts = Namespaces(Served(save=save), files).artifacts
    artifacts.save("a", b"x" * INLINE)
    assert kept["content"] == b"x" * INLINE
    artifacts.save("a", b"x" * (INLINE + 1))
    assert (kept["content"], kept["file"]["type"]) == (b"x" * (INLINE + 1), "bytes")
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    kept.clear()
    artifacts.save("a", deep)
    assert kept["file"]["type"] == "json"
    assert files.there == {}  # nothing is left behind


def test_what_comes_through_a_file_is_read_and_removed() -> None:
    files = Files()

    def load(name: str, into: str) -> dict[str, Any]:
        if name == "small":
            return {"type": "text", "data": "small"}
        files.write(into, b'{"a": 1}')
        return {"type": "json", "file": into}

    artifacts = Namespaces(Served(load=load), files).artifacts
    assert artifacts.load("small") == "small"
    assert artifacts.load("large") == {"a": 1}
    assert files.there == {}


def test_errors_arrive_as_the_classes_they_left_as() -> None:
    for name, kind in (("ToolNotFoundError", ToolNotFoundError), ("ValueError", ValueError)):
        raised = codemode._error(host_client.HostCallError(name, "why"))
        assert type(raised) is kind
        assert str(raised) == "why"
    for name in ("Unheard", "UnicodeDecodeError", "print", "KeyboardInterrupt", "SystemExit"):
        unknown = host_client.HostCallError(name, "why")
        assert codemode._error(unknown) is unknown


def test_a_traceback_may_have_an_instruction_without_a_line() -> None:
    """As where an interrupt comes between two lines: CPython has no number for it then."""
    frame = sys._getframe()
    trace = TracebackType(None, frame, 10**6, -1)
    assert own(trace) is trace
    plumbing = TracebackType(trace, frame_of_plumbing(), 0, 1)
    shown = own(plumbing)
    assert shown is not None
    assert (shown.tb_frame, shown.tb_next) == (frame, None)
    assert shown.tb_lineno > 0


def frame_of_plumbing() -> FrameType:
    """One of a module that stands between code and whoever serves it."""
    names: dict[str, Any] = {"__name__": "cellyard_proto.codemode.namespaces", "sys": sys}
    exec("frame = sys._getframe()", names)
    frame: FrameType = names["frame"]
    return frame


def test_tracebacks_have_the_frames_of_the_codes_own() -> None:
    workflows = Namespaces(Served(get=SUMMARY | {"source": "def run():\n    return 1 / 0"})).workflows
    with pytest.raises(ZeroDivisionError) as raised:
        workflows.w()
    shown, files = own(raised.value.__traceback__), []
    while shown is not None:
        files.append(shown.tb_frame.f_code.co_filename)
        shown = shown.tb_next
    assert files == [__file__, "<workflow w>"]
