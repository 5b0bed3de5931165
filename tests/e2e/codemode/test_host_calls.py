"""The way from code in a container to its client's tools and storage, and what happens to it when parts go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellyard
from cellyard.codemode import ContainerExecutor, ControllerStorage, FileStorage, Session, ToolCall
from cellyard.errors import CapabilityUnavailable
from tests.controller_process import Process
from tests.e2e.codemode.conftest import Opens

pytestmark = pytest.mark.docker


@pytest.fixture
def runtime() -> str:
    """Containers alone."""
    return "docker"


@pytest.fixture
def own_controller(built_image: str, folder: Path) -> Iterator[Process]:
    """One that a test may kill."""
    process = Process(folder)
    process.start()
    yield process
    process.close()


async def test_no_tool_runs_twice_where_the_controller_dies_under_its_calls(
    own_controller: Process, base: Path, folder: Path
) -> None:
    """Killed before the first tool runs and after the second has: the code notices nothing."""
    counted = folder / "count"
    calls: list[ToolCall] = []

    async def on_tool_call(call: ToolCall) -> None:
        calls.append(call)
        if len(calls) in (1, 3):
            await asyncio.to_thread(own_controller.kill)
            await asyncio.to_thread(own_controller.start)

    code = f"import json\n[json.loads(tools.say(what='count', more={str(counted)!r}))[0] for _ in range(6)]"
    async with Session.from_base(
        base, endpoint=own_controller.endpoint, on_tool_call=on_tool_call, timeout=None
    ) as session:
        result = await session.run(code)
        assert result.value == ["count"] * 6, result.error
    assert counted.read_text() == "x" * 6
    assert len(calls) == 6


async def test_without_containers_nothing_takes_their_place(base: Path, folder: Path) -> None:
    process = Process(folder / "without")
    process.folder.mkdir()
    process.start("--runtime", "process")
    try:
        session = Session.from_base(base, endpoint=process.endpoint)
        with pytest.raises(CapabilityUnavailable, match=r"'docker'.*runtime=\"process\".*without isolation"):
            await session.start()
        with pytest.raises(CapabilityUnavailable):
            await session.run("1")
        assert session.supported_capabilities() == set()
        await session.close()
        async with Session.from_base(base, endpoint=process.endpoint, runtime="process") as chosen:
            assert (await chosen.run("1 + 1")).value == 2
    finally:
        process.close()


async def test_sizes_are_limited_and_what_fits_comes_whole(opens: Opens, base: Path) -> None:
    large = base / "large"
    large.write_text("é" * 6_000_000)
    (base / "tools" / "much.yaml").write_text(
        "name: much\ncommand: head\nschema: {options: {bytes: {type: integer}}, positional: [{name: file}]}\n"
    )
    async with opens() as session:
        result = await session.run("tools.say(what='x' * 1_100_000)")
        assert "1048576" in str(result.error)
        assert (await session.run(f"len(tools.much(bytes=10_000_000, file={str(large)!r}))")).value == 5_000_000
        result = await session.run(f"tools.much(bytes=11_000_000, file={str(large)!r})")
        assert str(result.error).splitlines()[-1].startswith("ToolCallError")
        assert (await session.run("tools.say(what='still there')")).is_ok


async def test_programs_that_code_starts_call_tools_too(opens: Opens) -> None:
    program = "from cellyard_sandbox.codemode import tools; print(tools.say(what='from a program'))"
    code = f"import subprocess, sys\nsubprocess.check_output([sys.executable, '-c', {program!r}], text=True)"
    async with opens() as session:
        result = await session.run(code)
        assert result.is_ok, result.error
        assert json.loads(result.value) == ["from a program"]


async def test_code_sees_neither_the_clients_secrets_nor_its_files(
    controller: Process, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLYARD_TOKEN_OF_TESTS", "very-secret-token")
    (base / "key").write_text("very-secret-token")
    look = f"""
import os, pathlib
seen = dict(os.environ)
for file in pathlib.Path("/proc").glob("[0-9]*/environ"):
    try:
        seen[str(file)] = file.read_text()
    except OSError:
        pass
"very-secret-token" in str(seen), os.path.exists({str(base)!r}), os.path.exists("/var/run/docker.sock")
"""
    async with Session(FileStorage(base), ContainerExecutor(), endpoint=controller.endpoint) as session:
        result = await session.run(look)
        assert result.value == (False, False, False), result.error


async def test_code_of_a_plain_session_has_what_the_controller_keeps(controller: Process) -> None:
    code = """
from cellyard_sandbox.codemode import HostUnavailable, artifacts, deps, tools, workflows
artifacts.save("large", b"x" * 3_000_000, "from code")
artifacts.save("small", {"a": None})
workflows.create("size", "def run(name): return len(artifacts.load(name))", "How large an artifact is")
found = []
for call in (tools.list, deps.list):
    try:
        call()
    except HostUnavailable as unavailable:
        found.append(str(unavailable))
artifacts.load("small"), workflows.size(name="large"), [w.name for w in workflows.search("large artifact")], found
"""
    async with cellyard.AsyncSession(endpoint=controller.endpoint) as session:
        result = await session.run(code)
        assert result.success, result.text
        small, size, found, said = result.value
        assert (small, size, found, len(said)) == ({"a": None}, 3_000_000, ["size"], 2)
        assert (await session.run("'tools' in globals()")).value is True  # imported above
        await session.restart_kernel()
        assert (await session.run("'tools' in globals()")).value is False


async def test_what_the_controller_keeps_serves_code_mode_too(controller: Process) -> None:
    storage = ControllerStorage(endpoint=controller.endpoint)
    async with Session(storage, ContainerExecutor(), endpoint=controller.endpoint) as session:
        made = await session.run("workflows.create('greet', 'def run(name): return f\"hello {name}\"', 'Greets')")
        assert made.is_ok, made.error
        assert (await session.run("workflows.greet(name='you')")).value == "hello you"
        await session.save_artifact("kept", [1, 2], metadata={"k": "v"})
        assert (await session.run("artifacts.load('kept'), artifacts.get('kept').metadata")).value == (
            [1, 2],
            {"k": "v"},
        )
    async with cellyard.AsyncSession(endpoint=controller.endpoint) as plain:
        await plain.run("from cellyard_sandbox.codemode import artifacts, workflows")
        assert (await plain.run("workflows.greet(name='me'), artifacts.load('kept')")).value == ("hello me", [1, 2])
    await asyncio.to_thread(storage.close)
