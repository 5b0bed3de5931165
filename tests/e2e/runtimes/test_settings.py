"""The settings of a sandbox are in force, seen from code that runs inside."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import docker
import pytest
from tests.e2e.runtimes.conftest import SMALL, Bench

from cellyard_controller.runtimes import MIB, SandboxSpec
from cellyard_controller.runtimes.docker import seccomp
from cellyard_controller.runtimes.docker.container import file_size_limit

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


async def of_the_engine(bench: Bench, engine: docker.APIClient) -> tuple[SandboxSpec, dict[str, Any]]:
    """What the engine says of a sandbox that runs, and what that was asked for with."""
    spec = bench.spec()
    return spec, engine.inspect_container(await bench.start("input()", spec))


Row = Callable[[SandboxSpec, dict[str, Any], dict[str, Any]], bool]

ROWS: dict[str, Row] = {
    "network": lambda _, c, h: h["NetworkMode"] == "none" and list(c["NetworkSettings"]["Networks"]) == ["none"],
    "ports": lambda _, c, h: not h["PortBindings"] and not h["PublishAllPorts"] and not c["NetworkSettings"]["Ports"],
    "name servers": lambda _, c, h: (h["Dns"], h["DnsSearch"]) == (["127.0.0.1"], ["."]),
    "user": lambda spec, c, h: c["Config"]["User"] == f"{spec.uid}:{spec.uid}" and not h["GroupAdd"] and spec.uid > 0,
    "Linux capabilities": lambda _, c, h: h["CapDrop"] == ["ALL"] and not h["CapAdd"] and not h["Privileged"],
    "no new privileges": lambda _, c, h: "no-new-privileges:true" in h["SecurityOpt"],
    "seccomp": lambda _, c, h: f"seccomp={seccomp.profile()}" in h["SecurityOpt"],
    "root file system": lambda _, c, h: h["ReadonlyRootfs"] is True,
    "writable": lambda _, c, h: (
        set(h["Tmpfs"]) == {"/home/sandbox", "/tmp", "/dev/shm"}
        and all({"nosuid", "nodev"} <= set(options.split(",")) for options in h["Tmpfs"].values())
        and all("size=" in options and "nr_inodes=" in options for options in h["Tmpfs"].values())
    ),
    "memory and swap": lambda spec, c, h: h["Memory"] == h["MemorySwap"] == spec.template.memory_bytes,
    "killed when out of memory": lambda _, c, h: not h["OomKillDisable"] and h["OomScoreAdj"] >= 0,
    "processors": lambda spec, c, h: h["NanoCpus"] == int(spec.template.cpus * 1e9),
    "processes": lambda spec, c, h: h["PidsLimit"] == spec.template.pids,
    "ulimits": lambda spec, c, h: (
        {each["Name"]: (each["Soft"], each["Hard"]) for each in h["Ulimits"]}
        == {"nofile": (4096, 4096), "core": (0, 0), "fsize": (file_size_limit(spec.template),) * 2}
    ),
    "mounts": lambda spec, c, h: (
        [(each["Source"], each["Destination"], each["RW"]) for each in c["Mounts"]]
        == [(str(spec.link_dir), "/run/cellyard", False)]
        and not h["Binds"]
        and not h["VolumesFrom"]
    ),
    "devices": lambda _, c, h: not h["Devices"] and not h["DeviceRequests"] and not h["DeviceCgroupRules"],
    "ipc, pid, uts": lambda _, c, h: (h["IpcMode"], h["PidMode"], h["UTSMode"]) == ("private", "", ""),
    "user namespace": lambda _, c, h: h["UsernsMode"] == "",
    "control groups": lambda _, c, h: h["CgroupParent"] == "" and h["CgroupnsMode"] in ("private", "host", ""),
    "masked paths": lambda _, c, h: (
        {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"} <= set(h["MaskedPaths"])
        and {"/proc/sys", "/proc/sysrq-trigger", "/proc/bus"} <= set(h["ReadonlyPaths"])
    ),
    "logs": lambda _, c, h: (
        h["LogConfig"] == {"Type": "local", "Config": {"compress": "false", "max-file": "1", "max-size": "1m"}}
    ),
    "environment": lambda _, c, h: (
        {variable.partition("=")[0] for variable in c["Config"]["Env"]}
        <= {"HOME", "USER", "LOGNAME", "PATH", "LANG", "PYTHONDONTWRITEBYTECODE", *OF_A_REGISTRYS_PYTHON}
    ),
    "no health checks, restarts, init": lambda _, c, h: (
        c["Config"].get("Healthcheck") == {"Test": ["NONE"]}
        and h["RestartPolicy"]["Name"] == "no"
        and not h["Init"]
        and not c["ExecIDs"]
    ),
}
"""The rows of the table of settings, as the engine shows them: the container and its host configuration."""
OF_A_REGISTRYS_PYTHON = (
    "PYTHON_VERSION",
    "PYTHON_SHA256",
    "GPG_KEY",
    "PYTHON_PIP_VERSION",
    "PYTHON_SETUPTOOLS_VERSION",
)


def rows_held(spec: SandboxSpec, container: dict[str, Any]) -> set[str]:
    """The rows that hold for a container."""
    given = {name: value for name, value in container["HostConfig"].items() if value is not None}
    host = defaultdict(list, given)  # the engine leaves out, or says null of, what nobody asked for
    return {name for name, holds in ROWS.items() if holds(spec, container, host)}


async def test_the_engine_shows_every_setting(bench: Bench, engine: docker.APIClient) -> None:
    spec, container = await of_the_engine(bench, engine)
    assert rows_held(spec, container) == set(ROWS), container["HostConfig"]


async def test_a_careless_container_has_none_of_them(engine: docker.APIClient, bench: Bench, image: str) -> None:
    made = engine.create_container(image, ["true"])["Id"]  # type: ignore[no-untyped-call]
    try:
        container = engine.inspect_container(made)
        held = rows_held(bench.spec(), container)
    finally:
        engine.remove_container(made)
    # What engines do by themselves, and what this image asks for.
    assert held <= {
        "ports",
        "devices",
        "ipc, pid, uts",
        "user namespace",
        "control groups",
        "masked paths",
        "environment",
        "killed when out of memory",
    }


INSIDE = """
import json, os, resource
def text(path):
    try:
        return open(path).read()
    except OSError as error:
        return type(error).__name__
