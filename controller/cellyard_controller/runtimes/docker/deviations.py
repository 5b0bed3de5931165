"""In what one sandbox is not as it must be: what its agent tells, against what the host shows of the container.

A canary has shown what the settings do; this shows, before anybody is given a sandbox, that this very one has them. Two
witnesses are asked for the same things, and both have to say what is expected: so who lies about itself differs too.
"""

from __future__ import annotations

from collections.abc import Iterator

from cellyard_controller.runtimes import Template, ToldFacts
from cellyard_controller.runtimes.docker.host import HostView
from cellyard_controller.runtimes.docker.verdict import NO_CAPABILITIES, RIGHTS, SECCOMP_FILTER


def deviations(
    told: ToldFacts,
    host: HostView | None,
    template: Template,
    uid: int,
    *,
    oci_program: str = "",
    environment: bool = False,
) -> Iterator[str]:
    """Each deviation as words. `oci_program` is that of the OCI runtime which the template names, if it does.

    `environment`: whether it was given a prepared environment.

    Where the host shows nothing (`host` is None), only what is told is looked at.
    """
    own_kernel = host is not None and bool(oci_program) and host.program == oci_program
    isolated = template.network != "open"
    yield from _told(told, uid, own_kernel=own_kernel, isolated=isolated)
    if host is not None:
        yield from (_from_outside(told, host, uid, isolated=isolated) if not own_kernel else _sentry(host))
        if not own_kernel:
            yield from _environment(host, environment)
        yield from _limits(host, template)
        shared = {"ipc", "mnt", "net", "uts", "user" if own_kernel else "pid"}
        for name in sorted(shared):
            if name in host.namespaces and host.namespaces[name] == host.own_namespaces.get(name):
                yield f"it shares the {name} namespace with the controller"


def _told(told: ToldFacts, uid: int, *, own_kernel: bool, isolated: bool) -> Iterator[str]:
    if told.uid != uid:
        yield f"it says that it is user {told.uid}, not {uid}"
    if told.cap_eff != NO_CAPABILITIES:
        yield f"it says that its Linux capabilities are {told.cap_eff or 'unknown'}"
    if not told.root_read_only:
        yield "it says that its root can be written"
    if isolated and told.routes != 0:
        yield f"it says that it has {told.routes} routes out"
    if own_kernel:
        if isolated and told.interfaces != ("lo",):
            yield f"it says that its interfaces are {', '.join(told.interfaces)}"
        return  # such a kernel tells nothing of filters
    if told.no_new_privs != 1:
        yield f"it says that its NoNewPrivs is {told.no_new_privs}"
    if str(told.seccomp) != SECCOMP_FILTER:
        yield f"it says that its Seccomp is {told.seccomp}"


def _from_outside(told: ToldFacts, host: HostView, uid: int, *, isolated: bool) -> Iterator[str]:
    if host.pid != told.peer_pid:
        yield f"process {told.peer_pid} speaks for it, and not its first one, {host.pid}"
    # An engine with user namespaces gives it another number outside; only root sees whether it has one.
    numbers_differ = not host.namespaces or host.namespaces.get("user") != host.own_namespaces.get("user")
    if host.uid <= 0 or (host.uid != uid and not numbers_differ):
        yield f"the host runs it as user {host.uid}, not {uid}"
    for name in RIGHTS:
        if host.status.get(name) != NO_CAPABILITIES:
            yield f"the host says that its {name} is {host.status.get(name)}"
    yield from _filtered(host)
    if not host.root_read_only:
        yield "the host says that its root can be written"
    if isolated and host.routes:
        yield f"the host says that it has {host.routes} routes out"
    if told.interfaces != host.interfaces:
        yield f"its interfaces are {', '.join(host.interfaces)}, and not {', '.join(told.interfaces) or 'none'}"


def _environment(host: HostView, expected: bool) -> Iterator[str]:
    if host.environment == "rw":
        yield "the host says that its environment can be written"
    elif bool(host.environment) is not expected:
        yield f"the host says that it has {'an' if host.environment else 'no'} environment mounted"


def _sentry(host: HostView) -> Iterator[str]:
    if host.uid == 0:
        yield "the host runs its kernel as root"
    yield from _filtered(host)


def _filtered(host: HostView) -> Iterator[str]:
    for name, expected in (("NoNewPrivs", "1"), ("Seccomp", SECCOMP_FILTER)):
        if host.status.get(name) != expected:
            yield f"the host says that its {name} is {host.status.get(name)}, not {expected}"


def _limits(host: HostView, template: Template) -> Iterator[str]:
    # Where the host does not show them (a cgroup namespace of ours), the canary's reading from inside has to do.
    for name, expected in (("memory.max", template.memory_bytes), ("pids.max", template.pids)):
        if host.limits.get(name) not in ("", None, str(expected)):
            yield f"its {name} is {host.limits[name]}, not {expected}"
