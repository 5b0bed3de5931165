"""What every runtime does alike: containers, processes, the caller's own process."""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
from pathlib import Path
from typing import Any

import pytest

from cellyard.codemode import (
    ArtifactDataError,
    ArtifactNameError,
    ArtifactNotFoundError,
    DependencyError,
    RuntimeDepsDisabledError,
    Session,
    SessionClosed,
    ToolCall,
    WorkflowValidationError,
)
from cellyard.errors import CapabilityUnavailable, InvalidRequest
from tests.e2e.codemode.conftest import Opens

pytestmark = pytest.mark.docker

MCP_SERVER = Path(__file__).parents[2] / "integration" / "codemode" / "mcp_server.py"
CAPABILITIES = {
    "docker": {
        "timeout",
        "process_isolation",
        "container_isolation",
        "network_isolation",
        "reset",
        "deps_install",
    },
    "process": {"timeout", "process_isolation", "reset", "deps_install"},
    "inprocess": {"timeout", "reset", "deps_install"},
}


async def value(session: Session, code: str) -> Any:
    """Of code that has to succeed."""
    result = await session.run(code)
    assert result.is_ok, result.error
    return result.value


async def error(session: Session, code: str) -> str:
    """The last line of code that has to fail."""
    result = await session.run(code)
    assert not result.is_ok
    assert result.error is not None
    return result.error.splitlines()[-1]


# Runs


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1\n2", 2),
        ("x = 3", None),
        ("", None),
        ("   \n", None),
        ("None", None),
        ("'42'", "42"),
        ("list(range(2000))", list(range(2000))),
        ("{'a': [1, (2, 3)], 4: {5}}", {"a": [1, (2, 3)], 4: {5}}),
        ("b'\\x00\\xff'", b"\x00\xff"),
        ("import asyncio\nawait asyncio.sleep(0, 'awaited')", "awaited"),
        ("async def f(): return 7\nawait f()", 7),
        ("def f():\n    return 1\nf()", 1),
    ],
)
async def test_the_last_expression_is_the_value_as_data(session: Session, code: str, expected: object) -> None:
    assert await value(session, code) == expected


async def test_what_is_no_data_is_its_repr_and_says_so(session: Session) -> None:
    result = await session.run("class A:\n    def __repr__(self): return '<A>'\nA()")
    assert (result.value, result.value_is_repr, result.is_ok) == ("<A>", True, True)
    assert (await session.run("float('nan')")).value != (await session.run("float('nan')")).value


async def test_output_is_kept_apart_and_before_errors(session: Session) -> None:
    result = await session.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 / 0")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert result.error is not None
    assert result.error.endswith("ZeroDivisionError: division by zero")
    assert "\x1b" not in result.error
    assert await value(session, "1 + 1") == 2


async def test_names_last_until_a_reset_and_namespaces_come_back(session: Session) -> None:
    await session.run("import json\nx = 42\ntools = artifacts = 5")
    assert await value(session, "x, tools, json.dumps(1)") == (42, 5, "1")
    await value(session, "artifacts = 6\nworkflows.create('kept', 'def run(): return 1')")
    await session.reset()
    assert (await error(session, "x")).startswith("NameError")
    assert (await error(session, "json")).startswith("NameError")
    assert await value(session, "[t.name for t in tools.list()], workflows.kept(), artifacts.list(), deps.list()") == (
        ["say"],
        1,
        [],
        [],
    )


async def test_a_deleted_namespace_is_there_in_the_next_run(session: Session) -> None:
    await value(session, "del tools, workflows, artifacts, deps")
    assert await value(session, "[t['name'] for t in tools.list()]") == ["say"]


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "exit()", "import sys\nsys.exit()", "raise KeyboardInterrupt"])
async def test_an_exit_is_an_error_and_the_session_goes_on(session: Session, code: str) -> None:
    await value(session, "x = 1")
    result = await session.run(f"print('before')\n{code}")
    assert not result.is_ok
    assert result.error
    assert result.stdout == "before\n"
    assert await value(session, "1 + 1") == 2


