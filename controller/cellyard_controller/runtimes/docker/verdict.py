"""From what a canary saw, and what the host saw of it, to capabilities: a pure function.

Fails closed: a fact that is missing or malformed counts against the capability, and so does a host that
cannot look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from cellyard_controller.runtimes import MIB, CapabilityFact, Template
from cellyard_controller.runtimes.docker.container import HOME, LINK, NOFILE, SHM, file_size_limit
from cellyard_controller.runtimes.docker.host import HostView

TIMEOUT = "timeout"
PROCESS_ISOLATION = "process_isolation"
CONTAINER_ISOLATION = "container_isolation"
NETWORK_ISOLATION = "network_isolation"
RESET = "reset"
DEPS_INSTALL = "deps_install"
CAPABILITIES = (TIMEOUT, PROCESS_ISOLATION, CONTAINER_ISOLATION, NETWORK_ISOLATION, RESET, DEPS_INSTALL)

_PYTHON = "python"
RIGHTS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NO_CAPABILITIES = "0000000000000000"
SECCOMP_FILTER = "2"
_IFF_UP = 1
_UNREACHABLE = frozenset({"ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT"})
"""There is no route, no address to come from, no such protocol. Anything else went somewhere."""
_REFUSED_WRITES = frozenset({"EROFS", "EACCES", "EPERM"})
_FROM_DISK = frozenset({"/", LINK, "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"})
_KERNEL_FILE_SYSTEMS = {
    "proc": "/proc",
    "sysfs": "/sys",
    "cgroup": "/sys/fs/cgroup",
    "cgroup2": "/sys/fs/cgroup",
    "devpts": "/dev",
    "mqueue": "/dev/mqueue",
}
_ALWAYS_READ_ONLY = frozenset({"sysfs", "cgroup", "cgroup2"})
_WRITABLE = frozenset({HOME, "/tmp", SHM})
_DEVICES = frozenset(
    f"/dev/{name}" for name in ("console", "full", "fuse", "null", "ptmx", "random", "tty", "urandom", "zero")
)
"""What every container has; fuse and console only some, and without rights over them."""
_ENGINES_TMPFS = ("/dev", "/sys", "/proc")
"""The engine's own, for root alone, and what masks files there."""


class ProbeFacts(BaseModel):
    """What the probe said (probe.py). Raises pydantic's ValidationError, a ValueError, for anything else."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    kernel: str
    pid: int
    uid: int
    gid: int
    groups: list[int]
    status: dict[str, str]
    namespaces: dict[str, str]
    leftovers: list[str]
    writes: dict[str, str]
    link: list[str]
    mounts: list[tuple[str, str, str, str]]
    maskable: list[str]
    block_devices: list[str]
    devices: list[str]
    interfaces: dict[str, int]
    routes: list[str]
    connects: list[tuple[str, int, str]]
    engine_sockets: list[str]
    setuid: list[str]
    rlimits: dict[str, int]
    limits: dict[str, str]
    swap_total: int
    forks: tuple[int, str]
    memory_try: str
    package: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """Everything that was seen of one canary."""

    inside: ProbeFacts
    host: HostView | None
    """None where the host's view could not be had."""
    uid: int
    """The user that it was started as."""
    killed_after: float | None
    """Seconds from the order to its end; None where it went on."""
    oci_program: str = ""
    """Path of the program of the OCI runtime that the template names; empty where it names none."""

    @property
    def own_kernel(self) -> bool:
        """Whether a kernel of its own serves it: it sees another one, and to the host it is the OCI runtime itself.

        gVisor is such a one. What confines it is then that program, and not what Linux says inside.
        """
        return (
            self.host is not None
            and bool(self.oci_program)
            and self.host.program == self.oci_program
            and self.inside.kernel != self.host.kernel
        )


