"""The agent as PID 1 of a real sandbox, with a controller of the tests' own at the other end of its link."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from cellyard_controller.runtimes import MIB, Instance, SandboxSpec, Template
from cellyard_controller.runtimes.docker import DockerRuntime
from cellyard_proto.v1 import link_pb2, outputs_pb2
from tests.integration.agent.controller import Controller, Record

pytestmark = pytest.mark.docker

TEMPLATE = Template("agent-tests", "", memory_bytes=256 * MIB, pids=64, home_bytes=32 * MIB, tmp_bytes=32 * MIB)
UID = 41_234


@dataclass
class Sandbox:
    """A running sandbox, seen from both sides."""

    controller: Controller
    runtime: DockerRuntime
    instance_id: str

    async def ended(self, timeout_s: float = 30) -> Instance:
        async with asyncio.timeout(timeout_s):
            while True:
                instance = await self.runtime.inspect(self.instance_id)
                assert instance is not None
                if not instance.running:
                    return instance
                await asyncio.sleep(0.05)  # the runtime's own watch is tested elsewhere


@pytest.fixture
async def sandbox(built_image: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    """A hardened container whose agent has said Hello."""
    folder = tmp_path_factory.mktemp("a")
    link_dir = folder / "link"
    link_dir.mkdir(mode=0o711)
    controller = Controller(link_dir)
    await controller.listen()
    controller.path.chmod(0o666)
    controller_id = f"test-{uuid.uuid4().hex}"
    runtime = DockerRuntime(controller_id, folder / "scratch", lambda _: built_image)
    spec = SandboxSpec(f"sb-{uuid.uuid4().hex[:8]}", controller_id, TEMPLATE, link_dir, UID)
    instance_id = await runtime.start(spec)
    try:
        await controller.until(lambda: controller.connected)
        yield Sandbox(controller, runtime, instance_id)
    finally:
        await controller.close()
        await runtime.stop(instance_id)
        await runtime.close()


async def test_the_facts_are_those_of_a_hardened_container(sandbox: Sandbox) -> None:
    facts = sandbox.controller.hellos[0].facts
    assert facts.uid == UID
    assert int(facts.cap_eff, 16) == 0
    assert facts.no_new_privs == 1
    assert facts.seccomp == 2
    assert facts.root_read_only
    assert list(facts.interfaces) == ["lo"]
    assert facts.routes == 0


async def test_cells_run_with_a_home_and_a_user(sandbox: Sandbox) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    assert await controller.put_file("data.txt", b"content") == ""
    source = """
import getpass, os, pathlib
[os.getcwd(), getpass.getuser(), str(pathlib.Path.home()), open('data.txt').read(), os.getuid()]
"""
    run = await controller.run("a", source)
    assert json.loads(value_of(run)) == ["/home/sandbox", "sandbox", "/home/sandbox", "content", UID]
    plot = await controller.run("b", "import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert plot.outcome == "ok"
    assert "image/png" in plot.outputs[-1]["data"]
    assert plot.text("stderr") == ""
    frame = await controller.run("c", "import pandas as pd\npd.DataFrame({'a': [1]})")
    assert "<table" in frame.outputs[-1]["data"]["text/html"]


async def test_cells_call_their_client_ask_for_input_and_show_widgets(sandbox: Sandbox) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    source = """
import os, subprocess, sys
from cellyard_sandbox import host
program = 'from cellyard_sandbox import host; print(host.add(3, 4), end="")'
[host.add(1, 2), subprocess.check_output([sys.executable, '-c', program], text=True), input('? '),
 os.stat(os.environ['CELLYARD_HOST_SOCKET']).st_uid]
"""
    run = controller.dispatch("a", source, allow_stdin=True)
    for number in (1, 2):
        call = await controller.call(run, number)
        assert call.name == "add"
        controller.answer(call.call_id, value_json=str(sum(json.loads(call.args_json))))
    controller.answer((await controller.question(run)).call_id, text="a line")
    await controller.until(lambda: run.ended is not None)
    assert json.loads(value_of(run)) == [3, "7", "a line", UID]

    shown = await controller.run("b", "import ipywidgets as w\nslider = w.IntSlider(3)\ndisplay(slider)")
    view = shown.outputs[-1]["data"]["application/vnd.jupyter.widget-view+json"]
    states = {comm.comm_id: json.loads(comm.open.data_json)["state"] for comm in shown.comms}
    assert states[view["model_id"]]["value"] == 3
    update = outputs_pb2.CommMessage(data_json='{"method":"update","state":{"value":7},"buffer_paths":[]}')
    controller.send(comm=outputs_pb2.Comm(comm_id=view["model_id"], message=update))
    assert value_of(await controller.run("c", "slider.value")) == "7"

    await controller.restart()
    again = controller.dispatch("d", "from cellyard_sandbox import host; host.add(5, 6)")
    controller.answer((await controller.call(again)).call_id, value_json="11")
    await controller.until(lambda: again.ended is not None)
    assert value_of(again) == "11"


async def test_a_kernel_that_takes_too_much_memory_is_gone_and_its_agent_is_not(sandbox: Sandbox) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    run = await controller.run("a", "x = bytearray(1)\nwhile True: x += bytes(1) * 10_000_000")
    assert run.outcome == "kernel_gone"
    assert run.end.reason.startswith("oom: process python3, pid ")
    assert run.end.peak_memory_bytes > 100 * MIB
    await controller.restart()
    assert value_of(await controller.run("b", "1 + 1")) == "2"


async def test_a_child_that_takes_too_much_memory_is_not_the_kernels_death(sandbox: Sandbox) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    source = """
import subprocess, sys
subprocess.run([sys.executable, '-c', 'x = bytearray(1)\\nwhile True: x += bytes(1) * 10_000_000']).returncode
"""
    assert value_of(await controller.run("a", source)) == "-9"
    run = await controller.run("b", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert run.end.reason == "signal 9"


async def test_a_restart_clears_the_sandbox_but_not_the_home(sandbox: Sandbox) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    source = """
import os, subprocess
for folder in ('/tmp/deep/er', '/dev/shm/deep'): os.makedirs(folder)
for path in ('/tmp/a', '/dev/shm/b', 'kept'): open(path, 'w').write('x')
subprocess.Popen(['sleep', '1000'], start_new_session=True)
None
"""
    await controller.run("a", source)
    await controller.restart()
    source = """