async def test_syntax_errors_are_results(session: Session) -> None:
    assert "SyntaxError" in str((await session.run("1 +")).error)
    assert "IndentationError" in str((await session.run("if 1:\nx")).error)


async def test_a_timeout_stops_the_code_and_the_next_run_answers(session: Session) -> None:
    await value(session, "x = 1\ncount = 0")
    result = await session.run("print('begun')\nwhile True:\n    count += 1", timeout=1)
    assert not result.is_ok
    assert "timed out after 1s" in str(result.error)
    assert result.stdout == "begun\n"
    assert (await session.run("x", timeout=20)).value == 1
    counted = await value(session, "count")
    assert await value(session, "count") == counted  # nothing counts on


async def test_a_timeout_ends_an_await(session: Session) -> None:
    result = await session.run("import asyncio\nawait asyncio.sleep(600)", timeout=1)
    assert "timed out after 1s" in str(result.error)
    assert await value(session, "1 + 1") == 2


async def test_whoever_gives_up_waiting_stops_the_code(session: Session, folder: Path) -> None:
    """Cancelled while a tool runs, so that it is known to have begun: both are stopped, and variables stay."""
    told = folder / "pid"
    os.mkfifo(told)
    running = asyncio.create_task(session.run(f"x = 1\ntools.say(what='hang', more={str(told)!r})"))
    pid = int(await asyncio.to_thread(told.read_text))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await value(session, "x") == 1
    await asyncio.to_thread(_gone, pid)


async def test_limits_that_cannot_be_are_refused(opens: Opens, session: Session) -> None:
    for bad in (0, -1, float("nan"), "1", True):
        with pytest.raises(InvalidRequest):
            await session.run("1", timeout=bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest):
            opens(timeout=bad)
    with pytest.raises(InvalidRequest):
        await session.run(1)  # type: ignore[arg-type]


async def test_runs_at_the_same_time_queue_up_each_with_its_own_output(session: Session) -> None:
    code = "print({0})\nimport time\ntime.sleep(0.05)\nprint({0})\n{0} * 10"
    results = await asyncio.gather(*(session.run(code.format(number)) for number in range(5)))
    assert [(result.stdout, result.value) for result in results] == [
        (f"{number}\n{number}\n", number * 10) for number in range(5)
    ]


async def test_what_is_proven_is_known_while_the_session_runs(opens: Opens, runtime: str) -> None:
    session = opens()
    assert session.supported_capabilities() == set()
    async with session:
        assert session.supported_capabilities() == CAPABILITIES[runtime]
        assert session.supports("timeout")
        assert session.supports("container_isolation") is (runtime == "docker")
    assert session.supported_capabilities() == set()
    assert not session.supports("timeout")


async def test_what_is_required_and_not_there_is_refused_at_the_start(opens: Opens, runtime: str) -> None:
    session = opens(require={"network_isolation"})
    if runtime == "docker":
        async with session:
            assert session.supports("network_isolation")
    else:
        with pytest.raises(CapabilityUnavailable, match="network_isolation"):
            await session.start()
    await session.close()


async def test_a_closed_session_stays_closed(opens: Opens) -> None:
    session = opens()
    assert (await session.run("1 + 1")).value == 2  # it starts by itself
    await session.close()
    await session.close()
    assert (await session.run("1")).error == "Session is closed"
    for call in (
        session.start,
        session.reset,
        session.list_tools,
        session.list_workflows,
        session.list_artifacts,
        session.list_deps,
        session.sync_deps,
    ):
        with pytest.raises(SessionClosed):
            await call()
    with pytest.raises(SessionClosed):
        await session.add_workflow("a", "def run(): pass", "")


async def test_closing_ends_what_runs(opens: Opens, folder: Path) -> None:
    """What runs ends with its session, and so does the tool that it waits for; what waits behind it never runs."""
    told = folder / "pid"
    os.mkfifo(told)
    session = opens()
    running = asyncio.create_task(session.run(f"tools.say(what='hang', more={str(told)!r})"))
    pid = int(await asyncio.to_thread(told.read_text))
    waiting = asyncio.create_task(session.run("1"))
    await asyncio.sleep(0)
    await session.close()
    results = await asyncio.gather(running, waiting)
    assert [result.is_ok for result in results] == [False, False]
    assert results[1].error == "Session is closed"
    await asyncio.to_thread(_gone, pid)


