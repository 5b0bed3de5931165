"""Every example of code mode's specification, against real containers and a server of this test's own.

The page is flattened: its examples have lost their indentation, and prose begins where they end. So each stands here
as it was, and is looked for in the page by everything but its spaces.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from cellyard import codemode
from tests.contract import pages
from tests.controller_process import Process

pytestmark = pytest.mark.docker

PAGE = (pages.FOLDER / "py-code-mode-session.md").read_text(encoding="utf-8")
CURL = """
import json, sys
url = sys.argv[-1]
names = {"public_repos": 8} if url.endswith("/users/octocat") else {"current_user_url": url}
print(json.dumps(names))
"""
"""Stands for curl, and for the server that it would ask."""
CURL_YAML = """
name: curl
description: Make HTTP requests
tags: [http, network]
command: {command}
schema:
  positional:
    - name: url
      type: string
      required: true
recipes:
  get:
    description: GET request
    params:
      url: {{type: string, required: true}}
"""
FETCH_JSON = """async def run(url: str) -> dict:
    import json
    response = tools.curl.get(url=url)
    return json.loads(response)
"""


def squeezed(text: str) -> str:
    """Without spaces of any kind."""
    return re.sub(r"\s", "", text)


def given(example: str) -> str:
    """An example, indented as it was; it has to stand in the page."""
    example = textwrap.dedent(example).strip("\n")
    assert squeezed(example) in squeezed(PAGE), example
    return example


async def do(source: str, names: dict[str, Any]) -> str:
    """Runs it as the asyncio REPL would; returns what it printed."""
    code = compile(source, "example", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    with redirect_stdout(io.StringIO()) as printed:
        pending = eval(code, names)
        if inspect.iscoroutine(pending):
            await pending
    return printed.getvalue()


@pytest.fixture(scope="module")
def controller(built_image: str, module_folder: Path) -> Iterator[Process]:
    process = Process(module_folder)
    process.start("--runtime", "docker,process")
    yield process
    process.close()


@pytest.fixture
def names(controller: Process, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    """What the examples find: the package by its name, a workspace with a tool here and in the home folder."""
    monkeypatch.setenv("CELLYARD_ENDPOINT", controller.endpoint)
    monkeypatch.delenv("CELLYARD_TOKEN", raising=False)
    monkeypatch.setitem(sys.modules, "py_code_mode", codemode)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    curl = folder / "curl"
    curl.write_text(f"#!{sys.executable}\n{CURL}")
    curl.chmod(0o755)
    for tools in (folder / ".code-mode" / "tools", folder / "tools"):
        tools.mkdir(parents=True)
        (tools / "curl.yaml").write_text(CURL_YAML.format(command=curl))
    return {"Path": Path, "Session": codemode.Session}


@pytest.fixture
async def session(names: dict[str, Any]) -> Any:
    """The page's `session`."""
    async with codemode.Session.from_base("./.code-mode") as session:
        names["session"] = session
        yield session


def test_signatures_are_those_of_the_page() -> None:
    shown = dict(re.findall(r"async def (\w+)\(\s*self,?(.*?)\) -> ", PAGE, re.DOTALL))
    assert len(shown) == 19
    for name, parameters in shown.items():
        written = ast.parse(f"def f({parameters}): pass").body[0]
        assert isinstance(written, ast.FunctionDef)
        expected = inspect.signature(_function(f"def f({parameters}): pass"))
        call = getattr(codemode.Session, name)
        assert inspect.iscoroutinefunction(call), name
        _self, *own = inspect.signature(call).parameters.values()
        assert [(each.name, each.default) for each in own] == [
            (each.name, each.default) for each in expected.parameters.values()
        ], name
    for name in ("supports", "supported_capabilities"):
        assert not inspect.iscoroutinefunction(getattr(codemode.Session, name))
    assert isinstance(inspect.getattr_static(codemode.Session, "storage"), property)


