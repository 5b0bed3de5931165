"""Every system call that the table refuses is refused inside, and what cells need works."""

from __future__ import annotations

import json
import textwrap
import tomllib
from typing import Any

import docker
import pytest
from tests.e2e.runtimes.conftest import Bench

from cellyard_controller.runtimes import MIB, Template
from cellyard_controller.runtimes.docker import seccomp
from cellyard_controller.runtimes.docker.container import container_settings
from cellyard_controller.runtimes.docker.images import images_folder

pytestmark = pytest.mark.docker

EPERM, ENOSYS = 1, 38
NUMBERS = {  # of x86_64
    "ptrace": 101,
    "syslog": 103,
    "uselib": 134,
    "ustat": 136,
    "sysfs": 139,
    "vhangup": 153,
    "modify_ldt": 154,
    "pivot_root": 155,
    "_sysctl": 156,
    "adjtimex": 159,
    "chroot": 161,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "umount2": 166,
    "swapon": 167,
    "swapoff": 168,
    "reboot": 169,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "create_module": 174,
    "init_module": 175,
    "delete_module": 176,
    "get_kernel_syms": 177,
    "query_module": 178,
    "quotactl": 179,
    "nfsservctl": 180,
    "getpmsg": 181,
    "putpmsg": 182,
    "afs_syscall": 183,
    "tuxcall": 184,
    "security": 185,
    "io_setup": 206,
    "io_destroy": 207,
    "io_getevents": 208,
    "io_submit": 209,
    "io_cancel": 210,
    "lookup_dcookie": 212,
    "epoll_ctl_old": 214,
    "epoll_wait_old": 215,
    "remap_file_pages": 216,
    "clock_settime": 227,
    "vserver": 236,
    "mbind": 237,
    "set_mempolicy": 238,
    "get_mempolicy": 239,
    "kexec_load": 246,
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "migrate_pages": 256,
    "unshare": 272,
    "vmsplice": 278,
    "move_pages": 279,
    "perf_event_open": 298,
    "fanotify_init": 300,
    "fanotify_mark": 301,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "clock_adjtime": 305,
    "setns": 308,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "finit_module": 313,
    "kexec_file_load": 320,
    "bpf": 321,
    "userfaultfd": 323,
    "io_pgetevents": 333,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
    "quotactl_fd": 443,
    "memfd_secret": 447,
    "process_mrelease": 448,
    "set_mempolicy_home_node": 450,
    "statmount": 457,
    "listmount": 458,
}

TRY_ALL = """
import ctypes, json
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(number), *(ctypes.c_long(each) for each in arguments))
    return ctypes.get_errno()
print(json.dumps({name: call(number, *([0] * 6)) for name, number in NUMBERS.items()}))
"""
TRY_ARGUMENTS = """
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    done = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(each) for each in arguments))
    if done == 0 and number == 56:
        os._exit(0)  # the child that should never have been
    return ctypes.get_errno()
def opened(*arguments):
    try:
        socket.socket(*arguments).close()
    except OSError as error:
        return error.errno
    return 0
SIGCHLD = 17
namespaces = {"user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000,
              "uts": 0x4000000, "cgroup": 0x2000000}
print(json.dumps({
    "clone": {name: call(56, flag | SIGCHLD, 0, 0, 0, 0) for name, flag in namespaces.items()},
    "unshare": {name: call(272, flag) for name, flag in namespaces.items()},
    "sockets": {
        "vsock": opened(40, socket.SOCK_STREAM), "packet": opened(17, socket.SOCK_DGRAM),
        "alg": opened(38, socket.SOCK_SEQPACKET), "can": opened(29, socket.SOCK_RAW),
        "bluetooth": opened(31, socket.SOCK_RAW), "tipc": opened(30, socket.SOCK_RDM),
        "raw": opened(2, socket.SOCK_RAW, 1), "raw6": opened(10, socket.SOCK_RAW, 58),
        "ping": opened(2, socket.SOCK_DGRAM, 1), "sctp": opened(2, socket.SOCK_STREAM, 132),
        "mptcp": opened(2, socket.SOCK_STREAM, 262), "netfilter": opened(16, socket.SOCK_RAW, 12),
        "kobject": opened(16, socket.SOCK_RAW, 15),
    },
    "usual": {
        "tcp": opened(2, socket.SOCK_STREAM), "udp": opened(2, socket.SOCK_DGRAM, 17),
        "tcp6": opened(10, socket.SOCK_STREAM, 6), "unix": opened(1, socket.SOCK_STREAM),
        "route": opened(16, socket.SOCK_RAW, 0),
    },
    "personality": {"linux": call(135, 0), "ask": call(135, 0xFFFFFFFF), "no_random": call(135, 0x40000),
                    "read_implies_exec": call(135, 0x400000), "linux32": call(135, 8)},
    "newer": call(600, 0),
}))
"""
USES_32_BIT = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
print("before", flush=True)
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""


