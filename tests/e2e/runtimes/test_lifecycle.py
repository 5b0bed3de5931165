"""Sandboxes come and go on a real engine, and no end is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.e2e.runtimes.conftest import SMALL, Bench
from tests.unit.runtimes.links import LinkServer

from cellyard_controller.runtimes import RuntimeFailed, Template
from cellyard_controller.runtimes.docker.container import container_name, container_settings
from cellyard_controller.runtimes.docker.engine import engine_address
from cellyard_proto.v1 import link_pb2 as link

pytestmark = pytest.mark.docker

WAITS = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"


class Proxy:
    """Stands between the runtime and the engine, and can be cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Lets connections through."""
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def cut(self) -> None:
        """Ends every connection and refuses new ones."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(engine_address())
        mine = {writer, engine_writer}
        self._writers |= mine
        try:
            await asyncio.gather(_copy(reader, engine_writer), _copy(engine_reader, writer))
        except OSError:
            pass  # cut
        finally:
            self._writers -= mine
            for end in mine:
                end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65_536):
        writer.write(part)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def proxied(tmp_path: Path) -> AsyncIterator[Proxy]:
    proxy = Proxy(tmp_path / "proxy.sock")
    await proxy.open()
    yield proxy
    await proxy.cut()


async def test_the_agent_of_the_image_dials_and_ends_with_its_container(bench: Bench) -> None:
    spec = bench.spec(Template("default", ""))
    async with LinkServer().listening(spec.link_dir) as server:
        instance_id = await bench.runtime.start(spec)
        hello = await server.connected()
        assert (hello.facts.uid, hello.facts.cap_eff, hello.facts.seccomp) == (spec.uid, "0" * 16, 2)
        assert (list(hello.facts.interfaces), hello.facts.routes) == (["lo"], 0)
        instance = await bench.runtime.inspect(instance_id)
        assert instance is not None
        assert (instance.sandbox_id, instance.running, instance.exit_code) == (spec.sandbox_id, True, None)
        await server.ready()
        server.dispatch("e1", "1+1")
        assert (await server.end("e1")).outcome == link.OUTCOME_OK
        await bench.runtime.stop(instance_id)
        await bench.ended(instance_id)
    assert await bench.runtime.inspect(instance_id) is None


async def test_stop_ends_what_ignores_signals_and_may_be_repeated(bench: Bench) -> None:
    instance_id = await bench.start(WAITS)
    await asyncio.gather(*(bench.runtime.stop(instance_id) for _ in range(4)))
    await bench.runtime.stop(instance_id)
    await bench.ended(instance_id)
    assert await bench.runtime.instances(bench.controller_id) == []


async def test_an_end_is_kept_with_its_code_until_it_is_stopped(bench: Bench) -> None:
    said, instance = await bench.run("import sys; print('words'); sys.exit(7)")
    assert (said, instance.exit_code, instance.oom_killed) == ("words\n", 7, False)
    assert await bench.runtime.instances(bench.controller_id) == [instance]
    await bench.runtime.stop(instance.instance_id)
    assert await bench.runtime.log_tail(instance.instance_id) == ""


async def test_instances_are_this_controllers_alone_and_half_made_ones_too(
    bench: Bench, engine: docker.APIClient, image: str
) -> None:
    spec = bench.spec()
    settings = container_settings(spec, image, seccomp="unconfined", private_cgroups=False)
    name = container_name(spec.sandbox_id)
    made = engine.create_container_from_config(settings, name)["Id"]  # type: ignore[no-untyped-call]
    running = await bench.start(WAITS)
    found = {instance.instance_id: instance for instance in await bench.runtime.instances(bench.controller_id)}
    assert set(found) == {made, running}
    assert (found[made].running, found[made].exit_code) == (False, None)
    assert found[made].sandbox_id == spec.sandbox_id
    assert await bench.runtime.instances("another") == []
    await bench.runtime.stop(made)
    assert [i.instance_id for i in await bench.runtime.instances(bench.controller_id)] == [running]


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"link_dir": Path("/no/such/folder")}, "start_failed", "/no/such/folder"),
        ({"template": Template("own", "no-such-image:1")}, "image_missing", "no image no-such-image:1"),
        ({"template": replace(SMALL, oci_runtime="no-such-runtime")}, "start_failed", "no-such-runtime"),
        ({"template": replace(SMALL, network="host")}, "start_failed", "network policy host"),
    ],
)
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    bench: Bench, changes: dict[str, Any], reason: str, says: str
) -> None:
    with pytest.raises(RuntimeFailed, match=says) as failure:
        await bench.runtime.start(bench.spec(**changes))
    assert failure.value.reason == reason
    assert await bench.runtime.instances(bench.controller_id) == []


