"""The process runtime: an agent of its own home and environment, and nothing that outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.runtimes.links import LinkServer

from cellyard_controller.runtimes import SandboxSpec, Template, process
from cellyard_controller.runtimes.keeper import living_parent
from cellyard_controller.runtimes.process import ProcessRuntime

TEMPLATE = Template("default", "")

STUBBORN = """
import json, os, resource, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(json.dumps({
            "pids": [os.getpid(), os.getppid()], "home": os.listdir("."), "env": dict(os.environ),
            "core": resource.getrlimit(resource.RLIMIT_CORE), "cwd": os.getcwd(),
        }), flush=True)
while True:
    signal.pause()
"""
"""Leaves two processes behind that left its session, and none of the three ends when told."""


@pytest.fixture
async def runtime(folder: Path) -> AsyncIterator[ProcessRuntime]:
    made = ProcessRuntime(folder / "sandboxes")
    yield made
    await made.close()


@pytest.fixture
def link_dir(folder: Path) -> Path:
    made = folder / "link"
    made.mkdir()
    return made


def spec(link_dir: Path) -> SandboxSpec:
    return SandboxSpec("sb-1", "controller-1", TEMPLATE, link_dir, os.getuid())


def runs_instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Lets sandboxes run this code in the agent's place."""
    monkeypatch.setattr(process, "_agent_command", lambda *_: [sys.executable, "-c", code])


async def said(runtime: ProcessRuntime, instance_id: str) -> str:
    """What it wrote, once that is a line."""
    text = ""
    async with asyncio.timeout(60):
        while not text.endswith("\n"):
            await asyncio.sleep(0.01)
            text = await runtime.log_tail(instance_id)
    return text


def lives(pid: int) -> bool:
    return living_parent(str(pid)) is not None


async def test_the_agent_dials_from_a_home_of_its_own(runtime: ProcessRuntime, link_dir: Path) -> None:
    async with LinkServer().listening(link_dir) as server:
        instance_id = await runtime.start(spec(link_dir))
        hello = await server.connected()
        assert hello.protocol == 1
        await runtime.stop(instance_id)
    assert await runtime.inspect(instance_id) is None


async def test_code_runs_and_ends_with_its_sandbox(runtime: ProcessRuntime, link_dir: Path) -> None:
    async with LinkServer().listening(link_dir) as server:
        instance_id = await runtime.start(spec(link_dir))
        await server.ready()
        server.dispatch("e1", "import os; print(os.getpid(), os.environ['HOME'])")
        await server.end("e1")
        pid, home = server.text("e1").split()
        assert home.startswith(str(link_dir.parent / "sandboxes"))
        assert lives(int(pid))
        await runtime.stop(instance_id)
    assert not lives(int(pid))
    assert list(link_dir.parent.joinpath("sandboxes").iterdir()) == []


