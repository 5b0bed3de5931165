"""What a canary runs instead of the agent: tells over the link what confines it, then waits to be killed.

Handed to the sandbox's interpreter as text, so it imports the standard library alone and nothing of ours. It
only looks and tries; whether that is good enough is decided outside (verdict.py).

Its one argument is a JSON object: `connect` (pairs of address and port that must be out of reach), `memory`
(bytes to ask for at once, more than is allowed; 0 to not try), `forks` (processes to start, more than are
allowed) and `kernel` (the release of the host's). On a kernel of its own neither memory nor forks are tried: what
they hit there is the whole sandbox, and nobody would be left to tell.
"""

from __future__ import annotations

import _thread
import errno
import json
import mmap
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

LINK = "/run/cellyard"
SOCKETS = ("agent.sock", "proxy.sock")  # by their names: the folder cannot be listed from inside
LIFE = 60.0
CONNECT_TIMEOUT = 0.3
ENGINE_SOCKETS = (
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/podman/podman.sock",
    "/var/run/docker.sock",
)
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
)
"""What engines hide, or mount read-only, of what a kernel shows."""
NS = "/proc/self/ns"
NAMESPACES = ("ipc", "mnt", "net", "pid", "uts")
HOME = "/home/sandbox"
PACKAGES = f"{HOME}/.cache/cellyard/packages"
IMPORTED_WITHIN = 20.0
THREAD_STACK = 128 * 1024
FRESH = (HOME, "/tmp", "/dev/shm")
PROGRAM_FOLDERS = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")


def main() -> None:
    """Looks around, tells, and stays until killed or until the other end of the link is gone."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wanted = json.loads(sys.argv[1])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(LIFE)
        link.connect(os.path.join(LINK, "agent.sock"))
        link.sendall(json.dumps(look(wanted)).encode() + b"\n")
        link.recv(1)


def look(wanted: dict[str, Any]) -> dict[str, Any]:
    """Everything there is to tell, ready for JSON."""
    shared_kernel = os.uname().release == wanted["kernel"]
    return {
        "kernel": os.uname().release,
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "status": status(),
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES if name in listed(NS)},
        "leftovers": [os.path.join(folder, name) for folder in FRESH for name in listed(folder)],
        "writes": {folder: refusal(write_into, folder) for folder in ("/", "/usr", "/etc", LINK)},
        "link": [name for name in SOCKETS if os.path.lexists(os.path.join(LINK, name))],
        "mounts": mounts(),
        "maskable": [path for path in MASKED if os.path.lexists(path)],
        "block_devices": devices(stat.S_ISBLK),
        "devices": devices(stat.S_ISCHR),
        "interfaces": {name: int(text(f"/sys/class/net/{name}/flags") or "0", 16) for name in listed("/sys/class/net")},
        "routes": routes(),
        "connects": [[address, port, refusal(reach, address, port)] for address, port in wanted["connect"]],
        "engine_sockets": [path for path in ENGINE_SOCKETS if os.path.exists(path)],
        "setuid": setuid_programs(),
        "rlimits": {
            name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
            for name in ("core", "nofile", "fsize")
        },
        "limits": limits(),
        "swap_total": swap_total(),
        "forks": forks(wanted["forks"]) if shared_kernel else [0, "not tried"],
        "memory_try": memory_try(wanted["memory"]) if shared_kernel else "not tried",
        "package": package(),  # last: it leaves things in the home
    }


def status() -> dict[str, str]:
    """The lines of /proc/self/status that tell of rights."""
    lines = dict(line.split(":", 1) for line in text("/proc/self/status").splitlines())
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    return {name: lines.get(name, "").strip() for name in names}


def mounts() -> list[list[str]]:
    """Mount point, type and options of each mount, and the options of its file system."""
    found = []
    for line in text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, system = left.split(), right.split()
        found.append([fields[4], system[0], fields[5], system[2] if len(system) > 2 else ""])
    return found


def devices(kind: Callable[[int], bool]) -> list[str]:
    """Disks, or others, that could be opened by name."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk("/dev") for name in names]
    return sorted(path for path in paths if os.path.lexists(path) and kind(os.lstat(path).st_mode))


def routes() -> list[str]:
    """Interfaces that anything is routed to, loopback aside."""
    v4 = [line.split()[0] for line in text("/proc/net/route").splitlines()[1:] if line.split()]
    v6 = [line.split()[-1] for line in text("/proc/net/ipv6_route").splitlines() if line.split()]
    return sorted({name for name in (*v4, *v6) if name != "lo"})