# Tools


async def test_tools_are_listed_and_searched_with_their_tags(session: Session) -> None:
    (tool,) = await session.list_tools()
    assert (tool["name"], tool["description"], tool["tags"]) == ("say", "Says what it is given", ["speech", "test"])
    assert [each["name"] for each in tool["callables"]] == ["hello"]
    assert await value(session, "tools.list()") == [tool]
    assert await value(session, "t = tools.search('greets speech')[0]\n(t.name, t['tags'])") == ("say", tool["tags"])
    assert await session.search_tools("nothing of the kind") == []


async def test_tools_run_here_and_are_called_by_name_and_recipe(session: Session) -> None:
    assert json.loads(await value(session, "tools.say(what='a', more='b c')")) == ["a", "b c"]
    assert json.loads(await value(session, "tools.say.hello()")) == ["hello", "world"]
    assert json.loads(await value(session, "tools.say.hello(more='you')")) == ["hello", "you"]
    assert [each["name"] for each in await value(session, "tools.say.list()")] == ["hello"]


async def test_what_goes_wrong_with_a_tool_can_be_caught_by_name(session: Session) -> None:
    caught = """
found = []
for call in (
    lambda: tools.nothing(),
    lambda: tools.say.nothing(),
    lambda: tools.say(),
    lambda: tools.say(what='a', unknown=1),
    lambda: tools.say('a'),
):
    try:
        call()
    except Exception as error:
        found.append((type(error).__name__, str(error)))
found
"""
    found = await value(session, caught)
    names, messages = zip(*found, strict=True)
    assert names == ("ToolNotFoundError", "ToolNotFoundError", "ToolCallError", "ToolCallError", "TypeError")
    assert "say" in messages[0]
    assert "hello" in messages[1]
    assert "what" in messages[2]
    assert "unknown" in messages[3]
    assert (await error(session, "tools.nothing")).startswith("ToolNotFoundError: Tool 'nothing' not found")
    assert await value(session, "try:\n    tools.nothing\nexcept AttributeError:\n    caught = 1\ncaught") == 1


async def test_code_hears_what_is_wrong_with_a_tool_and_a_server_may_come_late(opens: Opens, base: Path) -> None:
    (base / "tools" / "bad.yaml").write_text("name: bad\ntimeout: soon\n")
    server = base / "server"
    (base / "tools" / "late.yaml").write_text(f"name: late\ntype: mcp\ncommand: {server}\n")
    async with opens() as session:
        assert [tool["name"] for tool in await session.list_tools()] == ["late", "say"]
        last = await error(session, "tools.bad()")
        assert last.startswith("ToolDefinitionError")
        assert "bad.yaml:2: timeout" in last
        assert "cannot be connected" in await error(session, "tools.late.add(a=1, b=2)")
        server.write_text(f"#!/bin/sh\nexec {sys.executable} {MCP_SERVER} stdio\n")
        server.chmod(0o755)
        assert await value(session, "tools.late.add(a=1, b=2)") == "3"
        assert "add" in [each["name"] for each in await value(session, "tools.late.list()")]
        assert json.loads(await value(session, "tools.say(what='still there')")) == ["still there"]


async def test_an_owner_hears_changes_and_refuses_calls(opens: Opens) -> None:
    heard: list[ToolCall] = []

    async def on_tool_call(call: ToolCall) -> ToolCall | None:
        heard.append(call)
        if call.args.get("what") == "secret":
            raise PermissionError("not that one")
        if call.args.get("what") == "old":
            return ToolCall(call.tool, call.recipe, {"what": "new"}, call.notebook_id, call.execution_id)
        return None

    async with opens(on_tool_call=on_tool_call) as session:
        assert json.loads(await value(session, "tools.say(what='a')")) == ["a"]
        assert json.loads(await value(session, "tools.say(what='old')")) == ["new"]
        assert "not that one" in await error(session, "tools.say(what='secret')")
        assert (await error(session, "tools.say(what='secret')")).startswith("ToolRefusedError")
    assert (heard[0].tool, heard[0].recipe, heard[0].args) == ("say", None, {"what": "a"})
    assert heard[0].execution_id != heard[1].execution_id != ""