status = dict(line.split(":", 1) for line in text("/proc/self/status").splitlines())
mounts = {}
for line in text("/proc/self/mountinfo").splitlines():
    left, _, right = line.partition(" - ")
    mounts[left.split()[4]] = [right.split()[0], left.split()[5], right.split()[2]]
def inodes(folder):
    try:
        for number in range(100_000):
            open(f"{folder}/f{number}", "x").close()
    except OSError as error:
        return error.errno
print(json.dumps({
    "status": {name: status[name].strip() for name in status if name.startswith(("Cap", "No", "Sec", "Uid", "G"))},
    "mounts": {point: mounts[point] for point in ("/", "/home/sandbox", "/tmp", "/dev/shm", "/run/cellyard")},
    "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
    "fsize": resource.getrlimit(resource.RLIMIT_FSIZE)[1],
    "masked": [text("/proc/keys"), text("/proc/timer_list"), os.listdir("/sys/firmware"), os.listdir("/proc/acpi")],
    "inodes": {folder: inodes(folder) for folder in ("/home/sandbox", "/tmp", "/dev/shm")},
    "capable": [os.access(path, os.W_OK) for path in ("/proc/sys/kernel/hostname", "/proc/sysrq-trigger")],
    "sockets": [name for name in ("/run/docker.sock", "/var/run/docker.sock") if os.path.exists(name)],
}))
"""


async def test_every_setting_is_in_force_inside(bench: Bench) -> None:
    spec = bench.spec()
    said, instance = await bench.run(INSIDE, spec)
    assert instance.exit_code == 0, said
    seen = json.loads(said)
    status = seen["status"]
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split() == status["Gid"].split() == [str(spec.uid)] * 4
    assert status["Groups"].split() in ([], [str(spec.uid)])
    for folder in ("/home/sandbox", "/tmp", "/dev/shm"):
        system, options, limits = seen["mounts"][folder]
        assert system == "tmpfs"
        assert {"nosuid", "nodev"} <= set(options.split(","))
        assert ("noexec" in options.split(",")) == (folder != "/home/sandbox")
        assert "nr_inodes=" in limits
        assert seen["inodes"][folder] == ENOSPC
    assert "ro" in seen["mounts"]["/"][1].split(",")
    assert "ro" in seen["mounts"]["/run/cellyard"][1].split(",")
    for name in ("ipc", "mnt", "net", "pid", "uts"):
        assert seen["namespaces"][name] != os.readlink(f"/proc/self/ns/{name}")
    assert seen["fsize"] == file_size_limit(spec.template)
    assert seen["masked"] == ["", "", [], []]
    assert seen["capable"] == [False, False]
    assert seen["sockets"] == []


async def test_two_sandboxes_are_two_users(bench: Bench, engine: docker.APIClient) -> None:
    users = [(await of_the_engine(bench, engine))[1]["Config"]["User"] for _ in range(2)]
    assert len(set(users)) == 2
    assert not any(user.startswith("0") for user in users)


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
