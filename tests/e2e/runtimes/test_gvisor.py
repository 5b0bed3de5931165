"""A template may name a stronger OCI runtime. What that is and does is probed like everything else."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import docker
import pytest
from tests.controller_process import Process
from tests.e2e.runtimes.conftest import SMALL, Bench

import cellyard
from cellyard_controller.runtimes import RuntimeFailed, SandboxSpec, Template

pytestmark = pytest.mark.docker

STRONG = Template("strong", "", oci_runtime="runsc")
CONFIGURATION = """
[templates.strong]
oci_runtime = "runsc"
"""


@pytest.fixture
def registered(engine: docker.APIClient) -> bool:
    """Whether this machine's engine has gVisor (`make runsc`)."""
    return "runsc" in engine.info()["Runtimes"]


async def test_a_template_on_gvisor_has_every_capability_or_says_why_it_cannot_be_had(
    bench: Bench, registered: bool
) -> None:
    facts = {fact.name: fact for fact in await bench.runtime.capabilities(STRONG)}
    if not registered:
        assert not any(fact.granted for fact in facts.values())
        assert "no OCI runtime runsc" in facts["container_isolation"].evidence
        with pytest.raises(RuntimeFailed, match="runsc"):
            await bench.start("pass", bench.spec(STRONG))
        return
    assert [fact.evidence for fact in facts.values() if not fact.granted] == []
    assert "a kernel of its own" in facts["container_isolation"].evidence
    assert await bench.runtime.instances(bench.controller_id) == []


def test_a_notebook_runs_on_gvisor_or_is_refused_with_the_reason(
    built_image: str, folder: Path, registered: bool
) -> None:
    configuration = folder / "cellyard.toml"
    configuration.write_text(CONFIGURATION)
    controller = Process(folder)
    controller.start("--config", str(configuration))
    try:
        session = cellyard.Session(
            endpoint=controller.endpoint, template="strong", require={"container_isolation", "network_isolation"}
        )
        if not registered:
            with session, pytest.raises(cellyard.CapabilityUnavailable, match="no OCI runtime runsc"):
                session.run("1")
            return
        with session:
            result = session.run("import os, numpy\nprint(os.uname().release)\nint(numpy.arange(4).sum())")
            assert result.value == 6
            assert result.stdout.strip() != os_release()
            assert session.run("import pandas; len(pandas.DataFrame({'a': [1]}))").value == 1
            failed = session.run("open('/etc/new', 'w')")
            assert failed.error is not None
            assert failed.error.ename in ("OSError", "PermissionError")
            with pytest.raises(cellyard.ExecutionTimeout):
                session.run("import time; time.sleep(60)", timeout_secs=1.0)
            assert session.run("1 + 1").value == 2
    finally:
        controller.close()


def os_release() -> str:
    return subprocess.run(["uname", "-r"], capture_output=True, text=True, check=True).stdout.strip()


async def test_an_oci_runtime_that_hangs_is_given_up_in_time(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    monkeypatch.setattr("cellyard_controller.runtimes.docker.runtime.START_BOUND", 0.0)
    async with asyncio.timeout(20):
        facts = await bench.runtime.capabilities(replace(SMALL, oci_runtime="runc"))
    assert not any(fact.granted for fact in facts)
    assert "hangs" in facts[0].evidence
    for thread in threading.enumerate():  # what it was about to make is taken back there
        if thread.name == "engine-call":
            await asyncio.to_thread(thread.join, 30)
    assert await bench.runtime.instances(bench.controller_id) == []


async def test_a_canary_that_does_not_come_to_an_end_holds_up_no_other_templates(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, waits = bench.runtime.start_with, asyncio.Event()

    async def start_with(spec: SandboxSpec, command: Sequence[str]) -> str:
        if spec.template.oci_runtime:
            waits.set()
            await asyncio.Event().wait()
        return await real(spec, command)

    monkeypatch.setattr(bench.runtime, "start_with", start_with)
    hangs = asyncio.create_task(bench.runtime.capabilities(replace(SMALL, oci_runtime="runc")))
    await waits.wait()
    async with asyncio.timeout(20):
        assert all(fact.granted for fact in await bench.runtime.capabilities(SMALL))
    assert not hangs.done()
    hangs.cancel()
    await asyncio.wait([hangs])


async def test_a_name_alone_makes_nothing_stronger(bench: Bench) -> None:
    """An OCI runtime without a kernel of its own is judged as any other."""
    facts = {fact.name: fact for fact in await bench.runtime.capabilities(replace(SMALL, oci_runtime="runc"))}
    assert facts["container_isolation"].granted
    assert "a kernel of its own" not in facts["container_isolation"].evidence
