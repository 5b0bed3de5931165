"""A sandbox has to be as it must be by two witnesses: itself, and the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cellyard_controller.runtimes import Template, ToldFacts
from cellyard_controller.runtimes.docker.deviations import deviations
from cellyard_controller.runtimes.docker.host import HostView
from cellyard_controller.runtimes.docker.verdict import NO_CAPABILITIES, RIGHTS

TEMPLATE = Template("default", "")
UID, PID = 200_001, 4242
TOLD = ToldFacts(UID, NO_CAPABILITIES, 1, 2, True, ("lo", "tunl0"), 0, PID)
OWN = {name: f"{name}:[1]" for name in ("ipc", "mnt", "net", "pid", "user", "uts")}
HOST = HostView(
    pid=PID,
    uid=UID,
    status={**dict.fromkeys(RIGHTS, NO_CAPABILITIES), "NoNewPrivs": "1", "Seccomp": "2"},
    namespaces={name: f"{name}:[2]" for name in OWN} | {"user": "user:[1]"},
    own_namespaces=OWN,
    root_read_only=True,
    interfaces=("lo", "tunl0"),
    limits={"memory.max": str(TEMPLATE.memory_bytes), "pids.max": str(TEMPLATE.pids)},
)
RUNSC = "/usr/bin/runsc"
SENTRY = replace(
    HOST, uid=65_534, program=RUNSC, namespaces={name: f"{name}:[2]" for name in OWN} | {"pid": OWN["pid"]}
)


def found(told: ToldFacts = TOLD, host: HostView | None = HOST, oci_program: str = "") -> list[str]:
    return list(deviations(told, host, TEMPLATE, UID, oci_program=oci_program))


@pytest.mark.parametrize(
    ("mounted", "given", "said"),
    [
        ("ro", True, []),
        ("", False, []),
        ("rw", True, ["the host says that its environment can be written"]),
        ("ro", False, ["the host says that it has an environment mounted"]),
        ("", True, ["the host says that it has no environment mounted"]),
    ],
)
def test_a_prepared_environment_is_there_when_it_was_given_and_read_only(
    mounted: str, given: bool, said: list[str]
) -> None:
    host = replace(HOST, environment=mounted)
    assert list(deviations(TOLD, host, TEMPLATE, UID, environment=given)) == said


def test_a_sandbox_as_it_must_be_does_not_deviate() -> None:
    assert found() == []
    assert found(host=None) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"uid": 0}, "user 0, not 200001"),
        ({"cap_eff": "00000000a80425fb"}, "Linux capabilities are 00000000a80425fb"),
        ({"cap_eff": ""}, "Linux capabilities are unknown"),
        ({"no_new_privs": 0}, "NoNewPrivs is 0"),
        ({"seccomp": 0}, "Seccomp is 0"),
        ({"root_read_only": False}, "root can be written"),
        ({"interfaces": ("eth0", "lo", "tunl0")}, "its interfaces are lo, tunl0, and not eth0"),
        ({"routes": 1}, "1 routes out"),
        ({"peer_pid": 4243}, "process 4243 speaks for it"),
    ],
)
def test_what_it_tells_of_itself_has_to_be_right(changes: dict[str, Any], why: str) -> None:
    assert why in "; ".join(found(replace(TOLD, **changes)))


def test_an_agent_that_tells_nothing_deviates_in_everything() -> None:
    assert len(found(ToldFacts())) >= 7


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"uid": 0}, "the host runs it as user 0"),
        ({"uid": UID + 1}, "the host runs it as user 200002"),
        ({"status": {**HOST.status, "CapBnd": "00000000a80425fb"}}, "its CapBnd is 00000000a80425fb"),
        ({"status": {**HOST.status, "NoNewPrivs": "0"}}, "its NoNewPrivs is 0"),
        ({"status": {**HOST.status, "Seccomp": "0"}}, "its Seccomp is 0"),
        ({"root_read_only": False}, "its root can be written"),
        ({"interfaces": ("eth0", "lo", "tunl0")}, "its interfaces are eth0, lo, tunl0"),
        ({"routes": 2}, "2 routes out"),
        ({"namespaces": {**HOST.namespaces, "net": OWN["net"]}}, "shares the net namespace"),
        ({"namespaces": {**HOST.namespaces, "pid": OWN["pid"]}}, "shares the pid namespace"),
        ({"limits": {**HOST.limits, "memory.max": "max"}}, "its memory.max is max"),
        ({"limits": {**HOST.limits, "pids.max": "max"}}, "its pids.max is max"),
    ],
)
def test_one_that_lies_is_given_away_by_the_host(changes: dict[str, Any], why: str) -> None:
    assert why in "; ".join(found(host=replace(HOST, **changes)))


def test_with_user_namespaces_the_host_knows_it_by_another_number() -> None:
    mapped = replace(HOST, uid=300_001, namespaces={**HOST.namespaces, "user": "user:[2]"})
    assert found(host=mapped) == []
    assert "user 0" in found(host=replace(mapped, uid=0))[0]
    blind = replace(HOST, uid=300_001, namespaces={})
    assert found(host=blind) == []


def test_a_kernel_of_its_own_tells_of_no_filters_and_the_host_of_its_own() -> None:
    told = replace(TOLD, no_new_privs=-1, seccomp=0, interfaces=("lo",), peer_pid=4200)
    assert found(told, SENTRY, RUNSC) == []
    assert found(told, SENTRY) != []
    assert found(told, replace(SENTRY, program="/usr/bin/python3"), RUNSC) != []
    assert "NoNewPrivs is 0" in found(told, replace(SENTRY, status={**HOST.status, "NoNewPrivs": "0"}), RUNSC)[0]
    assert "as root" in found(told, replace(SENTRY, uid=0), RUNSC)[0]
    shared = replace(SENTRY, namespaces={**SENTRY.namespaces, "user": OWN["user"]})
    assert "shares the user namespace" in found(told, shared, RUNSC)[0]
    assert "its interfaces are eth0, lo" in found(replace(told, interfaces=("eth0", "lo")), SENTRY, RUNSC)[0]