def table() -> dict[str, Any]:
    return tomllib.loads((images_folder() / "seccomp" / "table.toml").read_text())


def expected() -> dict[str, int]:
    """Every refused call, with the errno that the table says."""
    answers = {"EPERM": EPERM, "ENOSYS": ENOSYS}
    return {name: answers[each.get("errno", "EPERM")] for each in table()["refused"] for name in each["names"]}


async def test_every_call_that_the_table_refuses_is_refused_inside(bench: Bench) -> None:
    said, instance = await bench.run(f"NUMBERS = {NUMBERS}\n{TRY_ALL}")
    assert instance.exit_code == 0, said
    assert json.loads(said) == expected()


async def test_without_the_profile_many_of_them_are_let_in(bench: Bench, engine: docker.APIClient, image: str) -> None:
    settings = container_settings(bench.spec(), image, seccomp="unconfined", private_cgroups=False)
    settings["Cmd"] = ["python3", "-c", f"NUMBERS = {NUMBERS}\n{TRY_ALL}"]
    made = engine.create_container_from_config(settings)["Id"]  # type: ignore[no-untyped-call]
    engine.start(made)
    engine.wait(made)
    answers = json.loads(engine.logs(made))
    let_in = {name for name, answer in answers.items() if answer not in (EPERM, ENOSYS)}
    assert let_in >= {"add_key", "io_uring_setup", "keyctl", "name_to_handle_at", "process_vm_readv", "ptrace", "setns"}
    assert answers["unshare"] == 0


async def test_arguments_decide_about_namespaces_sockets_and_personalities(bench: Bench) -> None:
    said, instance = await bench.run(TRY_ARGUMENTS)
    assert instance.exit_code == 0, said
    answers = json.loads(said)
    for refused in ("clone", "unshare", "sockets"):
        assert set(answers[refused].values()) == {EPERM}, (refused, answers[refused])
    assert set(answers["usual"].values()) == {0}
    assert answers["personality"] == {
        "linux": 0,
        "ask": 0,
        "no_random": EPERM,
        "read_implies_exec": EPERM,
        "linux32": EPERM,
    }
    assert answers["newer"] == ENOSYS


async def test_calls_of_another_architecture_end_whoever_makes_them(bench: Bench) -> None:
    said, instance = await bench.run(USES_32_BIT)
    assert said.strip() == "before"
    assert instance.exit_code == 128 + 31  # SIGSYS


async def test_every_sandbox_is_given_the_profile(bench: Bench, engine: docker.APIClient) -> None:
    instance_id = await bench.start("input()")
    options = engine.inspect_container(instance_id)["HostConfig"]["SecurityOpt"]
    assert options == ["no-new-privileges:true", f"seccomp={seccomp.profile()}"]