def judge(seen: Sighting, template: Template, now: float) -> list[CapabilityFact]:
    """What the sighting proves for sandboxes of this template, with the evidence."""
    return [
        _fact(
            TIMEOUT,
            _timeout(seen),
            f"a process that ignores signals was ended in {seen.killed_after or 0:.2f} s",
            now,
        ),
        _fact(
            PROCESS_ISOLATION,
            _process(seen),
            "runs in processes and namespaces of its own",
            now,
        ),
        _fact(
            CONTAINER_ISOLATION,
            [*_process(seen), *_rights(seen), *_files(seen), *_limits(seen, template)],
            _evidence(seen, template),
            now,
        ),
        _fact(
            NETWORK_ISOLATION,
            list(_network(seen, template)),
            f"only lo, no route, {len(seen.inside.connects)} addresses tried and out of reach"
            + (", and no way out but the socket of the proxy" if template.network == "allowlist" else ""),
            now,
        ),
        _fact(
            RESET,
            list(_fresh(seen)),
            "a new sandbox starts with empty folders, and nothing else can be written",
            now,
        ),
        _fact(
            DEPS_INSTALL,
            list(_installs(seen, template)),
            "a module that was put into a running sandbox could be imported there",
            now,
        ),
    ]


def lasting(facts: Sequence[CapabilityFact], template: Template) -> bool:
    """Whether these stay so: what was not proven may have been mended meanwhile, but for what can never be."""
    never = {DEPS_INSTALL} if template.kernel_type != _PYTHON else set()
    return all(fact.granted or fact.name in never for fact in facts)


def link_sockets(template: Template) -> set[str]:
    """The sockets in the link's folder of a sandbox of this template: all that leads out of it."""
    return {"agent.sock", "proxy.sock"} if template.network == "allowlist" else {"agent.sock"}


def not_proven(why: str, now: float, *, late: bool = False) -> list[CapabilityFact]:
    """No capability at all, for one reason. `late`: there may be some when the canary is asked again."""
    return [CapabilityFact(name, False, f"not proven: {why}", now, late) for name in CAPABILITIES]


def _fact(name: str, failures: Sequence[str], evidence: str, now: float) -> CapabilityFact:
    return CapabilityFact(name, not failures, "; ".join(failures) or evidence, now)


def _evidence(seen: Sighting, template: Template) -> str:
    limits = f"{template.memory_bytes // MIB} MiB, {template.pids} processes"
    files = "read-only root, no mount but the link's"
    if seen.own_kernel:
        return (
            f"a kernel of its own ({seen.oci_program}, release {seen.inside.kernel}), which the host runs without new "
            f"privileges and behind a seccomp filter; inside: uid {seen.uid}, no Linux capabilities, {files}; "
            f"limits set: {limits}"
        )
    return (
        f"seen inside and from the host: uid {seen.uid}, no Linux capabilities, no new privileges, "
        f"seccomp filter, {files}; limits held: {limits}"
    )


def _timeout(seen: Sighting) -> list[str]:
    return [] if seen.killed_after is not None else ["a process that ignores signals could not be ended"]


def _process(seen: Sighting) -> list[str]:
    failures = []
    if seen.inside.pid != 1:
        failures.append(f"it is process {seen.inside.pid} in its pid namespace, not the first")
    if seen.host is None:
        failures.append("the host's view of the process could not be had, so nothing confirms what it says itself")
    else:
        # A kernel of its own has processes of its own, but no use for a namespace of the host's; it has to have a
        # user namespace, in which its rights are none outside.
        needed = {"ipc", "mnt", "uts", "user"} if seen.own_kernel else {"ipc", "mnt", "pid", "uts"}
        shared = needed.intersection(_shared_namespaces(seen.inside, seen.host))
        failures += [f"it shares the {name} namespace with the controller" for name in sorted(shared)]
        if not seen.own_kernel and seen.host.peer_pid != seen.host.pid:
            failures.append(f"process {seen.host.peer_pid} speaks for it, and not its first one, {seen.host.pid}")
    return failures


def _shared_namespaces(inside: ProbeFacts, host: HostView) -> list[str]:
    # Not root, we cannot see another user's namespaces, and have only the probe's word for which they are.
    theirs = host.namespaces or inside.namespaces
    return [name for name, own in host.own_namespaces.items() if theirs.get(name, own) == own]