@pytest.mark.parametrize("name", ["from_base", "subprocess", "inprocess"])
def test_constructors_are_those_of_the_page(name: str) -> None:
    found = re.search(rf"^Session\.{name}\((\n.*?)\) -> Session", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    shown = inspect.signature(_function(f"def f({found[1]}): pass")).parameters
    own = inspect.signature(getattr(codemode.Session, name)).parameters
    for each in shown.values():
        assert own[each.name].kind is each.kind
        if each.name != "base":  # it has another name, too
            assert own[each.name].default == each.default


def test_the_constructor_is_that_of_the_page() -> None:
    found = re.search(r"^Session\((\nstorage.*?)\)\|", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    shown = list(inspect.signature(_function(f"def f({found[1]}): pass")).parameters.values())
    own = list(inspect.signature(codemode.Session).parameters.values())[: len(shown)]
    assert [(each.name, each.default, each.kind) for each in own] == [
        (each.name, each.default, each.kind) for each in shown
    ]


async def test_one_line_for_local_development(names: dict[str, Any]) -> None:
    await do(
        given("""
            from py_code_mode import Session
            # Simplest: auto-discovers tools/, workflows/, artifacts/, requirements.txt
            async with Session.from_base("./.code-mode") as session:
                result = await session.run("tools.curl.get(url='https://api.github.com')")
        """),
        names,
    )
    result = names["result"]
    assert result.is_ok, result.error
    assert json.loads(result.value) == {"current_user_url": "https://api.github.com"}


async def test_constructors(names: dict[str, Any]) -> None:
    await do(
        given("""
            async with Session.from_base("./.code-mode") as session:
                await session.run("tools.list()")
        """),
        names,
    )
    await do(
        given("""
            async with Session.subprocess("~/.code-mode") as session:
                await session.run("import pandas; pandas.__version__")
        """).replace("await session.run", "result = await session.run"),
        names,
    )
    assert re.match(r"\d+\.", names["result"].value)
    await do(
        given("""
            async with Session.inprocess("~/.code-mode") as session:
                await session.run("1 + 1")
        """).replace("await session.run", "result = await session.run"),
        names,
    )
    assert names["result"].value == 2


async def test_full_control(names: dict[str, Any]) -> None:
    source = given("""
        from py_code_mode import Session, FileStorage, SubprocessExecutor, SubprocessConfig
        storage = FileStorage(base_path=Path("./data"))
        config = SubprocessConfig(tools_path=Path("./tools"))
        executor = SubprocessExecutor(config=config)
        async with Session(storage=storage, executor=executor) as session:
            ...
    """)
    await do(source.replace("...", "result = await session.run('[tool.name for tool in tools.list()]')"), names)
    assert names["result"].value == ["curl"]
    assert names["session"].storage is names["storage"]


async def test_reset(names: dict[str, Any]) -> None:
    names |= {"storage": codemode.FileStorage(Path("./data")), "executor": codemode.ContainerExecutor()}
    await do(
        given("""
            async with Session(storage=storage, executor=executor) as session:
                await session.run("x = 42")
                await session.reset()
                result = await session.run("x")  # Error: x is not defined
        """),
        names,
    )
    assert "name 'x' is not defined" in names["result"].error
    assert names["result"].is_ok is False


async def test_run(session: Any, names: dict[str, Any]) -> None:
    printed = await do(
        given("""
            result = await session.run('''
            import json
            data = tools.curl.get(url="https://api.github.com/users/octocat")
            json.loads(data)["public_repos"]
            ''')
            if result.is_ok:
                print(f"Repos: {result.value}")
            else:
                print(f"Error: {result.error}")
        """),
        names,
    )
    assert printed == "Repos: 8\n"
    assert names["result"].stdout == ""


async def test_capabilities(session: Any, names: dict[str, Any]) -> None:
    names["code"] = "'supported'"
    await do(
        given("""
            if session.supports("timeout"):
                result = await session.run(code, timeout=30.0)
        """),
        names,
    )
    assert names["result"].value == "supported"
    await do(
        given("""
            caps = session.supported_capabilities()
            # {'timeout', 'process_isolation', 'reset', ...}
        """),
        names,
    )
    assert names["caps"] == set(re.findall(r"^(\w+) \|$", PAGE[PAGE.index("Available capabilities:") :], re.MULTILINE))


async def test_tools(session: Any, names: dict[str, Any]) -> None:
    printed = await do(
        given("""
            tools = await session.list_tools()
            for tool in tools:
                print(f"{tool['name']}: {tool['description']}")
        """),
        names,
    )
    assert printed == "curl: Make HTTP requests\n"
    assert names["tools"][0]["tags"] == ["http", "network"]
    await do(given('http_tools = await session.search_tools("make HTTP requests")'), names)
    assert [tool["name"] for tool in names["http_tools"]] == ["curl"]


async def test_workflows(session: Any, names: dict[str, Any]) -> None:
    await do(
        given("""
            await session.add_workflow(
                name="fetch_json",
                source='''async def run(url: str) -> dict:
                import json
                response = tools.curl.get(url=url)
                return json.loads(response)
            ''',
                description="Fetch and parse JSON from a URL"
            )
        """).replace(
            "async def run(url: str) -> dict:\n    import json\n    response = tools.curl.get(url=url)\n"
            "    return json.loads(response)\n",
            FETCH_JSON,
        ),
        names,
    )
    await do(given('workflows = await session.search_workflows("fetch GitHub repository data")'), names)
    (found,) = names["workflows"]
    assert found == {
        "name": "fetch_json",
        "description": "Fetch and parse JSON from a URL",
        "parameters": [{"name": "url", "type": "string", "description": "", "required": True, "default": None}],
    }
    assert await session.list_workflows() == [found]
    printed = await do(
        given("""
            workflow = await session.get_workflow("fetch_json")
            if workflow:
                print(workflow["source"])
        """),
        names,
    )
    assert printed == FETCH_JSON + "\n"
    ran = await session.run("workflows.fetch_json(url='https://api.github.com/users/octocat')['public_repos']")
    assert ran.value == 8
    assert await session.get_workflow("nothing") is None
    assert await session.remove_workflow("fetch_json") is True
    assert await session.remove_workflow("fetch_json") is False


async def test_artifacts(session: Any, names: dict[str, Any]) -> None:
    await do(
        given("""
            await session.save_artifact(
                name="analysis_results",
                data={"repos": 42, "stars": 1000},
                description="GitHub analysis results"
            )
        """),
        names,
    )
    (found,) = await session.list_artifacts()
    assert set(found) == {"name", "path", "description", "metadata", "created_at"}
    await do(given('data = await session.load_artifact("analysis_results")'), names)
    assert names["data"] == {"repos": 42, "stars": 1000}
    await session.delete_artifact("analysis_results")
    assert await session.list_artifacts() == []


async def test_deps(session: Any, names: dict[str, Any]) -> None:
    printed = await do(
        given("""
            result = await session.add_dep("pandas>=2.0")
            if result.get("installed"):
                print("pandas installed")
        """),
        names,
    )
    assert printed == ""  # the image has it
    assert names["result"] == {"installed": [], "already_present": ["pandas>=2.0"], "failed": []}
    assert await session.list_deps() == ["pandas>=2.0"]
    printed = await do(
        given("""
            # Manually sync deps (alternative to sync_deps_on_start=True)
            result = await session.sync_deps()
            print(f"Installed: {result['installed']}")
        """),
        names,
    )
    assert printed == "Installed: []\n"
    removed = await session.remove_dep("pandas")
    assert set(removed) == {"removed", "not_found", "failed", "removed_from_config"}
    assert await session.list_deps() == []


async def test_storage(session: Any, names: dict[str, Any]) -> None:
    await do(
        given("""
            # Access storage for advanced operations
            workflow_library = session.storage.get_workflow_library()
        """),
        names,
    )
    assert names["workflow_library"].list() == []


async def test_lifecycle(names: dict[str, Any]) -> None:
    names |= {"storage": codemode.FileStorage("./data"), "executor": codemode.ContainerExecutor(), "code": "6 * 7"}
    await do(
        given("""
            async with Session(storage=storage, executor=executor) as session:
                # session.start() called automatically
                result = await session.run(code)
                # session.close() called automatically on exit
        """),
        names,
    )
    assert names.pop("result").value == 42
    names["executor"] = codemode.ContainerExecutor()
    await do(
        given("""
            session = Session(storage=storage, executor=executor)
            await session.start()
            try:
                result = await session.run(code)
            finally:
                await session.close()
        """),
        names,
    )
    assert names["result"].value == 42
    assert names["session"].supported_capabilities() == set()


def _function(source: str) -> Any:
    """The function that this defines, with annotations unread."""
    found: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + source, found)
    return found["f"]
