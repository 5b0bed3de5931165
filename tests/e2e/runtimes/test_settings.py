"""The settings of a sandbox are in force, seen from code that runs inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import docker
import pytest
from tests.e2e.runtimes.conftest import SMALL, Bench

from cellyard_controller.runtimes import MIB

pytestmark = pytest.mark.docker

LOOK = """
import json, os, platform, resource, shutil, sys
def attempt(f):
    try:
        return f() or "done"
    except OSError as error:
        return type(error).__name__ + " " + str(error.errno)
def program(folder):
    path = os.path.join(folder, "program")
    with open(path, "w") as file:
        file.write("#!/bin/sh\\nexit 0\\n")
    os.chmod(path, 0o755)
    return os.spawnv(os.P_WAIT, path, [path])
def fill(folder, size):
    with open(os.path.join(folder, "big"), "wb") as file:
        for _ in range(size // 65536):
            file.write(b"x" * 65536)
def sparse(folder, size):
    with open(os.path.join(folder, "sparse"), "wb") as file:
        file.truncate(size)
def inodes(folder):
    for number in range(1_000_000):
        open(os.path.join(folder, f"f{number}"), "x").close()
size = lambda path: os.statvfs(path).f_frsize * os.statvfs(path).f_blocks
print(json.dumps({
    "ids": os.getresuid() + os.getresgid(),
    "env": {name: os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")},
    "cwd": os.getcwd(),
    "host": platform.node(),
    "home_mode": os.stat("/home/sandbox").st_mode & 0o777,
    "runs": [program("/home/sandbox"), program("/tmp"), program("/dev/shm")],
    "sizes": [size("/home/sandbox"), size("/tmp"), size("/dev/shm")],
    "root": attempt(lambda: os.mkdir("/new")),
    "link": [attempt(lambda: open("/run/cellyard/new", "x")), open("/run/cellyard/hello").read()],
    "fill": attempt(lambda: fill("/tmp", 64 << 20)),
    "sparse": attempt(lambda: sparse("/home/sandbox", 1 << 40)),
    "inodes": attempt(lambda: inodes("/home/sandbox")),
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "interfaces": os.listdir("/sys/class/net"),
    "kill_init": attempt(lambda: os.kill(1, 0)),
    "mount": attempt(lambda: os.spawnvp(os.P_WAIT, "mount", ["mount", "-t", "tmpfs", "none", "/mnt"])),
    "chown": attempt(lambda: os.chown("/home/sandbox", 0, 0)),
    "setuid": attempt(lambda: os.setuid(0)),
    "mknod": attempt(lambda: os.mknod("/home/sandbox/disk", 0o60600, os.makedev(254, 0))),
    "dmesg": attempt(lambda: open("/dev/kmsg").read(1)),
}))
"""

EPERM, EACCES, EFBIG, ENOSPC, EROFS = 1, 13, 27, 28, 30


@pytest.fixture
async def seen(bench: Bench) -> dict[str, Any]:
    spec = bench.spec()
    spec.link_dir.joinpath("hello").write_text("hello from outside")
    said, instance = await bench.run(LOOK, spec)
    assert instance.exit_code == 0, said
    facts: dict[str, Any] = json.loads(said)
    assert facts["ids"] == [spec.uid] * 6
    return facts


async def test_what_a_sandbox_is_given_and_what_it_is_refused(seen: dict[str, Any]) -> None:
    assert seen["env"] == {"HOME": "/home/sandbox", "USER": "sandbox", "LOGNAME": "sandbox"}
    assert (seen["cwd"], seen["host"], seen["home_mode"]) == ("/home/sandbox", "sandbox", 0o700)
    assert seen["interfaces"] == ["lo"]
    refused = {name: seen[name] for name in ("root", "chown", "setuid", "mknod")}
    assert refused == {
        "root": f"OSError {EROFS}",
        "chown": f"PermissionError {EPERM}",
        "setuid": f"PermissionError {EPERM}",
        "mknod": f"PermissionError {EPERM}",
    }
    assert seen["mount"] != "done"
    assert seen["dmesg"] != "done"
    assert seen["link"] == [f"OSError {EROFS}", "hello from outside"]


async def test_programs_run_from_the_home_alone(seen: dict[str, Any]) -> None:
    home, tmp, shm = seen["runs"]
    assert home == 0
    assert tmp != 0
    assert shm != 0


async def test_writable_places_are_as_large_as_the_template_says(seen: dict[str, Any]) -> None:
    assert seen["sizes"] == [SMALL.home_bytes, SMALL.tmp_bytes, SMALL.shm_bytes]
    assert seen["fill"] == f"OSError {ENOSPC}"
    assert seen["sparse"] == f"OSError {EFBIG}"
    assert seen["inodes"] == f"OSError {ENOSPC}"
    assert seen["nofile"] == [4096, 4096]
    assert seen["core"] == [0, 0]


async def test_more_memory_than_allowed_ends_the_sandbox_as_oom(bench: Bench) -> None:
    said, instance = await bench.run("print('before', flush=True); b = b'x' * (1 << 30); print('after')")
    assert said == "before\n"
    assert (instance.running, instance.exit_code, instance.oom_killed) == (False, 137, True)


async def test_files_in_memory_count_as_memory(bench: Bench) -> None:
    spec = bench.spec(SMALL.__class__("wide", "", memory_bytes=64 * MIB, home_bytes=512 * MIB))
    code = "f = open('/home/sandbox/big', 'wb')\nfor _ in range(256): f.write(b'x' * (1 << 20))\nprint('after')"
    said, instance = await bench.run(code, spec)
    assert "after" not in said
    assert instance.oom_killed


async def test_a_fork_bomb_stops_at_the_limit_and_can_be_ended(bench: Bench) -> None:
    code = """
import os, time
count = 0
try:
    while count < 1000:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except BlockingIOError:
    print(count, flush=True)
"""
    said, _ = await bench.run(code)
    assert 0 < int(said) < SMALL.pids


async def test_what_it_prints_is_kept_within_bounds(bench: Bench) -> None:
    said, instance = await bench.run("for n in range(300_000): print('line', n)")
    assert instance.exit_code == 0
    assert said.endswith("line 299999\n")
    assert len(said) <= 4096


async def test_the_engine_shows_labels_and_nothing_secret(bench: Bench, engine: docker.APIClient) -> None:
    spec = bench.spec()
    instance_id = await bench.start("input()", spec)
    config = engine.inspect_container(instance_id)
    image = engine.inspect_image(config["Image"])  # type: ignore[no-untyped-call]
    of_the_image = image["Config"]["Labels"] or {}
    labels = config["Config"]["Labels"]
    assert {name: value for name, value in labels.items() if name not in of_the_image} == {
        "cellyard.controller": bench.controller_id,
        "cellyard.sandbox": spec.sandbox_id,
        "cellyard.template": "small",
    }
    assert [mount["Destination"] for mount in config["Mounts"]] == ["/run/cellyard"]
    assert config["HostConfig"]["LogConfig"] == {
        "Type": "local",
        "Config": {"compress": "false", "max-file": "1", "max-size": "1m"},
    }


async def test_matplotlib_and_compiled_packages_work_under_these_settings(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    code = """
import ctypes, multiprocessing, tempfile
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot, numpy, pandas, scipy.linalg
matplotlib.pyplot.plot([1, 2]); matplotlib.pyplot.savefig(tempfile.mktemp(suffix=".png"))
callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: n + 1)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(callback(1), scipy.linalg.det(numpy.eye(3)), sum(pool.map(abs, [-1, 2])), len(pandas.DataFrame({"a": [1]})))
"""
    said, instance = await bench.run(code, bench.spec(SMALL.__class__("default", "")))
    assert said.splitlines()[-1] == "2 1.0 3 1"
    assert instance.exit_code == 0
