"""Whoever applies what Watch tells has the notebook as the controller has it, however fast it is read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.follower import Follower, plain

from cellyard_controller.api import responses
from cellyard_controller.ids import LOCAL, NotebookId, NotebookRef
from cellyard_controller.notebooks import watchers, watching
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import notebooks_pb2 as nb

from .conftest import Stubs, Yard

NAMES = "abcd"
LINES = [
    "print one",
    "print x\b\by",
    "stderr two",
    "display d hello",
    "update d world",
    "html <b>",
    "clear",
    "clear wait",
    "value 3",
    "error ValueError boom",
    "flood 30",
    "gate",
    "exit 1",
]
SCRIPT = st.lists(st.sampled_from(LINES), min_size=1, max_size=7)
NAME = st.sampled_from(NAMES)
KIND = st.sampled_from(["code", "code", "markdown", "raw"])
KEY = st.sampled_from(["k", 'kernel "x"\\', "ä\n"])
ACT = st.one_of(
    st.tuples(st.just("create"), NAME, KIND, SCRIPT, st.none() | st.integers(0, 4)),
    st.tuples(st.just("source"), NAME, SCRIPT),
    st.tuples(st.just("splice"), NAME, st.text("ab", max_size=3)),
    st.tuples(st.just("move"), NAME, st.sampled_from(["", *NAMES])),
    st.tuples(st.just("type"), NAME, KIND),
    st.tuples(st.just("tag"), NAME, KEY, st.integers()),
    st.tuples(st.just("metadata"), KEY, st.text(max_size=3)),
    st.tuples(st.just("delete"), NAME),
    st.tuples(st.just("clear"), st.sampled_from(["", *NAMES])),
    st.tuples(st.just("run"), NAME),
    st.tuples(st.just("run"), NAME),
    st.tuples(st.just("run_new"), SCRIPT),
    st.tuples(st.just("open")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("interrupt")),
    st.tuples(st.just("shutdown")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("import"), st.integers(1, 3)),
    st.tuples(st.just("read"), st.integers(1, 12)),
)


class Play:
    """One notebook that things are done to, and two who watch it.

    One reads all the time. The other one reads when it is told to, and beside gRPC, which would read ahead for it.
    """

    def __init__(self, yard: Yard, stubs: Stubs, number: int, *, small: bool) -> None:
        self.small = small
        self.yard, self.stubs, self.name = yard, stubs, f"nb-{number}"
        self.numbers = itertools.count()
        self.gates: list[str] = []
        self.fast, self.slow = Follower(), Follower()

    async def play(self, acts: Sequence[tuple[Any, ...]]) -> None:
        await self.call("SetMetadata", "SetMetadataRequest", key="marker", value="0")
        fast, slow = self.watch(), self.watch_beside_grpc()
        ready = asyncio.Event()
        reading = asyncio.ensure_future(self.read_all(fast, ready))
        await ready.wait()
        for name, *arguments in acts:
            if name == "read":
                await self.read(slow, arguments[0])
                continue
            with contextlib.suppress(grpc.aio.AioRpcError):  # what cannot be done is refused
                await getattr(self, f"do_{name}")(*arguments)
        for gate in self.gates:
            self.yard.runtime.open(gate)
        self.gates.clear()
        await self.do_settle()
        await self.rested()
        for mark in ("1", "2"):  # what is told of the kernel comes behind the first
            await self.call("SetMetadata", "SetMetadataRequest", key="marker", value=mark)
        await self.read_to_mark(slow)
        await slow.aclose()
        late = Follower()
        async for event in self.watch():
            late.take(event)
            if late.whole:
                break
        cells = [plain(cell) for cell in (await self.call("ListCells", "ListCellsRequest")).cells]
        kernel = await self.stubs.kernels.Get(ker.GetKernel(notebook_id=self.name))
        await self.call("Delete", "DeleteNotebook")
        with pytest.raises(grpc.aio.AioRpcError, match="was deleted"):
            await reading
        for follower in (self.fast, self.slow, late):
            assert follower.plain() == cells
            assert follower.metadata == self.fast.metadata
        assert self.slow.kernel == late.kernel == kernel
        assert "" not in self.fast.executions.values()
        assert self.small or self.fast.kinds["snapshot_begin"] == 1

    async def rested(self) -> None:
        """Returns once the kernel is no longer said to be busy: that it has exited is told behind the cell's end."""
        get = ker.GetKernel(notebook_id=self.name)
        while (await self.stubs.kernels.Get(get)).state == ker.KERNEL_STATE_BUSY:
            pass

    def watch(self) -> Any:
        return self.stubs.notebooks.Watch(nb.WatchNotebook(notebook_id=self.name))

    async def watch_beside_grpc(self) -> AsyncGenerator[nb.NotebookEvent, None]:
        ref = NotebookRef(LOCAL, NotebookId(self.name))
        async with self.yard.controller.rooms.use(ref) as room, aclosing(room.watching.watch()) as told:
            async for each in told:
                yield responses.notebook_event(ref, each)

    async def read_all(self, stream: Any, ready: asyncio.Event) -> None:
        async for event in stream:
            self.fast.take(event)
            if self.fast.whole:
                ready.set()

    async def read(self, stream: AsyncIterator[nb.NotebookEvent], count: int) -> None:
        """A few events, as far as there are any to read now."""
        with contextlib.suppress(TimeoutError):
            for _ in range(count):
                async with asyncio.timeout(0.02):
                    await self.read_one(stream)

    async def read_one(self, stream: AsyncIterator[nb.NotebookEvent]) -> None:
        if self._reading is None:
            self._reading = asyncio.ensure_future(anext(stream))
        event = await asyncio.shield(self._reading)
        self._reading = None
        self.slow.take(event)

    _reading: asyncio.Future[nb.NotebookEvent] | None = None

    async def read_to_mark(self, stream: AsyncIterator[nb.NotebookEvent]) -> None:
        while self.slow.metadata.get("marker") != "2" or not self.slow.whole:
            await self.read_one(stream)

    async def call(self, method: str, message: str, **fields: Any) -> Any:
        kind = getattr(nb, message)
        if "request_id" in kind.DESCRIPTOR.fields_by_name:
            fields["request_id"] = f"{self.name}-{next(self.numbers)}"
        return await getattr(self.stubs.notebooks, method)(kind(notebook_id=self.name, **fields))

    def script(self, lines: list[str]) -> str:
        """A source; every gate in it is one of its own."""
        source = []
        for line in lines:
            if line == "gate":
                self.gates.append(f"{self.name}-{next(self.numbers)}")
                line = f"gate {self.gates[-1]}"
            source.append(line)
        return "\n".join(source)

    async def do_create(self, name: str, kind: str, lines: list[str], index: int | None) -> None:
        await self.call(
            "CreateCell", "CreateCellRequest", cell_id=name, cell_type=kind, source=self.script(lines), index=index
        )

    async def do_source(self, name: str, lines: list[str]) -> None:
        await self.call("SetSource", "SetSourceRequest", cell_id=name, source=self.script(lines))

    async def do_splice(self, name: str, text: str) -> None:
        await self.call("SpliceSource", "SpliceSourceRequest", cell_id=name, text=text)

    async def do_move(self, name: str, after: str) -> None:
        await self.call("MoveCell", "MoveCellRequest", cell_id=name, after_cell_id=after)

    async def do_type(self, name: str, kind: str) -> None:
        await self.call("SetCellType", "SetCellTypeRequest", cell_id=name, cell_type=kind)

    async def do_tag(self, name: str, key: str, value: int) -> None:
        metadata = json.dumps({key: value})
        await self.call("SetCellMetadata", "SetCellMetadataRequest", cell_id=name, metadata_json=metadata)

    async def do_metadata(self, key: str, value: str) -> None:
        await self.call("SetMetadata", "SetMetadataRequest", key=key, value=value)

    async def do_delete(self, name: str) -> None:
        await self.call("DeleteCell", "DeleteCellRequest", cell_id=name)

    async def do_clear(self, name: str) -> None:
        await self.call("ClearOutputs", "ClearOutputsRequest", cell_id=name)

    async def do_run(self, name: str) -> None:
        start = ex.Start(notebook_id=self.name, request_id=f"{self.name}-{next(self.numbers)}", cell_id=name)
        await self.stubs.executions.Enqueue(start)

    async def do_run_new(self, lines: list[str]) -> None:
        name = f"{self.name}-{next(self.numbers)}"
        new = ex.NewCell(cell_id=name, source=self.script(lines))
        await self.stubs.executions.Enqueue(ex.Start(notebook_id=self.name, request_id=name, source=new))

    async def do_open(self) -> None:
        if self.gates:
            self.yard.runtime.open(self.gates.pop(0))

    async def do_settle(self) -> None:
        """Waits for the executions that no gate holds up."""
        if self.gates:
            return
        listed = await self.stubs.executions.List(ex.ListExecutions(notebook_id=self.name))
        for execution in listed.executions:
            attach = ex.AttachExecution(notebook_id=self.name, execution_id=execution.execution_id)
            async for _ in self.stubs.executions.Attach(attach):
                pass

    async def do_interrupt(self) -> None:
        request = ker.InterruptKernel(notebook_id=self.name, request_id=f"{self.name}-{next(self.numbers)}")
        await self.stubs.kernels.Interrupt(request)

    async def do_shutdown(self) -> None:
        await self.stubs.kernels.Shutdown(ker.ShutdownKernel(notebook_id=self.name))

    async def do_restart(self) -> None:
        request = ker.RestartKernel(notebook_id=self.name, request_id=f"{self.name}-{next(self.numbers)}")
        await self.stubs.kernels.Restart(request)

    async def do_import(self, count: int) -> None:
        shown = [{"output_type": "stream", "name": "stdout", "text": "imported"}]
        code = {"cell_type": "code", "metadata": {}, "source": "1", "outputs": shown, "execution_count": 7}
        cells = [{**code, "id": f"imported-{n}"} for n in range(count)]
        content = json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {"m": 1}, "cells": cells}).encode()
        await self.call("Import", "ImportRequest", content=content)


Played = Callable[..., None]


@pytest.fixture(scope="module")
def played(module_folder: Path) -> Iterator[Played]:
    """Plays on a new notebook; one controller for all."""
    numbers = itertools.count(1)
    with asyncio.Runner() as runner:
        yard = Yard(module_folder)
        stubs = runner.run(yard.start())

        async def play(acts: Sequence[tuple[Any, ...]], small: bool) -> None:
            async with asyncio.timeout(20):
                await Play(yard, stubs, next(numbers), small=small).play(acts)

        yield lambda acts, small=False: runner.run(play(acts, small))
        runner.run(yard.close())


@given(acts=st.lists(ACT, max_size=25))
@example(acts=[("run_new", ["exit 1"])])
@settings(max_examples=120, deadline=None)
def test_a_follower_has_the_notebook_as_it_is(played: Played, acts: list[tuple[Any, ...]]) -> None:
    played(acts)


@given(acts=st.lists(ACT, min_size=5, max_size=25))
@settings(max_examples=60, deadline=None)
def test_so_has_one_who_reads_too_slowly(played: Played, acts: list[tuple[Any, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchers, "MAX_EVENTS", 6)
        patch.setattr(watching, "_AT_ONCE", 1)
        played(acts, small=True)