WORKS = {
    "threads": """
        import concurrent.futures, threading
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(lambda n: n * n, range(100))) == 328350
    """,
    "processes by fork, spawn and forkserver": """
        import multiprocessing
        for way in ("fork", "spawn", "forkserver"):
            with multiprocessing.get_context(way).Pool(2) as pool:
                assert pool.map(abs, [-1, 2]) == [1, 2]
    """,
    "shared memory, queues, locks and managers": """
        import multiprocessing, multiprocessing.shared_memory as shared
        fork = multiprocessing.get_context("fork")
        memory = shared.SharedMemory(create=True, size=1 << 20)
        queue, lock, counter = fork.Queue(), fork.Lock(), fork.Value("i", 0)
        def work():
            with lock:
                counter.value += 1
            memory.buf[0] = 7
            queue.put("done")
        children = [fork.Process(target=work) for _ in range(3)]
        [child.start() for child in children]
        assert [queue.get() for _ in children] == ["done"] * 3
        [child.join() for child in children]
        assert (memory.buf[0], counter.value) == (7, 3)
        memory.close(); memory.unlink()
        with fork.Manager() as manager:
            assert manager.dict(a=1)["a"] == 1
    """,
    "subprocesses and pseudo terminals": """
        import os, pty, subprocess
        assert subprocess.run("echo one | cat", shell=True, capture_output=True, text=True).stdout == "one\\n"
        assert subprocess.run(["true"], start_new_session=True, close_fds=False).returncode == 0
        said = []
        pty.spawn(["echo", "two"], lambda fd: said.append(os.read(fd, 99)) or said[-1])
        assert b"two" in b"".join(said)
    """,
    "asyncio with subprocesses, sockets and signals": """
        import asyncio, os, signal
        async def main():
            async def echo(reader, writer):
                writer.write(await reader.readline()); writer.close()
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\\n")
            assert await reader.readline() == b"hello\\n"
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            assert (await process.communicate(b"fed"))[0] == b"fed"
            heard = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heard.set)
            os.kill(os.getpid(), signal.SIGUSR1)
            await heard.wait()
        asyncio.run(main())
    """,
    "sqlite with a write-ahead log": """
        import sqlite3
        base = sqlite3.connect("base.sqlite")
        assert base.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        base.execute("create table t (a)"); base.execute("insert into t values (1)"); base.commit()
        assert base.execute("select sum(a) from t").fetchone() == (1,)
    """,
    "ssl, hashes and random numbers": """
        import hashlib, os, secrets, ssl, uuid
        ssl.create_default_context(); hashlib.sha256(os.urandom(9)); secrets.token_hex(); uuid.uuid4()
    """,
    "locks, pipes and atomic renames, as git and package installers use them": """
        import fcntl, os, shutil, tempfile
        with open("lock", "x") as file:
            fcntl.flock(file, fcntl.LOCK_EX); fcntl.lockf(file, fcntl.LOCK_EX)
            os.link("lock", "lock2"); os.replace("lock2", "lock3"); os.symlink("lock", "link")
        os.mkfifo("pipe"); os.chmod("lock", 0o755); os.utime("lock", (1, 1)); shutil.copy2("lock", "copy")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(".", os.path.join(folder, "all"), ignore=shutil.ignore_patterns("pipe"))
    """,
    "memory maps and generated machine code": """
        import ctypes, mmap, os
        fd = os.memfd_create("m"); os.ftruncate(fd, 4096); mmap.mmap(fd, 4096)[:3] = b"abc"
        assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: n + 1)(1) == 2
    """,
    "numpy, scipy, pandas and matplotlib": """
        import matplotlib; matplotlib.use("agg")
        import matplotlib.pyplot as plt, numpy, pandas, scipy.linalg, scipy.optimize
        a = numpy.random.default_rng(0).normal(size=(300, 300))
        assert abs(scipy.linalg.inv(a) @ a - numpy.eye(300)).max() < 1e-6
        assert scipy.optimize.minimize(lambda x: (x - 1) ** 2, 0.0).success
        numpy.save("a.npy", a); assert numpy.load("a.npy", mmap_mode="r").shape == (300, 300)
        assert pandas.DataFrame({"k": [1, 1, 2], "v": [1, 2, 3]}).groupby("k").v.sum().tolist() == [3, 3]
        plt.plot([1, 2]); plt.savefig("plot.png")
    """,
    "an IPython shell with magics and a shell's command": """
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        assert shell.run_cell("%timeit -n1 -r1 1\\n!echo hello").success
    """,
}


@pytest.fixture(scope="module")
def works_in() -> Template:
    return Template("default", "", memory_bytes=512 * MIB)


@pytest.mark.parametrize("what", WORKS)
async def test_what_cells_need_works(bench: Bench, what: str, works_in: Template) -> None:
    # A file, because what is spawned imports its parent's main module again.
    body = textwrap.indent(textwrap.dedent(WORKS[what]), "    ")
    cell = f"if __name__ == '__main__':\n{body}\n    print('worked')\n"
    code = f"""
import os
with open("cell.py", "w") as file:
    file.write({cell!r})
os.execlp("python3", "python3", "cell.py")
"""
    said, instance = await bench.run(code, bench.spec(works_in))
    assert instance.exit_code == 0, said
    assert said.rstrip().endswith("worked")


def test_every_reason_is_told_and_every_call_stands_once() -> None:
    groups = [*table()["allowed"], *table()["conditional"], *table()["refused"]]
    assert all(len(group["reason"].strip()) > 15 for group in groups)
    assert set(expected()) == set(NUMBERS)
