"""Capabilities are what a canary has shown; each setting that is broken takes away what rests on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.e2e.runtimes.conftest import SMALL, Bench

from cellyard_controller.runtimes import CapabilityFact, SandboxSpec, Template
from cellyard_controller.runtimes.docker import canary, images, runtime
from cellyard_controller.runtimes.docker.container import container_settings

pytestmark = pytest.mark.docker

Change = Callable[[dict[str, Any]], None]


def host(**changes: Any) -> Change:
    """A change of the container's host configuration."""
    return lambda settings: settings["HostConfig"].update(changes)


def top(**changes: Any) -> Change:
    """A change of the container's configuration itself."""
    return lambda settings: settings.update(changes)


def both(first: Change, second: Change) -> Change:
    """Two changes."""

    def change(settings: dict[str, Any]) -> None:
        first(settings)
        second(settings)

    return change


def with_bind(source: str, target: str, read_only: bool) -> Change:
    """One more mount from the host."""
    mount = {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}
    return lambda settings: settings["HostConfig"]["Mounts"].append(mount)


def loose_tmpfs(point: str, options: str | None) -> Change:
    """Other options of one tmpfs, or none of our own there."""

    def change(settings: dict[str, Any]) -> None:
        made = {**settings["HostConfig"]["Tmpfs"], point: options}
        settings["HostConfig"]["Tmpfs"] = {name: text for name, text in made.items() if text is not None}

    return change


def a_device() -> dict[str, str]:
    """One of the host's devices, under another name."""
    return {"PathOnHost": "/dev/null", "PathInContainer": "/dev/more", "CgroupPermissions": "rw"}


