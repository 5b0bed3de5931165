"""Environments of conda packages, from the request to the kernel: on scripted kernels, with the real solver."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from pydantic import ValidationError
from tests.conda_channel import CondaChannel, File

from cellyard_controller.config import Config
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sandboxes_pb2 as sb

from .conftest import Yard
from .test_environments import Remembering, refusal, start
from .test_pool import tenant, ward

PREWARMED = ker.KernelSettings(env_source="conda:prewarmed")


@pytest.fixture
def channel() -> Iterator[CondaChannel]:
    channel = CondaChannel()
    channel.add("python", "3.11.2", {"bin/python": File(b"#!/bin/sh\n", 0o755)}, noarch=False)
    for name in ("ipython", "comm", "tiny", "other"):
        channel.add(name, "9.0", depends=["python"])
    yield channel
    channel.close()


@pytest.fixture
async def runtime(yard: Yard, channel: CondaChannel) -> AsyncIterator[Remembering]:
    runtime = Remembering()
    yard.runtime = runtime
    yard.config["environments"] = {"conda": {"channels": [channel.url], "prewarmed": ["python", "tiny"]}}
    yield runtime
    await super(Remembering, runtime).close()


def inline(*requirements: str, **more: Any) -> ker.KernelSettings:
    listed = ker.Dependencies(requirements=requirements, **more)
    return ker.KernelSettings(env_source="conda:inline", environment=ker.EnvironmentDefinition(dependencies=listed))


def project(content: str, source: str) -> ker.KernelSettings:
    file = ker.ProjectFile(name="file", content=content)
    return ker.KernelSettings(env_source=source, environment=ker.EnvironmentDefinition(project_file=file))


DEFINED = {
    "conda:inline": inline("tiny", channels=["local"]),
    "conda:env_yml": project("channels: [local]\ndependencies: [tiny]\n", "conda:env_yml"),
    "pixi:toml": project('[workspace]\nchannels = ["local"]\n[dependencies]\ntiny = "*"\n', "pixi:toml"),
    "conda:prewarmed": PREWARMED,
}


@pytest.mark.parametrize("source", DEFINED)
async def test_a_kernel_has_what_was_defined_and_says_so(source: str, yard: Yard, runtime: Remembering) -> None:
    stubs = await yard.start()
    kernel, stages = await start(stubs, "n", DEFINED[source])
    assert (kernel.state, kernel.env_source) == (ker.KERNEL_STATE_IDLE, source)
    assert list(dict.fromkeys(stages)) == ["environment", "create", "kernel"]
    [spec] = runtime.specs
    assert spec.environment is not None
    assert next(spec.environment.rglob("tiny.py")).is_file()
    assert [each.environment for each in runtime.attested] == [spec.environment]


async def test_a_run_starts_what_the_notebooks_metadata_lists(yard: Yard, runtime: Remembering) -> None:
    stubs = await yard.start()
    value = json.dumps({"conda": {"dependencies": ["tiny"], "channels": ["local"]}})
    await stubs.notebooks.SetMetadata(
        nb.SetMetadataRequest(notebook_id="n", request_id="m", key="notebook_metadata", value=value)
    )
    assert (await stubs.run("n", "say hello")).end == ex.EXECUTION_END_SUCCEEDED
    assert (await stubs.kernels.Get(ker.GetKernel(notebook_id="n"))).env_source == "conda:inline"
    assert runtime.specs[0].environment is not None


REFUSED = {
    "another channel": (inline("tiny", channels=["elsewhere"]), "INVALID_REQUEST", "'elsewhere' is not allowed"),
    "a URL": (inline("https://h.example/x.conda"), "INVALID_REQUEST", "dependency 1"),
    "packages of PyPI": (
        project("dependencies:\n- pip:\n  - x\n", "conda:env_yml"),
        "INVALID_REQUEST",
        "line 2: a section like pip",
    ),
    "a list for a project": (project("", "conda:inline"), "INVALID_REQUEST", "comes with dependencies"),
    "no definition": (ker.KernelSettings(env_source="pixi:toml"), "INVALID_REQUEST", "comes with project_file"),
    "what is not there": (inline("absent"), "ENVIRONMENT_FAILED", "'absent' cannot be had"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_any_client_sends_is_checked(what: str, yard: Yard, runtime: Remembering) -> None:
    settings, reason, said = REFUSED[what]
    stubs = await yard.start()
    with pytest.raises(grpc.aio.AioRpcError, match=said) as refused:
        await start(stubs, "n", settings)
    assert refusal(refused.value).reason == reason
    assert runtime.specs == []


async def test_a_channel_that_is_gone_makes_conda_unavailable_and_nothing_takes_its_place(
    yard: Yard, runtime: Remembering
) -> None:
    yard.config["environments"] = {"conda": {"channels": ["http://127.0.0.1:9/gone"]}}
    stubs = await yard.start()
    with pytest.raises(grpc.aio.AioRpcError, match=r"a channel \(gone\) fails") as refused:
        await start(stubs, "n", inline("tiny"))
    assert refusal(refused.value).reason == "CAPABILITY_UNAVAILABLE"
    assert runtime.specs == []


async def test_warm_sandboxes_wait_with_the_prewarmed_environment_which_is_everybodys(
    yard: Yard, runtime: Remembering, channel: CondaChannel
) -> None:
    stubs = await yard.start(templates={"default": {"conda_pool": 1}}, on_stop="keep")
    async with ward(stubs) as seen:
        await seen.until(lambda: len(seen.warm) == 1)
        [first] = seen.warm
        kernel, _ = await start(stubs, "n", PREWARMED)
        assert (kernel.sandbox_id, kernel.env_source) == (first.sandbox_id, "conda:prewarmed")
        await seen.until(lambda: any(each.sandbox_id != first.sandbox_id for each in seen.warm))
        [second] = seen.warm
    asked = len(channel.asked)
    (pool,) = (await stubs.sandboxes.ListPools(sb.ListPoolsRequest())).pools
    assert (pool.env_source, pool.target, pool.hits, pool.misses) == ("conda:prewarmed", 1, 1, 0)
    await yard.stop()

    stubs = await yard.start(templates={"default": {"conda_pool": 1}}, on_stop="keep")
    async with ward(stubs) as seen:
        await seen.until(lambda: len(seen.warm) == 1)
        who = await tenant(stubs, "acme")
        asks = ker.StartKernel(notebook_id="m", request_id="r", settings=PREWARMED)
        events = [event async for event in stubs.kernels.Start(asks, metadata=who)]
        assert events[-1].kernel.sandbox_id == second.sandbox_id
    assert len(channel.asked) == asked
    assert len({spec.environment for spec in runtime.specs}) == 1


async def test_another_definition_of_the_operators_replaces_the_pool(yard: Yard, runtime: Remembering) -> None:
    stubs = await yard.start(templates={"default": {"conda_pool": 1}}, on_stop="keep")
    async with ward(stubs) as seen:
        await seen.until(lambda: len(seen.warm) == 1)
        [old] = seen.warm
    await yard.stop()
    yard.config["environments"]["conda"]["prewarmed"] = ["python", "other"]
    stubs = await yard.start(templates={"default": {"conda_pool": 1}})
    async with ward(stubs) as seen:
        await seen.until(lambda: any(each.sandbox_id != old.sandbox_id for each in seen.warm))
        kernel, _ = await start(stubs, "n", PREWARMED)
    assert kernel.sandbox_id != old.sandbox_id
    assert runtime.specs[-1].environment is not None
    assert (await stubs.sandboxes.ListPools(sb.ListPoolsRequest())).pools[0].env_source == "conda:prewarmed"


def test_a_pool_without_a_channel_is_no_configuration() -> None:
    with pytest.raises(ValidationError, match=r"templates.default.conda_pool needs environments.conda.channels"):
        Config(templates={"default": {"conda_pool": 1}})