def setuid_programs() -> list[str]:
    """Programs that would give their user other rights."""
    found = []
    for path in {os.path.join(os.path.realpath(folder), name) for folder in PROGRAM_FOLDERS for name in listed(folder)}:
        mode = os.lstat(path).st_mode if os.path.lexists(path) else 0
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            found.append(path)
    return sorted(found)


def limits() -> dict[str, str]:
    """The cgroup's limits as their files say them, named as in cgroup v2; "" where there is no such file."""
    old = "/sys/fs/cgroup/{}/{}".format
    return {
        "memory.max": text("/sys/fs/cgroup/memory.max") or text(old("memory", "memory.limit_in_bytes")),
        "memory.swap.max": text("/sys/fs/cgroup/memory.swap.max"),
        "memsw": text(old("memory", "memory.memsw.limit_in_bytes")),
        "pids.max": text("/sys/fs/cgroup/pids.max") or text(old("pids", "pids.max")),
        "cpu.max": text("/sys/fs/cgroup/cpu.max")
        or f"{text(old('cpu', 'cpu.cfs_quota_us'))} {text(old('cpu', 'cpu.cfs_period_us'))}".strip(),
    }


def swap_total() -> int:
    """Bytes of swap that the machine has."""
    for line in text("/proc/meminfo").splitlines():
        if line.startswith("SwapTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def forks(wanted: int) -> list[Any]:
    """How many processes and threads could be started, and what stopped it: an errno's name, "" where nothing did."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(fill(wanted)).encode())
        finally:
            os._exit(0)  # and with it all that it has started
    os.close(write)
    with os.fdopen(read, "rb") as told:
        answer = told.read()
    os.waitpid(child, 0)
    return list(json.loads(answer)) if answer else [0, "no answer"]


def fill(wanted: int) -> list[Any]:
    """Starts that many, this process among them. The limit counts threads like processes, which take far longer."""
    _thread.stack_size(THREAD_STACK)
    held = _thread.allocate_lock()
    held.acquire()
    count = 1
    for _ in range(wanted - count):
        try:
            _thread.start_new_thread(held.acquire, ())
        except RuntimeError:
            break  # which does not say why: a process meets the same limit, and is told
        count += 1
    else:
        return [count, ""]
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError as error:
        return [count, errno.errorcode.get(error.errno or 0, str(error.errno))]
    return [count, "no thread could be started"]


def memory_try(size: int) -> str:
    """What became of a process that took that much memory: "signal 9", or that it was allowed."""
    if not size:
        return "not tried"
    child = os.fork()
    if child == 0:
        try:
            with open("/proc/self/oom_score_adj", "w") as score:
                score.write("1000")  # it, and not the probe
            # Filled by the kernel in one call: page by page would take this interpreter ten times as long.
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
            mmap.mmap(-1, size, flags=flags)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        return f"signal {-code}"
    return "allowed" if code == 0 else errno.errorcode.get(code, str(code))


def package() -> str:
    """Why a module that is brought in cannot be imported, or a library there not be loaded; "" where both can."""
    try:
        os.makedirs(PACKAGES, exist_ok=True)
        with open(f"{PACKAGES}/cellyard_probe.py", "w") as module:
            module.write("print('imported')")
        with open(f"{PACKAGES}/cellyard_probe.py", "rb") as library:
            mmap.mmap(library.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
        command = [sys.executable, "-P", "-c", "import cellyard_probe"]
        said = subprocess.run(
            command, env={**os.environ, "HOME": HOME}, capture_output=True, timeout=IMPORTED_WITHIN, check=False
        )
    except (OSError, subprocess.SubprocessError) as failed:
        return str(failed)[:200]
    if said.stdout.strip() == b"imported":
        return ""
    lines = said.stderr.decode(errors="replace").strip().splitlines() or ["nothing was imported"]
    return lines[-1][:200]


def write_into(folder: str) -> None:
    """Leaves a file in a folder that should not take it."""
    with open(os.path.join(folder, ".cellyard-probe"), "x"):
        pass


def reach(address: str, port: int) -> None:
    """Connects to an address that should be out of reach."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as out:
        out.settimeout(CONNECT_TIMEOUT)
        out.connect((address, port))


def refusal(attempt: Callable[..., None], *arguments: Any) -> str:
    """The name of the errno that an attempt failed with, or "" where it did not fail."""
    try:
        attempt(*arguments)
    except TimeoutError:
        return "ETIMEDOUT"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return ""


def listed(folder: str) -> list[str]:
    """Names in a folder, none where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def text(path: str) -> str:
    """A small file's text without blanks around it, "" where there is none."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
