"""What a canary's facts prove, and that each broken setting is noticed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cellyard_controller.runtimes import MIB, CapabilityFact, Template
from cellyard_controller.runtimes.docker.host import HostView
from cellyard_controller.runtimes.docker.verdict import (
    CAPABILITIES,
    NO_CAPABILITIES,
    ProbeFacts,
    Sighting,
    judge,
    not_proven,
)

TEMPLATE = Template("default", "", memory_bytes=1024 * MIB, pids=256)
UID = 64_999
RIGHTS = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), NO_CAPABILITIES)
STATUS = {**RIGHTS, "NoNewPrivs": "1", "Seccomp": "2"}
TMPFS = "rw,size=65536k,nr_inodes=8192"
MOUNTS = [
    ("/", "overlay", "ro,relatime", "rw"),
    ("/proc", "proc", "rw,nosuid,nodev,noexec", "rw"),
    ("/dev", "tmpfs", "rw,nosuid", "rw,mode=755"),
    ("/dev/pts", "devpts", "rw,nosuid,noexec", "rw"),
    ("/dev/mqueue", "mqueue", "rw,nosuid,nodev,noexec", "rw"),
    ("/dev/shm", "tmpfs", "rw,nosuid,nodev,noexec", TMPFS),
    ("/sys", "sysfs", "ro,nosuid,nodev,noexec", "ro"),
    ("/sys/fs/cgroup", "cgroup2", "ro,nosuid,nodev,noexec", "rw"),
    ("/proc/acpi", "tmpfs", "ro", "ro"),
    ("/proc/keys", "tmpfs", "rw,nosuid", "rw"),
    ("/tmp", "tmpfs", "rw,nosuid,nodev,noexec", TMPFS),
    ("/home/sandbox", "tmpfs", "rw,nosuid,nodev", TMPFS),
    ("/run/cellyard", "ext4", "ro,relatime", "rw"),
    ("/etc/hosts", "ext4", "ro,relatime", "rw"),
]
GOOD = ProbeFacts(
    kernel="6.1.0",
    pid=1,
    uid=UID,
    gid=UID,
    groups=[UID],
    status=STATUS,
    namespaces={"net": "net:[2]", "ipc": "ipc:[2]", "pid": "pid:[2]"},
    leftovers=[],
    writes={"/": "EROFS", "/usr": "EROFS", "/etc": "EROFS", "/run/cellyard": "EROFS"},
    link=["agent.sock"],
    mounts=MOUNTS,
    maskable=["/proc/acpi", "/proc/keys"],
    block_devices=[],
    devices=["/dev/null", "/dev/pts/0", "/dev/zero"],
    interfaces={"lo": 9, "tunl0": 128},
    routes=[],
    connects=[("172.17.0.1", 9, "ENETUNREACH"), ("2001:db8::1", 9, "EADDRNOTAVAIL")],
    engine_sockets=[],
    setuid=["/usr/bin/su"],
    rlimits={"core": 0, "nofile": 4096, "fsize": (512 + 256 + 64) * MIB},
    limits={
        "memory.max": str(1024 * MIB),
        "memory.swap.max": "0",
        "memsw": "",
        "pids.max": "256",
        "cpu.max": "100000 100000",
    },
    swap_total=0,
    forks=(255, "EAGAIN"),
    memory_try="signal 9",
    package="",
)
OWN = {"net": "net:[1]", "ipc": "ipc:[1]", "pid": "pid:[1]"}
HOST = HostView(
    pid=4242,
    uid=UID,
    status=STATUS,
    namespaces=GOOD.namespaces,
    own_namespaces=OWN,
    peer_pid=4242,
    program="/opt/venv/bin/python3.11",
    kernel="6.1.0",
)
SEEN = Sighting(inside=GOOD, host=HOST, uid=UID, killed_after=0.06)


def verdicts(seen: Sighting, template: Template = TEMPLATE) -> dict[str, CapabilityFact]:
    return {fact.name: fact for fact in judge(seen, template, 1.0)}


def inside(**changes: Any) -> Sighting:
    return replace(SEEN, inside=GOOD.model_copy(update=changes))


def with_mount(point: str, system: str, options: str) -> list[tuple[str, str, str, str]]:
    return [*(mount for mount in MOUNTS if mount[0] != point), (point, system, options, "")]


def test_a_sandbox_as_it_should_be_has_every_capability() -> None:
    facts = verdicts(SEEN)
    assert tuple(facts) == CAPABILITIES
    assert [fact.evidence for fact in facts.values() if not fact.granted] == []
    assert all(fact.probed_at == 1.0 and fact.evidence for fact in facts.values())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"uid": 0}, "runs as user 0"),
        ({"groups": [UID, 999]}, "other groups"),
        ({"status": {**STATUS, "CapEff": "00000000a80425fb"}}, "CapEff inside"),
        ({"status": {**STATUS, "CapBnd": "00000000a80425fb"}}, "CapBnd inside"),
        ({"status": {**STATUS, "NoNewPrivs": "0"}}, "NoNewPrivs inside"),
        ({"status": {**STATUS, "Seccomp": "0"}}, "Seccomp inside"),
        ({"status": {}}, "Seccomp inside"),
        ({"writes": {**GOOD.writes, "/etc": ""}}, "a file in /etc could be made"),
        ({"writes": {}}, "writing into / ended in None"),
        ({"mounts": with_mount("/", "overlay", "rw,relatime")}, "/ is not read-only"),
        ({"mounts": with_mount("/run/cellyard", "ext4", "rw")}, "/run/cellyard is not read-only"),
        ({"mounts": with_mount("/srv", "ext4", "ro")}, "/srv is mounted from the host"),
        ({"mounts": with_mount("/tmp", "tmpfs", "rw,nosuid")}, "without nosuid and nodev"),
        ({"mounts": with_mount("/home/sandbox", "ext4", "rw,nosuid,nodev")}, "not in memory"),
        ({"mounts": with_mount("/cache", "tmpfs", "rw,nosuid,nodev")}, "/cache is mounted from the host"),
        ({"mounts": with_mount("/srv", "tmpfs", "ro")}, "/srv is mounted from the host"),
        ({"mounts": with_mount("/host/proc", "proc", "rw")}, "a second proc is mounted, at /host/proc"),
        ({"mounts": with_mount("/sys/fs/cgroup", "cgroup2", "rw")}, "/sys/fs/cgroup (cgroup2) is not read-only"),
        ({"mounts": with_mount("/dev", "devtmpfs", "rw")}, "/dev is mounted from the host"),
        ({"mounts": with_mount("/sys", "sysfs", "rw")}, "/sys (sysfs) is not read-only"),
        ({"mounts": MOUNTS[1:]}, "/ is not mounted"),
        ({"mounts": [*MOUNTS[:-5], ("/tmp", "tmpfs", "rw,nosuid,nodev", "rw")]}, "without a limit of bytes and inodes"),
        ({"maskable": ["/proc/kcore"]}, "/proc/kcore is not masked"),
        ({"devices": ["/dev/kvm"]}, "devices were added: /dev/kvm"),
        ({"block_devices": ["/dev/vda"]}, "disks can be opened"),
        ({"engine_sockets": ["/run/docker.sock"]}, "an engine's socket"),
        ({"limits": {**GOOD.limits, "memory.max": "max"}}, "the memory limit is max"),
        ({"limits": {**GOOD.limits, "memory.swap.max": "max"}, "swap_total": 1}, "swap is not limited"),
        ({"limits": {**GOOD.limits, "pids.max": "max"}}, "the limit of processes"),
        ({"limits": {**GOOD.limits, "cpu.max": "max 100000"}}, "the limit of processors"),
        ({"limits": {**GOOD.limits, "cpu.max": "-1 100000"}}, "the limit of processors"),
        ({"memory_try": "allowed"}, "more memory than the limit was had"),
        ({"forks": (264, "")}, "264 processes could be started"),
        ({"rlimits": {**GOOD.rlimits, "core": -1}}, "the limit core is -1"),
        ({"pid": 7}, "process 7 in its pid namespace"),
    ],
)
def test_whatever_weakens_the_container_takes_its_isolation_away(changes: dict[str, Any], why: str) -> None:
    fact = verdicts(inside(**changes))["container_isolation"]
    assert not fact.granted
    assert why in fact.evidence


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"interfaces": {"lo": 9, "eth0": 0x1043}}, "network interfaces are up: eth0"),
        ({"interfaces": {}}, "could not be read"),
        ({"routes": ["eth0"]}, "there are routes: eth0"),
        ({"connects": [("172.17.0.1", 9, "ECONNREFUSED")]}, "172.17.0.1 port 9 is within reach (ECONNREFUSED)"),
        ({"connects": [("192.0.2.1", 9, "ETIMEDOUT")]}, "within reach (ETIMEDOUT)"),
        ({"connects": [("172.17.0.1", 9, "")]}, "within reach (connected)"),
        ({"connects": [("172.17.0.1", 9, "EHOSTUNREACH")]}, "within reach (EHOSTUNREACH)"),
        ({"connects": []}, "no connection was tried"),
        ({"link": ["agent.sock", "proxy.sock"]}, "'proxy.sock'] are there"),
    ],
)
def test_whatever_leads_out_takes_network_isolation_away_alone(changes: dict[str, Any], why: str) -> None:
    facts = verdicts(inside(**changes))
    assert not facts["network_isolation"].granted
    assert why in facts["network_isolation"].evidence
    assert facts["container_isolation"].granted


def test_a_sandbox_with_a_list_has_the_proxys_socket_and_no_other_way_out() -> None:
    listed = replace(TEMPLATE, network="allowlist")
    fact = verdicts(inside(link=["agent.sock", "proxy.sock"]), listed)["network_isolation"]
    assert fact.granted
    assert "no way out but the socket of the proxy" in fact.evidence
    assert not verdicts(SEEN, listed)["network_isolation"].granted
    both = inside(link=["agent.sock", "proxy.sock"], routes=["eth0"])
    assert not verdicts(both, listed)["network_isolation"].granted


def test_an_open_network_isolates_nothing_and_the_container_all_the_same() -> None:
    facts = verdicts(SEEN, replace(TEMPLATE, network="open"))
    assert "the network policy is open" in facts["network_isolation"].evidence
    assert not facts["network_isolation"].granted
    assert facts["container_isolation"].granted


def test_the_host_is_believed_where_it_says_otherwise() -> None:
    loose = replace(HOST, status={**STATUS, "Seccomp": "0", "CapEff": "0000003fffffffff"}, uid=0)
    fact = verdicts(replace(SEEN, host=loose))["container_isolation"]
    assert not fact.granted
    for why in ("Seccomp on the host", "CapEff on the host", "the host runs it as root"):
        assert why in fact.evidence


def test_another_process_than_the_containers_first_speaks_for_nobody() -> None:
    fact = verdicts(replace(SEEN, host=replace(HOST, peer_pid=4243)))["process_isolation"]
    assert "process 4243 speaks for it" in fact.evidence
    assert not fact.granted


GVISOR = "/usr/bin/runsc"
SENTRY = HostView(
    pid=4242,
    uid=65_534,
    status={**dict.fromkeys(RIGHTS, "0000000000240000"), "NoNewPrivs": "1", "Seccomp": "2"},
    namespaces={"net": "net:[2]", "ipc": "ipc:[2]", "pid": "pid:[1]", "user": "user:[2]"},
    own_namespaces={**OWN, "user": "user:[1]"},
    peer_pid=4240,
    program=GVISOR,
    kernel="6.1.0",
    limits=GOOD.limits,
)
ON_GVISOR = GOOD.model_copy(
    update={
        "kernel": "4.4.0",
        "status": {**dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd"), NO_CAPABILITIES), "Seccomp": "0"},
        "mounts": [
            ("/", "9p", "ro", "ro"),
            ("/proc", "proc", "rw,noexec", "rw"),
            ("/dev", "tmpfs", "rw", "rw,mode=0755"),
            *((point, "tmpfs", "rw", "rw,size=8m") for point in ("/home/sandbox", "/tmp", "/dev/shm")),
            ("/run/cellyard", "9p", "ro", "ro"),
        ],
        "devices": ["/dev/net/tun"],
        "limits": dict.fromkeys(GOOD.limits, ""),
        "forks": (0, "not tried"),
        "memory_try": "not tried",
    }
)
STRONG = Sighting(inside=ON_GVISOR, host=SENTRY, uid=UID, killed_after=0.1, oci_program=GVISOR)


def test_a_kernel_of_its_own_is_judged_by_what_holds_that_kernel() -> None:
    nowhere = ON_GVISOR.model_copy(update={"connects": [("192.0.2.1", 9, "EHOSTUNREACH")]})
    facts = verdicts(replace(STRONG, inside=nowhere))
    assert [fact.evidence for fact in facts.values() if not fact.granted] == []
    assert "a kernel of its own (/usr/bin/runsc, release 4.4.0)" in facts["container_isolation"].evidence


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (replace(STRONG, oci_program=""), "Seccomp inside"),
        (replace(STRONG, host=replace(SENTRY, program="/usr/bin/python3")), "Seccomp inside"),
        (replace(STRONG, inside=ON_GVISOR.model_copy(update={"kernel": "6.1.0"})), "Seccomp inside"),
        (replace(STRONG, host=replace(SENTRY, program="")), "Seccomp inside"),
        (replace(STRONG, host=replace(SENTRY, status={**SENTRY.status, "Seccomp": "0"})), "Seccomp on the host"),
        (replace(STRONG, host=replace(SENTRY, uid=0)), "the host runs it as root"),
        (replace(STRONG, host=replace(SENTRY, limits={})), "the memory limit is missing"),
        (
            replace(STRONG, host=replace(SENTRY, namespaces={**SENTRY.namespaces, "user": "user:[1]"})),
            "shares the user namespace",
        ),
        (replace(STRONG, inside=ON_GVISOR.model_copy(update={"uid": 0})), "runs as user 0"),
        (
            replace(STRONG, inside=ON_GVISOR.model_copy(update={"status": {**ON_GVISOR.status, "CapEff": "1"}})),
            "CapEff inside",
        ),
    ],
)
def test_a_kernel_of_its_own_is_not_taken_at_its_word(seen: Sighting, why: str) -> None:
    fact = verdicts(seen)["container_isolation"]
    assert not fact.granted
    assert why in fact.evidence


def test_without_the_hosts_view_nothing_is_proven_of_isolation() -> None:
    facts = verdicts(replace(SEEN, host=None))
    assert not facts["container_isolation"].granted
    assert not facts["network_isolation"].granted


def test_where_only_root_sees_namespaces_the_probes_word_counts() -> None:
    blind = replace(SEEN, host=replace(HOST, namespaces={}))
    assert all(fact.granted for fact in verdicts(blind).values())
    silent = replace(blind, inside=GOOD.model_copy(update={"namespaces": {}}))
    assert not verdicts(silent)["process_isolation"].granted
    shared = replace(blind, inside=GOOD.model_copy(update={"namespaces": OWN}))
    assert not verdicts(shared)["network_isolation"].granted


def test_namespaces_shared_with_the_host_are_noticed() -> None:
    theirs = {**GOOD.namespaces, "net": OWN["net"], "ipc": OWN["ipc"]}
    facts = verdicts(replace(SEEN, host=replace(HOST, namespaces=theirs)))
    assert "shares the ipc namespace" in facts["process_isolation"].evidence
    assert "shares the net namespace" in facts["network_isolation"].evidence
    assert not facts["container_isolation"].granted


def test_what_cannot_be_ended_has_no_timeout() -> None:
    facts = verdicts(replace(SEEN, killed_after=None))
    assert not facts["timeout"].granted
    assert facts["container_isolation"].granted


def test_a_sandbox_that_finds_something_of_another_is_no_fresh_one() -> None:
    assert "/tmp/old" in verdicts(inside(leftovers=["/tmp/old"]))["reset"].evidence


def test_a_memory_limit_that_was_only_read_still_counts() -> None:
    assert verdicts(inside(memory_try="not tried"))["container_isolation"].granted


def test_a_fraction_of_a_processor_is_compared_as_such() -> None:
    half = replace(TEMPLATE, cpus=0.5)
    assert not verdicts(SEEN, half)["container_isolation"].granted
    limits = {**GOOD.limits, "cpu.max": "50000 100000"}
    assert verdicts(inside(limits=limits), half)["container_isolation"].granted


@pytest.mark.parametrize("answer", ["", "{}", '{"pid": "1"}', "[1]", "null"])
def test_an_answer_that_makes_no_sense_is_none(answer: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # pydantic's own error, whose words are not ours
        ProbeFacts.model_validate_json(answer)


def test_nothing_is_granted_without_a_probe() -> None:
    facts = not_proven("no engine", 2.0)
    assert {fact.name for fact in facts} == set(CAPABILITIES)
    assert all(not fact.granted and "no engine" in fact.evidence for fact in facts)