async def test_its_environment_is_clean_and_its_home_empty(
    runtime: ProcessRuntime, link_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    runs_instead(monkeypatch, STUBBORN)
    instance_id = await runtime.start(spec(link_dir))
    facts = json.loads(await said(runtime, instance_id))
    assert set(facts["env"]) <= {"PATH", "LANG", "LC_CTYPE", "HOME", "TMPDIR", "USER", "LOGNAME"}
    assert facts["home"] == []
    assert facts["cwd"] == facts["env"]["HOME"]
    assert os.stat(facts["cwd"]).st_mode & 0o777 == 0o700
    assert facts["core"] == [0, 0]


async def test_a_stop_ends_what_ignores_it_and_what_left_the_session(
    runtime: ProcessRuntime, link_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "END_GRACE", 0.1)
    runs_instead(monkeypatch, STUBBORN)
    instance_id = await runtime.start(spec(link_dir))
    facts = json.loads(await said(runtime, instance_id))
    await runtime.stop(instance_id)
    assert [pid for pid in facts["pids"] if lives(pid)] == []
    assert list(link_dir.parent.joinpath("sandboxes").iterdir()) == []
    await runtime.stop(instance_id)


async def test_an_end_is_told_with_its_code_and_last_words(
    runtime: ProcessRuntime, link_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_instead(monkeypatch, "import sys; print('out of luck', file=sys.stderr); sys.exit(7)")
    exits: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.create_task(runtime.watch(exits.put_nowait))
    instance_id = await runtime.start(spec(link_dir))
    assert await exits.get() == instance_id
    instance = await runtime.inspect(instance_id)
    assert instance is not None
    assert (instance.running, instance.exit_code) == (False, 7)
    assert await said(runtime, instance_id) == "out of luck\n"
    assert await runtime.instances("controller-1") == [instance]
    assert await runtime.instances("controller-2") == []
    watching.cancel()


async def test_a_signal_that_ends_the_agent_shows_in_the_code(
    runtime: ProcessRuntime, link_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_instead(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    exits: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.create_task(runtime.watch(exits.put_nowait))
    await runtime.start(spec(link_dir))
    instance = await runtime.inspect(await exits.get())
    assert instance is not None
    assert instance.exit_code == 137
    watching.cancel()


async def test_a_killed_keeper_takes_its_agent_with_it(
    runtime: ProcessRuntime, link_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_instead(monkeypatch, "import os, signal; print(os.getpid(), flush=True); signal.pause()")
    exits: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.create_task(runtime.watch(exits.put_nowait))
    instance_id = await runtime.start(spec(link_dir))
    agent = int(await said(runtime, instance_id))
    os.kill(int(instance_id), signal.SIGKILL)
    assert await exits.get() == instance_id
    await asyncio.to_thread(pidfd_gone, agent)
    watching.cancel()


def test_nothing_outlives_a_controller_that_is_killed(folder: Path) -> None:
    controller = f"""
import asyncio, sys
from pathlib import Path
from cellyard_controller.runtimes import SandboxSpec, Template, process

async def main():
    process._agent_command = lambda *_: [sys.executable, "-c", {STUBBORN!r}]
    runtime = process.ProcessRuntime(Path({str(folder / "sandboxes")!r}))
    instance_id = await runtime.start(SandboxSpec("sb-1", "c", Template("default", ""), Path("/"), 0))
    while not (text := await runtime.log_tail(instance_id)).endswith("\\n"):
        await asyncio.sleep(0.01)
    print(instance_id, text, end="", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", controller], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        keeper, _, facts = child.stdout.readline().partition(" ")
        child.kill()
    pidfd_gone(int(keeper))
    assert [pid for pid in json.loads(facts)["pids"] if lives(pid)] == []


def pidfd_gone(pid: int) -> None:
    """Returns once the process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 20)[0]
    finally:
        os.close(descriptor)


async def test_what_a_killed_controller_left_is_removed(
    runtime: ProcessRuntime, link_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = folder / "sandboxes" / "old" / "home" / "locked"
    left.mkdir(parents=True)
    (left / "file").write_text("x")
    left.chmod(0)
    runs_instead(monkeypatch, "import signal; signal.pause()")
    await runtime.start(spec(link_dir))
    assert not (folder / "sandboxes" / "old").exists()


async def test_capabilities_are_probed_and_isolation_is_not_claimed(runtime: ProcessRuntime, folder: Path) -> None:
    facts = {fact.name: fact for fact in await runtime.capabilities(TEMPLATE)}
    assert {name for name, fact in facts.items() if fact.granted} == {
        "timeout",
        "process_isolation",
        "reset",
        "deps_install",
    }
    assert "use the docker runtime" in facts["container_isolation"].evidence
    assert await runtime.instances("controller-1") == []
    assert list((folder / "sandboxes").iterdir()) == []
    assert [fact.probed_at for fact in await runtime.capabilities(TEMPLATE)] == [f.probed_at for f in facts.values()]


async def test_it_is_ready_where_the_agent_is_installed(
    runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await runtime.readiness(TEMPLATE)).ready
    monkeypatch.setattr(process, "_NEEDED", ("cellyard_sandbox", "no_such_package"))
    ready = await runtime.readiness(TEMPLATE)
    assert not ready.ready
    assert "no_such_package" in ready.reason
    assert "cellyard[sandbox]" in ready.reason
