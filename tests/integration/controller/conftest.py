"""A real controller (store, rooms, gRPC over a unix socket, agent link) on a runtime whose kernels are scripts."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellyard_controller.app import Controller
from cellyard_controller.config import Config
from cellyard_controller.runtimes import RuntimeFailed, SandboxSpec, ToldFacts
from cellyard_controller.runtimes.fake import FakeRuntime
from cellyard_proto.v1 import (
    executions_pb2 as ex,
)
from cellyard_proto.v1 import (
    executions_pb2_grpc,
    kernels_pb2_grpc,
    library_pb2_grpc,
    notebooks_pb2_grpc,
    sandboxes_pb2_grpc,
    sessions_pb2_grpc,
    tenants_pb2_grpc,
)

WITHIN = 60.0
NOWHERE = {"index": "http://127.0.0.1:9/"}
"""Of environments: no test asks anybody else's index."""


class Stubs:
    """Every service over one channel."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None = None) -> None:
        self.channel = channel
        self.notebooks: Any = notebooks_pb2_grpc.NotebooksStub(channel)
        self.kernels: Any = kernels_pb2_grpc.KernelsStub(channel)
        self.executions: Any = executions_pb2_grpc.ExecutionsStub(channel)
        self.sandboxes: Any = sandboxes_pb2_grpc.SandboxesStub(channel)
        self.sessions: Any = sessions_pb2_grpc.SessionsStub(channel)
        self.tenants: Any = tenants_pb2_grpc.TenantsStub(channel)
        self.workflows: Any = library_pb2_grpc.WorkflowsStub(channel)
        self.artifacts: Any = library_pb2_grpc.ArtifactsStub(channel)

    def start(self, notebook: str, source: str, **more: Any) -> Any:
        """The event stream of one execution of a new cell."""
        number = uuid.uuid4()
        fields: dict[str, Any] = {"request_id": f"request-{number}", **more}
        return self.executions.Execute(
            ex.Start(notebook_id=notebook, source=ex.NewCell(cell_id=f"cell-{number}", source=source), **fields)
        )

    async def run(self, notebook: str, source: str, **more: Any) -> ex.Execution:
        """Runs a source to its end and returns the execution."""
        accepted = None
        async for event in self.start(notebook, source, **more):
            if event.WhichOneof("event") == "accepted":
                accepted = event.accepted
        assert accepted is not None
        return await self.executions.Get(ex.GetExecution(notebook_id=notebook, execution_id=accepted.execution_id))


class Yard:
    """A data folder, and the controllers that run on it one after the other."""

    def __init__(self, folder: Path, store_url: str = "") -> None:
        """`store_url`: of its PostgreSQL database; by default the data folder has SQLite's."""
        self.folder = folder
        self.runtime = FakeRuntime(name="docker")
        self.config: dict[str, Any] = {"runtime": ("docker",), "pool": {"size": 0}, "environments": NOWHERE}
        if store_url:
            self.config["store"] = {"url": store_url}
        self._running: list[tuple[Controller, grpc.aio.Channel]] = []

    async def start(self, **config: Any) -> Stubs:
        """Starts a controller and connects to it."""
        socket = self.folder / "c.sock"
        given = {"data": self.folder / "data", "listen": (f"unix:{socket}",), **self.config, **config}
        settings = Config(**given)
        controller = Controller(settings, lambda _config, _id: {"docker": self.runtime})
        await controller.start()
        channel = grpc.aio.insecure_channel(f"unix:{socket}")
        self._running.append((controller, channel))
        return Stubs(channel)

    @property
    def controller(self) -> Controller:
        """The one that runs now."""
        return self._running[-1][0]

    async def stop(self) -> None:
        """Stops the controller that runs now."""
        controller, channel = self._running.pop()
        await channel.close()
        await controller.stop()

    async def close(self) -> None:
        """Stops what runs."""
        self.runtime.resume_engine()
        while self._running:
            await self.stop()


@pytest.fixture(params=[os.environ.get("CELLYARD_TEST_STORE", "sqlite")])
def store_url(request: pytest.FixtureRequest) -> str:
    """Of the store that a test's controllers have: empty for SQLite's, or of a PostgreSQL database.

    Tests that show it on both have this fixture's parameter set; CELLYARD_TEST_STORE=postgresql sets it for all others.
    """
    return "" if request.param == "sqlite" else str(request.getfixturevalue("database"))


on_both_databases = pytest.mark.parametrize("store_url", ["sqlite", "postgresql"], indirect=True)
"""A test shows it on SQLite and on PostgreSQL."""


@pytest.fixture
async def yard(folder: Path, store_url: str) -> AsyncIterator[Yard]:
    """A data folder on which controllers can be started."""
    yard = Yard(folder, store_url)
    yield yard
    await yard.close()


@pytest.fixture
async def stubs(yard: Yard) -> Stubs:
    """The services of a controller that runs."""
    return await yard.start()


Make = Callable[..., Any]


class Outliving(FakeRuntime):
    """Its sandboxes outlive controllers, as containers do."""

    def __init__(self) -> None:
        super().__init__(name="docker")
        self.attested: list[str] = []
        """Instances in the order in which they were attested."""
        self.specs: list[SandboxSpec] = []
        self.silent = False
        """Whether starts fail."""
        self.failed: list[SandboxSpec] = []

    async def deviations(self, instance_id: str, spec: SandboxSpec, told: ToldFacts) -> list[str]:
        found = await super().deviations(instance_id, spec, told)
        self.attested.append(instance_id)
        self.specs.append(spec)
        return found

    async def start(self, spec: SandboxSpec) -> str:
        if self.silent:
            self.failed.append(spec)
            raise RuntimeFailed("runtime_lost", "it did not answer within 90 s")
        return await super().start(spec)

    async def close(self) -> None:
        """Nothing ends with the controller."""

    def list_of_ids(self) -> list[str]:
        return list(self._sandboxes)


@pytest.fixture
async def runtime(yard: Yard) -> Any:
    runtime = Outliving()
    yard.runtime = runtime
    yield runtime
    await yard.close()
    runtime.resume_engine()
    await FakeRuntime.close(runtime)


async def until(happened: Callable[[], object]) -> None:
    """Looks again and again: there is no event for what a runtime or a link does by itself."""
    async with asyncio.timeout(WITHIN):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