async def test_threads_call_tools_at_the_same_time(opens: Opens) -> None:
    """Each of four calls is let go only when all four have come."""
    come = asyncio.Barrier(4)

    async def on_tool_call(call: ToolCall) -> None:
        await come.wait()

    code = """
from concurrent.futures import ThreadPoolExecutor
import json
with ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda number: json.loads(tools.say(what=str(number))), range(4)))
found
"""
    async with opens(on_tool_call=on_tool_call) as session:
        assert await value(session, code) == [["0"], ["1"], ["2"], ["3"]]


async def test_a_timeout_ends_the_tool_that_the_code_waits_for(session: Session, folder: Path) -> None:
    told = folder / "pid"
    result = await session.run(f"tools.say(what='hang', more={str(told)!r})", timeout=5)
    assert "timed out" in str(result.error)
    assert await value(session, "1 + 1") == 2
    await asyncio.to_thread(_gone, int(told.read_text()))


def _gone(pid: int) -> None:
    """Waits for the end of a process."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([process], [], [], 20)[0], "the tool goes on"
    finally:
        os.close(process)


# Workflows

TWICE = "async def run(number: int, times: int = 2) -> int:\n    '''Doubles'''\n    return number * times\n"


async def test_a_workflow_made_in_code_is_called_searched_and_known_to_the_session(session: Session) -> None:
    made = await value(session, f"workflows.create('twice', {TWICE!r}, 'Doubles a number')")
    assert made["parameters"] == [
        {"name": "number", "type": "integer", "description": "", "required": True, "default": None},
        {"name": "times", "type": "integer", "description": "", "required": False, "default": 2},
    ]
    assert await value(session, "workflows.twice(number=4), workflows.invoke('twice', number=1, times=5)") == (8, 5)
    assert await value(session, "workflows.get('twice').source") == TWICE
    assert await value(session, "[w.name for w in workflows.search('double numbers')]") == ["twice"]
    (listed,) = await session.list_workflows()
    assert (listed["name"], listed["description"]) == ("twice", "Doubles a number")
    assert await value(session, "workflows.delete('twice'), workflows.delete('twice'), workflows.get('twice')") == (
        True,
        False,
        None,
    )
    assert await session.list_workflows() == []


async def test_workflows_have_all_namespaces_and_no_variables_of_the_session(session: Session) -> None:
    source = """
def run(name):
    import json
    said = json.loads(tools.say(what=name))
    artifacts.save('said', said)
    return [said, workflows.twice(number=2), deps.list(), 'secret' in globals()]