def _rights(seen: Sighting) -> Iterator[str]:
    inside = seen.inside
    if inside.uid != seen.uid or inside.gid != seen.uid or inside.uid == 0:
        yield f"it runs as user {inside.uid}, group {inside.gid} and not as {seen.uid}"
    if set(inside.groups) - {seen.uid}:
        yield f"it is in other groups: {inside.groups}"
    if seen.host is not None and seen.host.uid == 0:
        yield "the host runs it as root"
    # A kernel of its own has no filters inside, nor lines that tell of them; outside it has rights in its own user
    # namespace alone.
    own = seen.own_kernel
    yield from _status("inside", inside.status, RIGHTS[:4] if own else RIGHTS, filtered=not own)
    if seen.host is not None:
        yield from _status("on the host", seen.host.status, () if own else RIGHTS, filtered=True)
    # Set-uid programs are told as well, but take nothing away: without new privileges they raise nobody.


def _status(where: str, status: Mapping[str, str], rights: Sequence[str], *, filtered: bool) -> Iterator[str]:
    for name in rights:
        if status.get(name) != NO_CAPABILITIES:
            yield f"{name} {where} is {status.get(name)!r}, expected none"
    if filtered and status.get("NoNewPrivs") != "1":
        yield f"NoNewPrivs {where} is {status.get('NoNewPrivs')!r}, expected 1"
    if filtered and status.get("Seccomp") != SECCOMP_FILTER:
        yield f"Seccomp {where} is {status.get('Seccomp')!r}, expected {SECCOMP_FILTER} (a filter)"


def _files(seen: Sighting) -> Iterator[str]:
    inside = seen.inside
    for folder in ("/", "/usr", "/etc", LINK):
        answer = inside.writes.get(folder)
        if answer not in _REFUSED_WRITES:
            yield (f"a file in {folder} could be made" if answer == "" else f"writing into {folder} ended in {answer}")
    points = {point for point, _, _, _ in inside.mounts}
    yield from (f"{point} is not mounted" for point in sorted({"/", LINK, *_WRITABLE} - points))
    for mount in inside.mounts:
        yield from _mount(*mount, own_kernel=seen.own_kernel)
    if not seen.own_kernel:
        yield from (f"{path} is not masked" for path in inside.maskable if path not in points)
        if added := [path for path in inside.devices if path not in _DEVICES and not path.startswith("/dev/pts/")]:
            yield f"devices were added: {', '.join(added[:5])}"
    if inside.block_devices:
        yield f"disks can be opened: {', '.join(inside.block_devices[:5])}"
    if inside.engine_sockets:
        yield f"an engine's socket is there: {', '.join(inside.engine_sockets)}"


def _mount(point: str, system: str, options: str, system_options: str, *, own_kernel: bool) -> Iterator[str]:
    has = set(options.split(","))
    if point in _WRITABLE:
        if system != "tmpfs":
            yield f"{point} is on {system}, not in memory"
        if own_kernel:
            return  # set-uid and devices mean nothing on it, nor does it count inodes: all is its own memory
        if not {"nosuid", "nodev"} <= has:
            yield f"{point} is mounted without nosuid and nodev"
        if not {"size", "nr_inodes"} <= {option.partition("=")[0] for option in system_options.split(",")}:
            yield f"{point} is mounted without a limit of bytes and inodes"
    elif system in _KERNEL_FILE_SYSTEMS:
        if not _within(point, _KERNEL_FILE_SYSTEMS[system]):
            yield f"a second {system} is mounted, at {point}"
        if system in _ALWAYS_READ_ONLY and "ro" not in has:
            yield f"{point} ({system}) is not read-only"
    elif system == "tmpfs" and _within(point, *_ENGINES_TMPFS):
        return
    elif point not in _FROM_DISK:
        yield f"{point} is mounted from the host"
    elif "ro" not in has:
        yield f"{point} is not read-only"


