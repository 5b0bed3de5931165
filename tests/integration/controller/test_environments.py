"""Environments that clients define, from the request to the kernel: on scripted kernels, with the real fetcher."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.package_index import PackageIndex

from cellyard_controller.ids import LOCAL, NotebookId, NotebookRef
from cellyard_controller.runtimes import SandboxSpec
from cellyard_controller.runtimes.fake import FakeRuntime
from cellyard_controller.store.errors import StoreAway
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard

INLINE = json.dumps({"runt": {"uv": {"dependencies": ["tiny"]}}})


class Remembering(FakeRuntime):
    """Knows what its sandboxes were made of; they outlive controllers, as containers do."""

    def __init__(self) -> None:
        super().__init__(name="docker")
        self.specs: list[SandboxSpec] = []
        self.attested: list[SandboxSpec] = []

    async def start(self, spec: SandboxSpec) -> str:
        self.specs.append(spec)
        return await super().start(spec)

    async def deviations(self, instance_id: str, spec: SandboxSpec, told: Any) -> list[str]:
        self.attested.append(spec)
        return await super().deviations(instance_id, spec, told)

    async def close(self) -> None:
        """Nothing ends with the controller."""


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    index = PackageIndex()
    index.add("tiny", "1.0")
    yield index
    index.close()


@pytest.fixture
async def runtime(yard: Yard, index: PackageIndex) -> AsyncIterator[Remembering]:
    runtime = Remembering()
    yard.runtime = runtime
    yard.config["environments"] = {"index": index.url}
    yield runtime
    await FakeRuntime.close(runtime)


@pytest.fixture
async def stubs(yard: Yard, runtime: Remembering) -> Stubs:
    return await yard.start()


def inline(*requirements: str, **more: Any) -> ker.KernelSettings:
    listed = ker.Dependencies(requirements=requirements, **more)
    return ker.KernelSettings(env_source="uv:inline", environment=ker.EnvironmentDefinition(dependencies=listed))


def project(content: str, source: str = "uv:pyproject") -> ker.KernelSettings:
    file = ker.ProjectFile(name="pyproject.toml", content=content)
    return ker.KernelSettings(env_source=source, environment=ker.EnvironmentDefinition(project_file=file))


async def start(stubs: Stubs, notebook: str, settings: ker.KernelSettings) -> tuple[ker.Kernel, list[str]]:
    """The kernel, and the stages on the way."""
    stages, kernel = [], ker.Kernel()
    asked = ker.StartKernel(notebook_id=notebook, request_id=f"start-{notebook}", settings=settings)
    async for event in stubs.kernels.Start(asked):
        if event.HasField("progress"):
            stages.append(event.progress.stage)
        else:
            kernel = event.kernel
    return kernel, stages


def refusal(failed: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    status = status_pb2.Status.FromString(dict(failed.trailing_metadata() or ())["grpc-status-details-bin"])
    assert status.details[0].Unpack(info)
    return info


async def set_metadata(stubs: Stubs, notebook: str, value: str) -> None:
    await stubs.notebooks.SetMetadata(
        nb.SetMetadataRequest(notebook_id=notebook, request_id="m", key="notebook_metadata", value=value)
    )


async def test_a_kernel_has_what_was_listed_and_says_so(stubs: Stubs, runtime: Remembering) -> None:
    kernel, stages = await start(stubs, "n", inline("tiny"))
    assert (kernel.state, kernel.env_source) == (ker.KERNEL_STATE_IDLE, "uv:inline")
    assert list(dict.fromkeys(stages)) == ["environment", "create", "kernel"]
    [spec] = runtime.specs
    assert spec.environment is not None
    assert (spec.environment / "tiny.py").is_file()
    assert not spec.environment.stat().st_mode & stat.S_IWUSR
    assert [each.environment for each in runtime.attested] == [spec.environment]


async def test_a_project_file_is_one_too_and_both_share_what_comes_to_the_same(
    stubs: Stubs, runtime: Remembering, index: PackageIndex
) -> None:
    kernel, _ = await start(stubs, "n", project("[project]\ndependencies = ['Tiny']\n"))
    assert kernel.env_source == "uv:pyproject"
    fetched = len(index.asked)
    kernel, _ = await start(stubs, "m", inline("tiny"))
    assert kernel.env_source == "uv:inline"
    assert len(index.asked) == fetched
    assert runtime.specs[0].environment == runtime.specs[1].environment


async def test_such_sandboxes_never_come_from_the_pool_nor_go_there(yard: Yard, runtime: Remembering) -> None:
    stubs = await yard.start(pool={"size": 1})
    await start(stubs, "n", inline("tiny"))
    assert [each.environment is None for each in runtime.specs].count(False) == 1
    kernel, _ = await start(stubs, "m", ker.KernelSettings())
    assert kernel.env_source == "uv:prewarmed"


async def test_a_run_starts_what_the_notebooks_metadata_lists(stubs: Stubs, runtime: Remembering) -> None:
    await set_metadata(stubs, "n", INLINE)
    execution = await stubs.run("n", "say hello")
    assert execution.end == ex.EXECUTION_END_SUCCEEDED
    kernel = await stubs.kernels.Get(ker.GetKernel(notebook_id="n"))
    assert kernel.env_source == "uv:inline"
    assert runtime.specs[0].environment is not None


async def test_a_document_that_is_not_known_for_a_moment_costs_no_environment(
    yard: Yard, stubs: Stubs, runtime: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store was away while an edit was taken back: a run gets what the notebook lists, or is refused."""
    await set_metadata(stubs, "n", INLINE)

    async def away(_work: Any) -> Any:
        raise StoreAway("the database is starting up")

    async with yard.controller.rooms.use(NotebookRef(LOCAL, NotebookId("n"))) as room:
        with monkeypatch.context() as gone:
            gone.setattr(room._pages, "_store", SimpleNamespace(read=away))
            await room._inbox.ask(lambda: room._pages.take_back(StoreAway("the database went away")))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stubs.run("n", "value 1")
            assert refusal(refused.value).metadata["retryable"] == "true"
        assert (await stubs.run("n", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
    assert (await stubs.kernels.Get(ker.GetKernel(notebook_id="n"))).env_source == "uv:inline"


@pytest.mark.parametrize("metadata", ["no json", "[]", json.dumps({"runt": {"uv": {"dependencies": []}}})])
async def test_metadata_without_dependencies_means_the_usual_environment(
    stubs: Stubs, runtime: Remembering, metadata: str
) -> None:
    await stubs.notebooks.SetMetadata(nb.SetMetadataRequest(notebook_id="n", request_id="m", key="x", value=metadata))
    kernel, _ = await start(stubs, "n", ker.KernelSettings(env_source="auto"))
    assert kernel.env_source == "uv:prewarmed"
    assert runtime.specs[0].environment is None


REFUSED = {
    "an option": (inline("tiny", "-r other.txt"), "dependency 2"),
    "a file": (inline("tiny @ file:///etc/passwd"), "dependency 1"),
    "a repository in a project file": (project("[project]\ndependencies=['x @ git+https://h.example/x']"), "line 2"),
    "an index": (project("[tool.uv]\nindex-url='https://h.example'\n"), "line 2"),
    "too large a file": (project("#" * 300_000), "at most"),
    "too many": (inline(*(f"a{at}" for at in range(501))), "at most 500"),
    "a definition of nothing": (project("", source="uv:prewarmed"), "uv:prewarmed"),
    "a list for a project": (project("", source="uv:inline"), "comes with dependencies"),
    "no definition": (ker.KernelSettings(env_source="uv:inline"), "comes with dependencies"),
    "a definition without a source": (project("", source=""), "auto is defined by nothing"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_any_client_sends_is_checked(stubs: Stubs, runtime: Remembering, what: str) -> None:
    settings, said = REFUSED[what]
    with pytest.raises(grpc.aio.AioRpcError, match=said) as refused:
        await start(stubs, "n", settings)
    assert refusal(refused.value).reason == "INVALID_REQUEST"
    assert runtime.specs == []


@pytest.mark.parametrize("source", ["conda:prewarmed", "conda:inline", "conda:env_yml", "pixi:toml"])
async def test_conda_is_unavailable_and_nothing_else_takes_its_place(stubs: Stubs, source: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="no conda channel") as refused:
        await start(stubs, "n", ker.KernelSettings(env_source=source))
    assert refusal(refused.value).reason == "CAPABILITY_UNAVAILABLE"


async def test_a_requirement_that_does_not_exist_ends_the_start_and_the_next_one_tries_again(
    stubs: Stubs, index: PackageIndex
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="'absent' cannot be had") as refused:
        await start(stubs, "n", inline("absent"))
    told = refusal(refused.value)
    assert (told.reason, told.metadata["requirement"]) == ("ENVIRONMENT_FAILED", "absent")
    assert "absent was not found" in told.metadata["log"]
    kernel = await stubs.kernels.Get(ker.GetKernel(notebook_id="n"))
    assert (kernel.state, kernel.end_reason) == (ker.KERNEL_STATE_DEAD, "environment_failed")
    index.add("absent", "1.0")
    asked = ker.StartKernel(notebook_id="n", request_id="again", settings=inline("absent"))
    last = [event async for event in stubs.kernels.Start(asked)][-1]
    assert last.kernel.env_source == "uv:inline"


async def test_a_shutdown_ends_the_making(stubs: Stubs, index: PackageIndex, yard: Yard) -> None:
    index.open.clear()
    index.reached.clear()
    starting = asyncio.create_task(start(stubs, "n", inline("tiny")))
    assert await asyncio.to_thread(index.reached.wait, 60)
    await stubs.kernels.Shutdown(ker.ShutdownKernel(notebook_id="n", request_id="s"))
    with pytest.raises(grpc.aio.AioRpcError, match="shut down while it started"):
        await starting
    await yard.stop()
    assert list((yard.folder / "data" / "environments").glob("*/*")) == []


async def test_the_time_that_an_environment_takes_is_none_of_the_start_timeout(
    stubs: Stubs, index: PackageIndex
) -> None:
    index.open.clear()
    index.reached.clear()
    settings = inline("tiny")
    settings.start_timeout_s = 4.0
    running = asyncio.create_task(stubs.run("n", "say hello", kernel=settings))
    assert await asyncio.to_thread(index.reached.wait, 60)
    await asyncio.sleep(4.5)  # until the start timeout would have been over
    index.open.set()
    assert (await running).end == ex.EXECUTION_END_SUCCEEDED


async def test_a_successor_takes_up_what_waited_for_an_environment(
    yard: Yard, runtime: Remembering, index: PackageIndex
) -> None:
    stubs = await yard.start(on_stop="keep")
    index.open.clear()
    index.reached.clear()
    settings = inline("tiny")
    stream = stubs.start("n", "say hello", kernel=settings)
    async for event in stream:
        if event.WhichOneof("event") == "accepted":
            execution_id = event.accepted.execution_id
            break
    assert await asyncio.to_thread(index.reached.wait, 60)
    await yard.stop()
    index.open.set()
    stubs = await yard.start()
    last = None
    async for event in stubs.executions.Attach(ex.AttachExecution(notebook_id="n", execution_id=execution_id)):
        last = event
    assert last is not None
    assert last.finished.end == ex.EXECUTION_END_SUCCEEDED
    assert (await stubs.kernels.Get(ker.GetKernel(notebook_id="n"))).env_source == "uv:inline"


async def test_a_successor_knows_what_adopted_sandboxes_have(yard: Yard, runtime: Remembering) -> None:
    stubs = await yard.start(on_stop="keep")
    await start(stubs, "n", inline("tiny"))
    await yard.stop()
    runtime.attested.clear()
    stubs = await yard.start(on_stop="keep", environments={"index": "http://127.0.0.1:9/", "store": 1})
    await stubs.run("n", "say hello")
    [spec] = runtime.attested
    assert spec.environment is not None
    await yard.controller.supervisor.environments.tidy()
    assert spec.environment.exists()
    await stubs.kernels.Shutdown(ker.ShutdownKernel(notebook_id="n", request_id="s"))
