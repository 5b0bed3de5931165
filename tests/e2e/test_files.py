"""Files in and out of a container, and commands in it, while its cells do what they can against that."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

import cellyard
from tests.controller_process import Process
from tests.integration.sdk.flavours import session

pytestmark = pytest.mark.docker

MIB = 1024 * 1024
FLAVOURS = pytest.mark.parametrize("flavour", ["sync", "async"])
FACTS = "id -u; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status"
SLEEPING = """
import os
found = [pid for pid in os.listdir('/proc') if pid.isdigit()]
[pid for pid in found if b'777' in open(f'/proc/{pid}/cmdline', 'rb').read()]
"""
GROWING = """
import time
with open('log', 'ab', buffering=0) as file:
    for _ in range(200):
        file.write(b'x' * 200_000)
        time.sleep(0.01)
"""
BAD = ["..", "../x", "a/../../x", "/etc/passwd", "", ".", "a\0b", "x" * 256, "n" * 10_240, "\udc80", b"bytes"]


@FLAVOURS
async def test_files_go_in_and_out(shared_controller: Process, flavour: str, tmp_path: Path) -> None:
    async with session(flavour, endpoint=shared_controller.endpoint) as box:
        here = tmp_path / "data.bin"
        here.write_bytes(os.urandom(3 * MIB + 1))
        await box.upload(here, "in/deep/data.bin")  # starts a kernel by itself
        await box.upload(b"", "empty")
        length = await box.run("len(open('in/deep/data.bin', 'rb').read())")
        assert length.value == 3 * MIB + 1
        await box.run("open('made', 'w').write('by the cell')")
        assert await box.download("made") == b"by the cell"
        assert await box.download("empty") == b""
        await box.download("in/deep/data.bin", tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == here.read_bytes()
        listed = {file.name: (file.kind, file.size) for file in await box.list_files()}
        assert listed["made"] == ("file", 11)
        assert listed["in"] == ("folder", 0)
        (deep,) = await box.list_files("in/deep")
        assert (deep.path, deep.size) == ("in/deep/data.bin", 3 * MIB + 1)
        await box.remove_file("made")
        with pytest.raises(cellyard.InvalidRequest, match="not found") as gone:
            await box.download("made", tmp_path / "never")
        assert gone.value.details["cause"] == "not_found"
        assert sorted(os.listdir(tmp_path)) == ["back.bin", "data.bin"]


@FLAVOURS
async def test_without_a_kernel_there_are_no_files(shared_controller: Process, flavour: str) -> None:
    async with session(flavour, endpoint=shared_controller.endpoint) as box:
        for call in (box.download("a"), box.list_files(), box.remove_file("a")):
            with pytest.raises(cellyard.NoKernel):
                await call


@FLAVOURS
async def test_commands_run_beside_the_kernel(shared_controller: Process, flavour: str) -> None:
    async with session(flavour, endpoint=shared_controller.endpoint, env={"GREETING": "hello"}) as box:
        done = await box.exec(["sh", "-c", "pwd; echo $GREETING; cat; echo no >&2; exit 3"], stdin="typed\n")
        assert done.stdout == b"/home/sandbox\nhello\ntyped\n"
        assert (done.stderr, done.exit_code, done.success) == (b"no\n", 3, False)
        written: list[bytes] = []
        pieces = [b"1", b"2", b"3" * MIB]
        done = await box.exec(["cat"], stdin=pieces, on_output=lambda output: written.append(output.data))
        assert done.success
        assert b"".join(written) == done.stdout == b"".join(pieces)
        told = [event async for event in box.stream_exec(["echo", "$HOME; ls"])]  # no shell reads this
        assert [type(event).__name__ for event in told] == ["ProcessStarted", "ProcessOutput", "ProcessEnded"]
        assert told[1].text == "$HOME; ls\n"
        with pytest.raises(cellyard.ExecutionTimeout, match=r"timed out after 0\.5 s") as late:
            await box.exec(["sh", "-c", "echo before; sleep 600"], timeout=0.5)
        assert late.value.details["result"].stdout == b"before\n"
        with pytest.raises(cellyard.InvalidRequest, match="not found"):
            await box.exec(["nonesuch"])
        for bad in ("ls -l", [], [""], ["a\0b"], [1], ["x" * 2 * MIB]):
            with pytest.raises(cellyard.InvalidRequest):
                await box.exec(bad)


async def test_a_command_runs_while_a_cell_runs_with_its_user_and_nothing_more(shared_controller: Process) -> None:
    async with cellyard.AsyncSession(endpoint=shared_controller.endpoint) as box:
        await box.run("import os, time")
        cell = asyncio.create_task(box.run("open('here', 'w').close()\nwhile os.path.exists('here'): time.sleep(0.01)"))
        facts = await box.exec(["sh", "-c", f"until [ -e here ]; do sleep 0.01; done; {FACTS}"])
        await box.remove_file("here")
        assert (await cell).success
        uid, *status = facts.text.split("\n")
        assert int(uid) >= 100_000
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status


async def test_commands_end_with_the_stream_the_kernel_and_the_sandbox(shared_controller: Process) -> None:
    async with cellyard.AsyncSession(endpoint=shared_controller.endpoint) as box:
        stream = box.stream_exec(["sleep", "777"])
        assert isinstance(await anext(stream), cellyard.ProcessStarted)
        assert len((await box.run(SLEEPING)).value) == 1
        await stream.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(20):
            while (await box.run(SLEEPING)).value:
                pass
        running = asyncio.create_task(box.exec(["sh", "-c", "echo up; sleep 777"], timeout=None))
        async with asyncio.timeout(20):
            while not (await box.run(SLEEPING)).value:
                pass
        await box.restart_kernel()
        assert (await running).signal == 9
        running = asyncio.create_task(box.exec(["sleep", "777"], timeout=None))
        async with asyncio.timeout(20):
            while not (await box.run(SLEEPING)).value:
                pass
        await box.shutdown_kernel()
        with pytest.raises(cellyard.KernelDied, match="ended"):
            await running


@pytest.mark.parametrize("path", BAD, ids=range(len(BAD)))
def test_names_that_climb_or_cannot_be_are_refused(shared_controller: Process, path: Any) -> None:
    box = cellyard.Session("names", endpoint=shared_controller.endpoint)
    box.upload(b"x", "there")
    for call in (lambda: box.upload(b"x", path), lambda: box.download(path), lambda: box.remove_file(path)):
        with pytest.raises(cellyard.InvalidRequest):
            call()
    assert [file.name for file in box.list_files() if file.name != ".cache"] == ["there"]


def test_a_hundred_mebibytes_pass_and_a_byte_more_does_not(shared_controller: Process) -> None:
    content = os.urandom(100 * MIB)
    with cellyard.Session(endpoint=shared_controller.endpoint) as box:
        box.upload(content, "big")
        digest = "import hashlib\nhashlib.sha256(open('big', 'rb').read()).hexdigest()"
        assert box.run(digest).value == hashlib.sha256(content).hexdigest()
        assert box.download("big") == content
        with pytest.raises(cellyard.InvalidRequest, match="at most 104857600"):
            box.upload(content + b"x", "bigger")
        box.run("open('big', 'ab').write(b'x')")
        with pytest.raises(cellyard.InvalidRequest, match="at most 104857600"):
            box.download("big")


def test_a_full_home_says_what_its_limit_is_and_keeps_no_half_file(shared_controller: Process) -> None:
    with cellyard.Session(endpoint=shared_controller.endpoint) as box:
        box.run("open('fill', 'wb').write(b'x' * 480 * 2**20); None")
        with pytest.raises(cellyard.QuotaExceeded, match=r"512\.0 MiB"):
            box.upload(b"x" * 60 * MIB, "too much")
        assert sorted(file.name for file in box.list_files() if file.name != ".cache") == ["fill"]


def test_links_and_special_files_planted_by_a_cell_lead_nowhere(shared_controller: Process) -> None:
    with cellyard.Session(endpoint=shared_controller.endpoint) as box:
        planted = box.run(
            "import os, socket\n"
            "os.symlink('/etc/passwd', 'passwd'); os.symlink('/etc', 'etc'); os.symlink('/run/cellyard', 'link')\n"
            "os.symlink('/proc/1', 'init'); os.symlink('/proc/self/root', 'root'); os.mkfifo('pipe')\n"
            "socket.socket(socket.AF_UNIX).bind('socket'); os.symlink('/tmp', 'tmp')\n"
            "sorted(os.listdir())"
        )
        assert planted.success
        assert box.run("open('passwd').read()").success  # what a cell may do, the agent does not do for a client
        for path in ("passwd", "etc/passwd", "init/environ", "init/mem", "root/etc/passwd", "pipe", "socket", "tmp/x"):
            with pytest.raises(cellyard.InvalidRequest):
                box.download(path)
            with pytest.raises(cellyard.InvalidRequest):
                box.upload(b"x", path)
        with pytest.raises(cellyard.InvalidRequest):
            box.list_files("etc")
        kinds = {file.name: file.kind for file in box.list_files()}
        assert (kinds["passwd"], kinds["pipe"], kinds["socket"]) == ("link", "other", "other")
        assert box.run("os.listdir('/tmp')").value == [
            name for name in box.run("os.listdir('/tmp')").value if name != "x"
        ]


async def test_a_cell_that_swaps_folders_for_links_while_files_pass_gets_nothing_out(
    shared_controller: Process,
) -> None:
    async with cellyard.AsyncSession(endpoint=shared_controller.endpoint) as box:
        await box.upload(b"mine", "a/hostname")
        swapping = asyncio.create_task(
            box.run(
                "import os\n"
                "while not os.path.exists('over'):\n"
                "    os.rename('a', 'real'); os.symlink('/etc', 'a'); os.unlink('a'); os.rename('real', 'a')",
                timeout_secs=60,
            )
        )
        outcomes = {"mine": 0, "refused": 0}
        for _ in range(300):
            try:
                assert await box.download("a/hostname") == b"mine"
                await box.upload(b"mine", "a/hostname")
                outcomes["mine"] += 1
            except cellyard.InvalidRequest:
                outcomes["refused"] += 1
        await box.upload(b"", "over")
        swapped = await swapping
        # An upload may have made a folder `a` in the moment when there was none; then the swapping failed on it.
        assert swapped.success or swapped.error.ename in ("FileExistsError", "OSError", "IsADirectoryError")
        assert outcomes["refused"] > 0 or not swapped.success


def test_a_file_that_grows_for_ever_ends(shared_controller: Process) -> None:
    with cellyard.Session(endpoint=shared_controller.endpoint) as box:
        cell = box.create_cell(GROWING)
        execution = box.queue_cell(cell)
        sizes = []
        while len(sizes) < 5:
            try:
                sizes.append(len(box.download("log")))
            except (cellyard.InvalidRequest, cellyard.NoKernel):
                pass  # not yet there
        assert sizes == sorted(sizes)
        assert box.wait(execution, timeout=60).success
