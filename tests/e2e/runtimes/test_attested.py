"""A sandbox that is not confined as it must be is never claimed, whatever canaries showed and whatever it says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import cellyard
from cellyard_controller.app import Controller
from cellyard_controller.config import Config, PoolConfig
from cellyard_controller.runtimes import Runtime, SandboxSpec
from cellyard_controller.runtimes.docker import DockerRuntime, runtime
from cellyard_controller.runtimes.docker.container import container_settings

pytestmark = pytest.mark.docker

LIES = """
import sys
from cellyard_sandbox import facts
def lie(honest=facts.gather):
    told = honest()
    told.cap_eff, told.no_new_privs, told.seccomp, told.root_read_only = "0" * 16, 1, 2, True
    return told
facts.gather = lie
sys.argv = ["cellyard_sandbox"]
from cellyard_sandbox.__main__ import main
main()
"""
"""An agent that says all is well."""


@pytest.fixture
async def controller(image: str, folder: Path) -> AsyncIterator[Controller]:
    """A controller in this process, on the real engine."""

    def runtimes(config: Config, controller_id: str) -> dict[str, Runtime]:
        return {"docker": DockerRuntime(controller_id, config.data / "probe", lambda _: image)}

    config = Config(data=folder / "data", listen=(f"unix:{folder}/c.sock",), pool=PoolConfig(size=0))
    controller = Controller(config, runtimes)
    await controller.start()
    yield controller
    await controller.stop()


Break = Callable[[dict[str, Any]], None]


def only_sandboxes(monkeypatch: pytest.MonkeyPatch, change: Break) -> None:
    """Canaries are made as they should be, sandboxes are not."""

    def settings(spec: SandboxSpec, image: str, *, command: Sequence[str] = (), **more: Any) -> dict[str, Any]:
        made = container_settings(spec, image, command=command, **more)
        if not spec.sandbox_id.startswith(runtime.CANARY_PREFIX):
            change(made)
        return made

    monkeypatch.setattr(runtime, "container_settings", settings)


def unfiltered(settings: dict[str, Any]) -> None:
    settings["HostConfig"]["SecurityOpt"] = ["seccomp=unconfined"]


def unfiltered_and_lying(settings: dict[str, Any]) -> None:
    unfiltered(settings)
    settings["Cmd"] = ["python3", "-P", "-c", LIES]


def spoken_for_by_another(settings: dict[str, Any]) -> None:
    # A shell that stays, so that the agent is not the first process.
    settings["Cmd"] = ["sh", "-c", "python3 -m cellyard_sandbox; true"]


def with_more_memory(settings: dict[str, Any]) -> None:
    settings["HostConfig"] |= {"Memory": 0, "MemorySwap": 0}


def on_the_hosts_network(settings: dict[str, Any]) -> None:
    settings["HostConfig"]["NetworkMode"] = "host"
    del settings["Hostname"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (unfiltered, ["it says that its Seccomp is 0", "the host says that its Seccomp is 0"]),
        (unfiltered_and_lying, ["the host says that its NoNewPrivs is 0", "the host says that its Seccomp is 0"]),
        (spoken_for_by_another, ["speaks for it, and not its first one"]),
        (with_more_memory, ["its memory.max is"]),
        (on_the_hosts_network, ["it shares the net namespace"]),
    ],
)
async def test_a_sandbox_that_deviates_or_lies_is_never_claimed(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, change: Break, why: list[str]
) -> None:
    only_sandboxes(monkeypatch, change)
    async with cellyard.AsyncSession(endpoint=controller.addresses[0]) as session:
        with pytest.raises(cellyard.CapabilityUnavailable, match="not confined as it must be") as refusal:
            await session.run("open('/tmp/was-here', 'w')")
        for words in why:
            assert words in str(refusal.value)
        if change is unfiltered_and_lying:
            assert "it says" not in str(refusal.value)
        assert controller.supervisor.sandboxes() == []


async def test_one_that_is_as_it_must_be_is_claimed_and_what_canaries_showed_is_told(controller: Controller) -> None:
    isolated = {"container_isolation", "network_isolation"}
    async with cellyard.AsyncSession(endpoint=controller.addresses[0], require=isolated) as session:
        assert (await session.run("1 + 1")).value == 2


async def test_what_a_canary_did_not_show_is_refused_at_once_with_the_reason(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writable(spec: SandboxSpec, image: str, **more: Any) -> dict[str, Any]:
        made = container_settings(spec, image, **more)
        made["HostConfig"]["ReadonlyRootfs"] = False
        return made

    assert all(fact.granted for fact in await controller.supervisor.catalogue.capabilities("docker", "default"))
    monkeypatch.setattr(runtime, "container_settings", writable)
    controller.supervisor.catalogue.runtime("docker")._proven.clear()  # type: ignore[attr-defined]
    with pytest.raises(cellyard.CapabilityUnavailable, match="/ is not read-only"):
        async with cellyard.AsyncSession(endpoint=controller.addresses[0], require={"container_isolation"}) as session:
            await session.run("1")
    assert controller.supervisor.sandboxes() == []