async def test_a_start_that_fails_half_way_removes_what_it_made(bench: Bench) -> None:
    with pytest.raises(RuntimeFailed, match="no-such-program") as failure:
        await bench.runtime.start_with(bench.spec(), ["no-such-program"])
    assert failure.value.reason == "start_failed"
    assert await bench.runtime.instances(bench.controller_id) == []


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.05, 0.15])
async def test_a_start_that_is_cancelled_leaves_nothing(bench: Bench, moment: float) -> None:
    start = asyncio.create_task(bench.start(WAITS))
    await asyncio.sleep(moment)  # before, in and after the creation: what matters is that all are tried
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    for thread in threading.enumerate():
        if thread.name == "engine-call":
            await asyncio.to_thread(thread.join, 30)
    assert await bench.runtime.instances(bench.controller_id) == []


async def test_many_starts_at_once_keep_to_the_number_of_engine_calls(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(engine_calls=2)
    started = await asyncio.gather(*(bench.start(WAITS) for _ in range(6)))
    assert len(set(started)) == 6
    await asyncio.gather(*(bench.runtime.stop(instance_id) for instance_id in started))
    ends = {await bench.exits.get() for _ in started}
    assert ends == set(started)


async def test_an_end_while_the_engine_is_out_of_reach_is_told_afterwards(
    make_bench: Callable[..., Bench], engine: docker.APIClient, tmp_path: Path
) -> None:
    async with proxied(tmp_path) as proxy:
        bench = make_bench(host=f"unix://{proxy.path}")
        dies, vanishes, stays = [await bench.start(WAITS) for _ in range(3)]
        await proxy.cut()
        with pytest.raises(RuntimeFailed, match="no container engine listens"):
            await bench.runtime.inspect(stays)
        await asyncio.to_thread(engine.kill, dies)
        await asyncio.to_thread(engine.remove_container, vanishes, force=True)
        await proxy.open()
        async with asyncio.timeout(30):
            assert {await bench.exits.get(), await bench.exits.get()} == {dies, vanishes}
        assert bench.exits.empty()
        await bench.runtime.stop(stays)
        await bench.ended(stays)


async def test_an_engine_that_stops_answering_fails_calls_in_time(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    instance_id = await bench.start(WAITS)
    monkeypatch.setattr("cellyard_controller.runtimes.docker.runtime.LOOK_BOUND", 0.0)
    with pytest.raises(RuntimeFailed, match="hangs") as failure:
        await bench.runtime.inspect(instance_id)
    assert failure.value.reason == "runtime_lost"


async def test_ends_before_the_watch_began_are_told(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    first = make_bench()
    _, instance = await first.run("raise SystemExit(3)")
    later: asyncio.Queue[str] = asyncio.Queue()
    runtime = type(first.runtime)(first.controller_id, tmp_path / "scratch", str)
    watching = asyncio.create_task(runtime.watch(later.put_nowait))
    async with asyncio.timeout(20):
        assert await later.get() == instance.instance_id
    watching.cancel()
    await asyncio.wait([watching])
    await runtime.close()


async def test_readiness_tells_the_engine_and_the_image(bench: Bench, image: str) -> None:
    ready = await bench.runtime.readiness(SMALL)
    assert (ready.ready, ready.reason) == (True, "")
    assert ready.details["image"] == image
    missing = await bench.runtime.readiness(Template("own", "no-such-image:1"))
    assert not missing.ready
    assert "no-such-image:1" in missing.reason


async def test_the_link_is_reached_by_its_own_sandbox_alone(bench: Bench) -> None:
    spec, other = bench.spec(), bench.spec()
    reach = """
import os, socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/cellyard/agent.sock")
print(os.listdir("/run/cellyard") if os.access("/run/cellyard", os.R_OK) else "not listed")
"""
    async with LinkServer().listening(spec.link_dir):
        said, instance = await bench.run(reach, spec)
        assert (instance.exit_code, said) == (0, "not listed\n")
        said, instance = await bench.run(reach, other)
        assert instance.exit_code == 1
        assert "FileNotFoundError" in said