import os
folders = [sorted(name for name in os.listdir(f) if not name.startswith('cellyard-')) for f in ('/tmp', '/dev/shm')]
processes = [open(f'/proc/{pid}/comm').read().strip() for pid in os.listdir('/proc') if pid.isdigit()]
[*folders, os.path.exists('kept'), len(processes)]
"""
    assert json.loads(value_of(await controller.run("b", source))) == [[], [], True, 2]


@pytest.mark.parametrize(
    "source",
    [
        "import os, signal\nos.killpg(0, signal.SIGKILL)",
        "import os, signal\nos.kill(1, signal.SIGKILL); os.kill(1, signal.SIGSTOP); os._exit(1)",
        "import os\nfor fd in range(3, 1000):\n    try: os.close(fd)\n    except OSError: pass\nos._exit(1)",
    ],
)
async def test_a_cell_that_kills_what_it_can_does_not_end_the_agent(sandbox: Sandbox, source: str) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    run = await controller.run("a", source)
    assert run.outcome == "kernel_gone"
    await controller.until(lambda: controller.kernel.state == link_pb2.HOST_STATE_DEAD)
    await controller.restart()
    assert value_of(await controller.run("b", "1 + 1")) == "2"


async def test_a_cell_cannot_reach_into_the_agent(sandbox: Sandbox) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    source = """
import os
def refused(path):
    try: return not os.listdir(path)
    except PermissionError: return True
def unreadable(path):
    try: open(path, 'rb').read(1)
    except PermissionError: return True
[refused('/proc/1/fd'), unreadable('/proc/1/mem'), unreadable('/proc/1/environ'), refused(f'/proc/{os.getpid()}/fd')]
"""
    assert json.loads(value_of(await controller.run("a", source))) == [True, True, True, False]


async def test_a_restart_gets_rid_of_a_fork_bomb(sandbox: Sandbox) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    source = """
import os, time
for _ in range(1000):
    try:
        if os.fork() == 0:
            while True:
                try: os.fork()
                except OSError: time.sleep(0.001)
    except OSError: break
while True: time.sleep(1)
"""
    run = controller.dispatch("a", source)
    await controller.until(lambda: run.started)
    controller.send(ping=link_pb2.Ping(id=1))
    await controller.until(lambda: controller.pongs == [1], timeout_s=10)
    await controller.restart()
    assert run.end.reason == "kernel_restarted"
    assert value_of(await controller.run("b", "1 + 1")) == "2"


async def test_the_whole_sandbox_stops_while_too_much_is_unacknowledged(sandbox: Sandbox) -> None:
    controller = sandbox.controller
    controller.welcome.output_bytes = 64 * MIB
    controller.drop()
    await controller.until(lambda: len(controller.hellos) == 2)
    await controller.start_kernel()
    controller.acknowledges = False
    run = controller.dispatch("a", "for n in range(40): print(str(n % 10) * 999_999)")
    await controller.until(lambda: len(run.text()) > 7 * MIB)
    with pytest.raises(TimeoutError):
        await controller.until(lambda: run.ended is not None, timeout_s=2)
    controller.acknowledges = True
    controller.acknowledge()
    await controller.until(lambda: run.ended is not None)
    assert len(run.text()) == 40_000_000


async def test_an_idle_sandbox_is_small(sandbox: Sandbox) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    source = """
import os
total = 0
for pid in os.listdir('/proc'):
    if pid.isdigit():
        for line in open(f'/proc/{pid}/status'):
            if line.startswith('RssAnon:'): total += int(line.split()[1])
total
"""
    anonymous = int(value_of(await controller.run("a", source))) * 1024
    assert anonymous < 60 * MIB


async def test_usage_is_that_of_each_cell(sandbox: Sandbox) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    large = await controller.run("a", "x = bytes(1) * 100_000_000; del x")
    small = await controller.run("b", "1")
    assert large.end.peak_memory_bytes > 100_000_000 > small.end.peak_memory_bytes > 10_000_000
    assert 0 < small.end.cpu_s < 0.1


@pytest.mark.parametrize("how", ["goodbye", "grace"])
async def test_the_sandbox_ends_with_its_agent(sandbox: Sandbox, how: str) -> None:
    controller = sandbox.controller
    await controller.start_kernel()
    if how == "goodbye":
        controller.send(goodbye=link_pb2.Goodbye(reason="shutdown"))
    else:
        controller.welcome.link_grace_s = 1.0
        controller.drop()
        await controller.until(lambda: len(controller.hellos) == 2)
        await controller.close()
    assert (await sandbox.ended()).exit_code == 0


def value_of(run: Record) -> str:
    assert run.value is not None
    return run.value.json