def broken_by(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Starts sandboxes with settings that no product code can ask for."""

    def settings(
        spec: SandboxSpec, image: str, *, seccomp: str, private_cgroups: bool, command: Sequence[str] = ()
    ) -> dict[str, Any]:
        made = container_settings(spec, image, seccomp=seccomp, private_cgroups=private_cgroups, command=command)
        change(made)
        return made

    monkeypatch.setattr(runtime, "container_settings", settings)


async def verdicts(bench: Bench, template: Template = SMALL) -> dict[str, CapabilityFact]:
    return {fact.name: fact for fact in await bench.runtime.capabilities(template)}


async def test_a_sandbox_of_the_default_template_has_every_capability(bench: Bench) -> None:
    facts = await verdicts(bench, Template("default", ""))
    assert [fact.evidence for fact in facts.values() if not fact.granted] == []
    assert set(facts) == {
        "timeout",
        "process_isolation",
        "container_isolation",
        "network_isolation",
        "reset",
        "deps_install",
    }
    assert await bench.runtime.instances(bench.controller_id) == []
    assert bench.exits.empty()


async def test_many_processes_in_little_memory_can_be_proven(bench: Bench) -> None:
    facts = await verdicts(bench, replace(SMALL, pids=512))
    assert [fact.evidence for fact in facts.values() if not fact.granted] == []


async def test_a_sandbox_with_a_list_has_no_network_either(bench: Bench) -> None:
    fact = (await verdicts(bench, replace(SMALL, network="allowlist")))["network_isolation"]
    assert fact.granted
    assert "no way out but the socket of the proxy" in fact.evidence


async def test_the_open_policy_has_a_network_and_every_other_capability(bench: Bench) -> None:
    facts = await verdicts(bench, replace(SMALL, network="open"))
    assert {name for name, fact in facts.items() if not fact.granted} == {"network_isolation"}
    assert "the network policy is open" in facts["network_isolation"].evidence


async def test_a_proof_is_kept_for_template_image_and_engine(bench: Bench) -> None:
    first = await verdicts(bench)
    started = time.monotonic()
    assert await verdicts(bench) == first
    assert time.monotonic() - started < 0.5
    other = Template("other", "", memory_bytes=SMALL.memory_bytes, pids=33)
    assert (await verdicts(bench, other))["timeout"].probed_at > first["timeout"].probed_at


@pytest.mark.parametrize(
    ("change", "lost", "why"),
    [
        (host(NetworkMode="host"), {"network_isolation"}, "net namespace"),
        (host(CapDrop=[]), {"container_isolation"}, "CapBnd"),
        (host(CapDrop=[], CapAdd=["NET_RAW"]), {"container_isolation"}, "CapBnd on the host"),
        (host(SecurityOpt=["no-new-privileges:true", "seccomp=unconfined"]), {"container_isolation"}, "Seccomp inside"),
        (host(SecurityOpt=[]), {"container_isolation"}, "NoNewPrivs"),
        (host(GroupAdd=["4"]), {"container_isolation"}, "other groups"),
        (host(NetworkMode="bridge"), {"network_isolation"}, "network interfaces are up"),
        (both(top(Hostname=""), host(UTSMode="host")), {"container_isolation", "process_isolation"}, "uts namespace"),
        (host(Tmpfs={}), {"container_isolation"}, "/home/sandbox is not mounted"),
        (loose_tmpfs("/home/sandbox", "rw,nosuid,nodev,mode=1777"), {"container_isolation"}, "bytes and inodes"),
        (loose_tmpfs("/tmp", "rw,suid,dev,size=8m,nr_inodes=99"), {"container_isolation"}, "without nosuid and nodev"),
        (loose_tmpfs("/dev/shm", None), {"container_isolation"}, "/dev/shm is mounted without a limit"),
        (loose_tmpfs("/cache", "rw,nosuid,nodev,size=8m"), {"container_isolation"}, "/cache is mounted from the host"),
        (host(MaskedPaths=[]), {"container_isolation"}, "/proc/keys is not masked"),
        (host(ReadonlyPaths=[]), {"container_isolation"}, "/proc/sys is not masked"),
        (host(Devices=[a_device()]), {"container_isolation"}, "devices were added: /dev/more"),
        (host(MemorySwap=-1), {"container_isolation"}, "swap is not limited"),
        (host(ReadonlyRootfs=False), {"container_isolation"}, "/ is not read-only"),
        (host(PidsLimit=0), {"container_isolation"}, "processes could be started"),
        (host(Memory=0, MemorySwap=0), {"container_isolation"}, "more memory than the limit was had"),
        (host(NanoCpus=0), {"container_isolation"}, "the limit of processors"),
        (host(Ulimits=[]), {"container_isolation"}, "the limit nofile"),
        (host(IpcMode="host"), {"container_isolation", "process_isolation"}, "ipc namespace"),
        (host(PidMode="host"), {"container_isolation", "process_isolation"}, "pid namespace"),
        (host(Init=True), {"container_isolation", "process_isolation"}, "not the first"),
        (host(Privileged=True), {"container_isolation"}, "Seccomp"),
        (top(User="0:0"), {"container_isolation"}, "the host runs it as root"),
        (with_bind("/etc", "/srv", True), {"container_isolation"}, "/srv is mounted from the host"),
        (with_bind("/var/run/docker.sock", "/run/docker.sock", True), {"container_isolation"}, "an engine's socket"),
    ],
)
async def test_a_broken_setting_is_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, change: Change, lost: set[str], why: str
) -> None:
    broken_by(monkeypatch, change)
    facts = await verdicts(bench)
    taken = {name for name, fact in facts.items() if not fact.granted}
    assert lost <= taken, {name: fact.evidence for name, fact in facts.items()}
    assert why in " ".join(fact.evidence for fact in facts.values() if not fact.granted)
    assert await bench.runtime.instances(bench.controller_id) == []


async def test_an_internal_network_is_still_a_way_to_the_host(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, engine: docker.APIClient
) -> None:
    network = engine.create_network(bench.controller_id, driver="bridge", internal=True)["Id"]
    try:
        broken_by(monkeypatch, host(NetworkMode=network))
        facts = await verdicts(bench)
    finally:
        engine.remove_network(network)
    assert not facts["network_isolation"].granted
    assert "network interfaces are up: eth0" in facts["network_isolation"].evidence
    assert "is within reach" in facts["network_isolation"].evidence
    assert facts["container_isolation"].granted


async def test_a_mended_setting_is_believed_again_after_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken_by(broken, host(SecurityOpt=[]))
        assert not (await verdicts(bench))["container_isolation"].granted
    assert not (await verdicts(bench))["container_isolation"].granted
    monkeypatch.setattr(runtime, "FAILURE_AGE", 0.0)
    assert (await verdicts(bench))["container_isolation"].granted


async def test_an_image_without_an_interpreter_proves_nothing(
    bench: Bench, engine: docker.APIClient, tmp_path: Path
) -> None:
    archive = tmp_path / "empty.tar"
    archive.write_bytes(b"\0" * 10_240)
    label = f"LABEL {images.AGENT_LABEL}={images.agent_version()}"
    engine.import_image(str(archive), repository="cellyard-test-empty", tag=bench.controller_id, changes=[label])
    image = f"cellyard-test-empty:{bench.controller_id}"
    try:
        facts = await verdicts(bench, Template("empty", image))
    finally:
        engine.remove_image(image)
    assert not any(fact.granted or fact.late for fact in facts.values())
    assert "python3" in facts["timeout"].evidence
    assert await bench.runtime.instances(bench.controller_id) == []


async def test_a_canary_that_says_nothing_is_given_up_and_removed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "ANSWER_BOUND", 1.0)
    monkeypatch.setattr(canary, "_command", lambda _: ["python3", "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(runtime, "FAILURE_AGE", 0.0)
    late = []
    for _ in range(runtime.LATE_MOST + 1):
        facts = await verdicts(bench)
        assert "did not speak over the link" in facts["container_isolation"].evidence
        late.append(facts["container_isolation"].late)
    assert late == [True] * runtime.LATE_MOST + [False], "what is late again and again is broken"
    assert await bench.runtime.instances(bench.controller_id) == []


async def test_a_canary_that_lies_about_itself_is_not_believed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = canary._command(SMALL)
    rights = 'lines = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16)'
    lie = f'{rights} | {{"NoNewPrivs": "1", "Seccomp": "2"}}\n    return lines\n    lines = dict('
    source = honest[-2].replace("lines = dict(", lie, 1)
    assert source != honest[-2]
    monkeypatch.setattr(canary, "_command", lambda _: [*honest[:-2], source, honest[-1]])
    broken_by(monkeypatch, host(SecurityOpt=["seccomp=unconfined"]))
    evidence = (await verdicts(bench))["container_isolation"].evidence
    assert "inside" not in evidence
    assert "Seccomp on the host" in evidence
    assert "NoNewPrivs on the host" in evidence


async def test_the_default_image_has_no_program_that_gives_other_rights(bench: Bench) -> None:
    seen = await canary.sight(bench.spec(), bench.runtime)
    assert seen.inside.setuid == []
    assert seen.inside.limits["pids.max"] == str(SMALL.pids)
    assert seen.inside.memory_try == "signal 9"


async def test_canaries_at_work_are_nobodys_sandbox(bench: Bench) -> None:
    probing = asyncio.create_task(bench.runtime.capabilities(SMALL))
    while not probing.done():
        assert await bench.runtime.instances(bench.controller_id) == []
    await probing
    assert bench.exits.empty()