def _within(point: str, *folders: str) -> bool:
    return any(point == folder or point.startswith(f"{folder}/") for folder in folders)


def _limits(seen: Sighting, template: Template) -> Iterator[str]:
    inside = seen.inside
    # A kernel of its own shows its own idea of limits: the host's cgroup is what holds it.
    limits = seen.host.limits if seen.own_kernel and seen.host is not None else inside.limits
    if limits.get("memory.max") != str(template.memory_bytes):
        yield f"the memory limit is {limits.get('memory.max') or 'missing'}, expected {template.memory_bytes}"
    swap, both = limits.get("memory.swap.max"), limits.get("memsw")
    # Swap that is not there today may be there tomorrow; only where nothing could count it, it must not be there.
    if (swap or both or inside.swap_total) and swap != "0" and both != str(template.memory_bytes):
        yield "swap is not limited"
    if inside.memory_try not in ("signal 9", "ENOMEM", "not tried"):
        yield f"more memory than the limit was had ({inside.memory_try})"
    count, stopped = inside.forks
    if stopped != "not tried" and (stopped != "EAGAIN" or count >= template.pids):
        yield f"{count} processes could be started, {template.pids} are the limit"
    if limits.get("pids.max") != str(template.pids):
        yield f"the limit of processes is {limits.get('pids.max') or 'missing'}, expected {template.pids}"
    if not _cpu_held(limits.get("cpu.max", ""), template.cpus):
        yield f"the limit of processors is {limits.get('cpu.max') or 'missing'}, expected {template.cpus:g}"
    for name, expected in {"core": 0, "nofile": NOFILE, "fsize": file_size_limit(template)}.items():
        if inside.rlimits.get(name) != expected:
            yield f"the limit {name} is {inside.rlimits.get(name)}, expected {expected}"


def _cpu_held(shown: str, cpus: float) -> bool:
    quota, _, period = shown.partition(" ")
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return False  # "max", -1 or no file: no limit
    return abs(int(quota) / int(period) - cpus) < 0.01


def _network(seen: Sighting, template: Template) -> Iterator[str]:
    inside = seen.inside
    if template.network == "open":
        yield "the network policy is open"
    expected = link_sockets(template)
    if set(inside.link) != expected:
        yield f"of the sockets that lead out, {sorted(inside.link)} are there, and not {sorted(expected)}"
    if seen.host is None:
        yield "the host's view of the process could not be had, so nothing confirms what it says itself"
    elif "net" in _shared_namespaces(inside, seen.host):
        yield "it shares the net namespace with the controller"
    if "lo" not in inside.interfaces:
        yield "its network interfaces could not be read"
    # Modules for tunnels put an interface of theirs into every namespace. Down, and without the right to
    # raise it, it carries nothing.
    up = [name for name, flags in inside.interfaces.items() if name != "lo" and flags & _IFF_UP]
    if up:
        yield f"network interfaces are up: {', '.join(sorted(up))}"
    if inside.routes:
        yield f"there are routes: {', '.join(inside.routes)}"
    if not inside.connects:
        yield "no connection was tried"
    # gVisor's word for having no route. Linux says it of neighbours that do not answer, and so of networks.
    unreachable = _UNREACHABLE | {"EHOSTUNREACH"} if seen.own_kernel else _UNREACHABLE
    for address, port, answer in inside.connects:
        if answer not in unreachable:
            yield f"{address} port {port} is within reach ({answer or 'connected'})"


def _installs(seen: Sighting, template: Template) -> Iterator[str]:
    if template.kernel_type != _PYTHON:
        yield f"a {template.kernel_type} kernel takes no Python packages"
    elif seen.inside.package:
        yield f"what is put into a running sandbox cannot be imported there: {seen.inside.package}"


def _fresh(seen: Sighting) -> Iterator[str]:
    if seen.inside.leftovers:
        yield f"a new sandbox starts with {', '.join(seen.inside.leftovers[:5])}"
    if any(answer not in _REFUSED_WRITES for answer in seen.inside.writes.values()):
        yield "places outlive the sandbox that it can write to"
