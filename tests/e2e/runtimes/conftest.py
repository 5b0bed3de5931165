"""A docker runtime on the real engine, with the image of this release."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import docker
import pytest

from cellyard_controller.runtimes import MIB, Instance, SandboxSpec, Template
from cellyard_controller.runtimes.docker import DockerRuntime

SMALL = Template("small", "", memory_bytes=128 * MIB, pids=40, home_bytes=16 * MIB, tmp_bytes=8 * MIB)


@pytest.fixture(scope="session")
def image(built_image: str) -> str:
    """The default image."""
    return built_image


@dataclass
class Bench:
    """A docker runtime of a controller that exists for one test alone."""

    runtime: DockerRuntime
    controller_id: str
    folder: Path
    exits: asyncio.Queue[str]

    def spec(self, template: Template = SMALL, **changes: Any) -> SandboxSpec:
        """One more sandbox, with a link folder and a user of its own."""
        number = next(_numbers)
        link_dir = self.folder / f"link-{number}"
        link_dir.mkdir(mode=0o711)
        spec = SandboxSpec(
            f"sb-{number}-{uuid.uuid4().hex[:6]}", self.controller_id, template, link_dir, 40_000 + number
        )
        return replace(spec, **changes)

    async def start(self, code: str, spec: SandboxSpec | None = None) -> str:
        """Starts a sandbox that runs Python code in the agent's place."""
        return await self.runtime.start_with(spec or self.spec(), ["python3", "-c", code])

    async def run(self, code: str, spec: SandboxSpec | None = None) -> tuple[str, Instance]:
        """What code prints in a sandbox, and how that sandbox ended."""
        instance_id = await self.start(code, spec)
        await self.ended(instance_id)
        instance = await self.runtime.inspect(instance_id)
        assert instance is not None
        return await self.runtime.log_tail(instance_id), instance

    async def ended(self, instance_id: str) -> None:
        """Returns once the runtime has told that this one ended, and no other before it."""
        async with asyncio.timeout(60):
            assert await self.exits.get() == instance_id


_numbers = count(1)


@pytest.fixture
async def make_bench(image: str, tmp_path: Path) -> AsyncIterator[Callable[..., Bench]]:
    """Makes benches; whatever they leave on the engine is removed."""
    made: list[tuple[Bench, asyncio.Task[None]]] = []

    def make(**options: Any) -> Bench:
        controller_id = f"test-{uuid.uuid4().hex}"
        runtime = DockerRuntime(controller_id, tmp_path / "scratch", lambda _: image, **options)
        bench = Bench(runtime, controller_id, tmp_path, asyncio.Queue())
        made.append((bench, asyncio.create_task(runtime.watch(bench.exits.put_nowait))))
        return bench

    yield make
    for bench, watching in made:
        watching.cancel()
        await asyncio.wait([watching])
        await bench.runtime.close()
        await asyncio.to_thread(_remove_all, bench.controller_id)


@pytest.fixture
async def bench(make_bench: Callable[..., Bench]) -> Bench:
    """One bench."""
    return make_bench()


@pytest.fixture
def engine(image: str) -> Iterator[docker.APIClient]:
    """The engine itself, for what the runtime would not do."""
    client = docker.APIClient()
    yield client
    client.close()


def _remove_all(controller_id: str) -> None:
    client = docker.APIClient()
    for container in client.containers(all=True, filters={"label": f"cellyard.controller={controller_id}"}):
        client.remove_container(container["Id"], force=True, v=True)
    client.close()