"""
    await session.add_workflow("twice", TWICE, "")
    await session.add_workflow("all", source, "Uses all")
    assert await value(session, "secret = 1\nworkflows.all(name='x')") == [["x"], 4, [], False]
    assert await session.load_artifact("said") == ["x"]


async def test_async_and_sync_workflows_call_one_another(session: Session) -> None:
    await session.add_workflow("inner", "async def run(n: int):\n    return n + 1", "")
    await session.add_workflow("middle", "def run(n: int):\n    return workflows.inner(n=n) * 10", "")
    await session.add_workflow("outer", "async def run(n: int):\n    return workflows.middle(n=n) + 1", "")
    assert await value(session, "workflows.outer(n=1)") == 21
    assert await value(session, "async def f():\n    return workflows.outer(n=1)\nawait f()") == 21


async def test_what_a_workflow_raises_reaches_its_caller(session: Session) -> None:
    await session.add_workflow("bad", "def run(n):\n    return {}[n]", "")
    assert await value(session, "try:\n    workflows.bad(n='k')\nexcept KeyError as e:\n    x = e.args\nx") == ("k",)
    assert "run()" in await error(session, "workflows.bad()")
    assert (await error(session, "workflows.bad(1)")).startswith("TypeError")
    assert (await error(session, "workflows.nothing()")) == "WorkflowNotFoundError: Workflow not found: nothing"
    await session.add_workflow("endless", "def run():\n    return workflows.endless()", "")
    assert "endless" in await error(session, "workflows.endless()")


async def test_sources_of_workflows_are_never_executed_here(session: Session, runtime: str, folder: Path) -> None:
    """Kept, listed, searched and read: nothing of it runs. Called, it runs where the code runs."""
    mark = folder / "mark"
    source = f"open({str(mark)!r}, 'w').close()\n1 / 0\ndef run(): pass\n"
    await session.add_workflow("effects", source, "Has effects")
    await value(session, f"workflows.create('more', {source!r})['name']")
    assert [found["name"] for found in await session.list_workflows()] == ["effects", "more"]
    assert await session.search_workflows("effects")
    assert (await session.get_workflow("effects") or {})["source"] == source
    assert not mark.exists()
    assert "Error" in await error(session, "workflows.effects()")
    assert mark.exists() is (runtime != "docker")


async def test_workflows_that_cannot_be_are_refused_on_both_sides(session: Session) -> None:
    for name, source in (
        ("a-b", TWICE),
        ("list", TWICE),
        ("class", TWICE),
        ("x" * 65, TWICE),
        ("ok", "x = 1"),
        ("ok", "def run(:"),
        ("ok", "if True:\n    def run(): pass"),
    ):
        with pytest.raises(WorkflowValidationError):
            await session.add_workflow(name, source, "")
        assert (await error(session, f"workflows.create({name!r}, {source!r})")).startswith("WorkflowValidationError")
    assert await session.list_workflows() == []


# Artifacts

VALUES: list[Any] = [
    b"\x00\xff",
    "text é\n",
    "[1]",
    5,
    1.5,
    None,
    True,
    [1, [2, None]],
    {"a": {"b": "c"}},
    [],
    "",
    b"",
]


async def test_values_come_back_with_their_types_in_both_directions(session: Session) -> None:
    for number, kept in enumerate(VALUES):
        await value(session, f"artifacts.save('code/{number}.json', {kept!r}, 'from code', {{'n': {number}}})")
        loaded = await session.load_artifact(f"code/{number}.json")
        assert (loaded, type(loaded)) == (kept, type(kept))
        await session.save_artifact(f"host/{number}", kept)
        loaded = await value(session, f"artifacts.load('host/{number}')")
        assert (loaded, type(loaded)) == (kept, type(kept))
    known = {found["name"]: found for found in await session.list_artifacts()}
    assert len(known) == 2 * len(VALUES)
    assert known["code/3.json"]["description"] == "from code"
    assert known["code/3.json"]["metadata"] == {"n": 3}
    assert known["code/3.json"]["created_at"].endswith("+00:00")
    assert await value(session, "artifacts.list()") == list(known.values())


async def test_large_artifacts_go_both_ways(session: Session) -> None:
    await value(session, "artifacts.save('large', bytes(range(256)) * 40_000)['name']")
    assert await session.load_artifact("large") == bytes(range(256)) * 40_000
    await session.save_artifact("text", "é" * 3_000_000)
    assert await value(session, "t = artifacts.load('text')\n(len(t), t[0], t[-1])") == (3_000_000, "é", "é")
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    await session.save_artifact("deep", deep)
    assert await value(session, "artifacts.save('again', artifacts.load('deep'))['name']") == "again"
    assert await session.load_artifact("again") == deep


async def test_names_and_values_that_cannot_be_are_refused_on_both_sides(session: Session) -> None:
    for name in ("../x", "/x", "a/../b", "", "a//b", ".artifacts.json", "__index__", "a\x00b"):
        with pytest.raises(ArtifactNameError):
            await session.save_artifact(name, 1)
        assert (await error(session, f"artifacts.save({name!r}, 1)")).startswith("ArtifactNameError")
        assert (await error(session, f"artifacts.load({name!r})")).startswith("ArtifactNameError")
    with pytest.raises(ArtifactNameError, match="traversal"):
        await session.load_artifact("../../etc/passwd")
    for bad in ("(1, 2)", "{1}", "float('nan')", "object()", "{1: 2}", "[b'x']"):
        with pytest.raises(ArtifactDataError):
            await session.save_artifact("bad", eval(bad))
        assert (await error(session, f"artifacts.save('bad', {bad})")).startswith("ArtifactDataError")
    assert await session.list_artifacts() == []


async def test_what_is_not_there_is_said_on_both_sides(session: Session) -> None:
    with pytest.raises(ArtifactNotFoundError):
        await session.load_artifact("nothing")
    assert (await error(session, "artifacts.load('nothing')")).startswith("ArtifactNotFoundError")
    assert await value(session, "artifacts.get('nothing'), artifacts.exists('nothing'), artifacts.delete('no')") == (
        None,
        False,
        None,
    )
    await session.delete_artifact("nothing")


async def test_two_sessions_on_one_base_see_and_lose_nothing(opens: Opens) -> None:
    async with opens() as one, opens() as two:
        await asyncio.gather(
            value(one, "for n in range(20): artifacts.save(f'one{n}', n)"),
            value(two, "for n in range(20): artifacts.save(f'two{n}', n)"),
        )
        assert len(await value(one, "artifacts.list()")) == 40
        await value(one, "x = 1\nworkflows.create('shared', 'def run(): return 5')")
        assert await value(two, "workflows.shared()") == 5
        assert (await error(two, "x")).startswith("NameError")


# Packages


async def test_a_package_is_importable_at_once_kept_and_removed(opens: Opens) -> None:
    async with opens() as session:
        assert "ModuleNotFoundError" in await error(session, "import tiny")
        assert await session.add_dep("Tiny==1.0") == {"installed": ["tiny==1.0"], "already_present": [], "failed": []}
        assert await value(session, "import tiny\ntiny.ANSWER") == 42
        assert await session.add_dep("tiny==1.0") == {"installed": [], "already_present": ["tiny==1.0"], "failed": []}
        assert await value(session, "deps.add('other'), deps.list()") == (
            {"installed": ["other"], "already_present": [], "failed": []},
            ["other", "tiny==1.0"],
        )
        assert await value(session, "import other\nother.ANSWER") == 44
    async with opens() as session:
        assert await session.list_deps() == ["other", "tiny==1.0"]
        assert await value(session, "import tiny, other\n(tiny.ANSWER, other.ANSWER)") == (42, 44)
        assert await session.remove_dep("tiny") == {
            "removed": ["tiny"],
            "not_found": [],
            "failed": [],
            "removed_from_config": True,
        }
        assert await value(session, "deps.remove('other'), deps.remove('other'), deps.list()") == (True, False, [])
        await session.reset()
        assert "ModuleNotFoundError" in await error(session, "import tiny")
        assert "ModuleNotFoundError" in await error(session, "import other")
        assert (await session.remove_dep("tiny"))["not_found"] == ["tiny"]


async def test_what_cannot_be_had_is_not_kept(session: Session) -> None:
    assert await session.add_dep("nowhere") == {"installed": [], "already_present": [], "failed": ["nowhere"]}
    assert await value(session, "deps.add('nowhere')") == {
        "installed": [],
        "already_present": [],
        "failed": ["nowhere"],
    }
    assert await session.list_deps() == []
    for bad in ("tiny @ file:///x", "-r x", "tiny; python_version > '3'", "tiny | sh", "", "../x", "git+https://x/y"):
        with pytest.raises(DependencyError):
            await session.add_dep(bad)
        assert (await error(session, f"deps.add({bad!r})")).startswith("DependencyError")


async def test_an_owner_can_keep_packages_away(opens: Opens, base: Path) -> None:
    (base / "requirements.txt").write_text("tiny>=1  # needed\n\n# other\n")
    async with opens(allow_runtime_deps=False, sync_deps_on_start=True) as session:
        assert await value(session, "import tiny\ntiny.ANSWER") == 43
        assert await session.list_deps() == ["tiny>=1"]
        for call in (session.add_dep, session.remove_dep):
            with pytest.raises(RuntimeDepsDisabledError, match="disabled"):
                await call("other")
        assert (await error(session, "deps.add('other')")).startswith("RuntimeDepsDisabledError")
        assert (await session.sync_deps())["already_present"] == ["tiny>=1"]
