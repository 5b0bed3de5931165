"""Clients of the SDK where a notebook is on another node than the controller that they were given, in both flavours."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.authority import Authority
from tests.integration.sdk import flavours

import cellyard
from cellyard import _healing, events
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import WITHIN, until
from .nodes import Node, Nodes, ref


@pytest.fixture(params=["async", "sync"])
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def nodes(folder: Path) -> AsyncIterator[Nodes]:
    several = Nodes(folder)
    yield several
    await several.close()


@pytest.fixture
async def first(nodes: Nodes) -> Node:
    """The one that clients are given."""
    return await nodes.start("a")


@pytest.fixture
async def other(nodes: Nodes, first: Node) -> Node:
    return await nodes.start("b")


def healing_for(client: Any, seconds: float) -> None:
    getattr(client, "sync", client)._transport.reconnect_s = seconds


async def all_of(node: Node, notebook_id: str) -> list[ex.Execution]:
    answer = await node.stubs.executions.List(ex.ListExecutions(notebook_id=notebook_id))
    return list(answer.executions)


async def test_a_session_works_where_its_notebook_is(flavour: str, nodes: Nodes, first: Node, other: Node) -> None:
    nodes.table.give("nb", "b")
    async with flavours.session(flavour, "nb", endpoint=first.socket, labels={"team": "x"}) as session:
        assert (await session.run("value 1")).value == 1
        cell_id = await session.create_cell("value 2")
        assert (await session.execute_cell(cell_id)).value == 2
        assert await session.is_connected()
        assert (other.rooms.loaded, other.rooms.sessions, first.rooms.loaded) == (1, 1, 0)
        asked = len(first.owns.asked)
        assert (await session.run("value 3")).value == 3
        assert len(first.owns.asked) == asked  # the way is known
    await until(lambda: not other.controller.supervisor.sandboxes())  # its last user has left


async def test_a_client_follows_for_notebooks_and_stays_for_all_else(
    flavour: str, nodes: Nodes, first: Node, other: Node
) -> None:
    for notebook_id, node in (("here", first), ("there", other)):
        nodes.table.give(notebook_id, node.name)
        await node.stubs.run(notebook_id, "value 1")
    async with flavours.client(flavour, first.socket) as client:
        for notebook_id in ("here", "there", "here", "there"):
            (execution,) = await client.list_executions(notebook_id)
            assert (await client.get_execution(notebook_id, execution.execution_id)).value == 1
        assert [each.notebook_id for each in await client.list_notebooks()] == ["here", "there"]
        assert [each.notebook_id for each in await client.list_sandboxes()] == ["here"]
        assert await client.set_labels("there", {"a": "b"}) == {"a": "b"}
        await client.delete_notebook("there")
        with pytest.raises(cellyard.NotebookNotFound):
            await client.get_execution("there", execution.execution_id)
        assert first.owns.asked.count(("own", "there")) == 1


async def test_a_notebook_that_moves_under_a_run_and_what_is_queued(
    flavour: str, nodes: Nodes, first: Node, other: Node
) -> None:
    shown = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with flavours.session(flavour, "nb", endpoint=first.socket) as session:
        assert (await session.run("value 0")).value == 0
        running = asyncio.ensure_future(
            session.run("print before\ngate never", on_output=lambda _: loop.call_soon_threadsafe(shown.set))
        )
        await asyncio.wait_for(shown.wait(), WITHIN)
        queued = await session.queue_cell(await session.create_cell("value 1"))
        await nodes.move("nb", first, other)
        lost = await asyncio.wait_for(running, WITHIN)
        assert (lost.end, lost.end_reason, lost.stdout) == ("lost", "node_lost", "before\n")
        behind = await session.get_execution(queued)
        assert (behind.end, behind.end_reason) == ("cancelled", "node_lost")
        assert (await session.run("value 2")).value == 2
        # Nothing was sent twice.
        assert [each.source for each in await all_of(other, "nb")] == [
            "value 2",
            "value 1",
            "print before\ngate never",
            "value 0",
        ]
        # And back again, between two calls.
        await nodes.move("nb", other, first)
        assert (await session.run("value 3")).value == 3
        assert (first.rooms.sessions, other.rooms.loaded) == (1, 0)


async def test_who_watches_and_edits_stays_with_a_notebook_that_moves(nodes: Nodes, first: Node, other: Node) -> None:
    async with cellyard.AsyncSession("nb", endpoint=first.socket) as session:
        document = await session.document()
        cell_id = document.create_cell("value 1")
        await document.wait_synced(WITHIN)
        watching = session.watch()
        snapshot = await anext(watching)
        assert isinstance(snapshot, events.Snapshot)
        await nodes.move("nb", first, other)
        snapshot = await asyncio.wait_for(anext(watching), WITHIN)
        assert isinstance(snapshot, events.Snapshot)
        assert [cell.source for cell in snapshot.cells] == ["value 1"]
        document.splice_source(cell_id, 7, 0, "1")
        await document.wait_synced(WITHIN)
        assert (await session.execute_cell(cell_id)).value == 11
        async with asyncio.timeout(WITHIN):
            async for event in watching:
                if isinstance(event, events.ExecutionEvent) and isinstance(event.event, events.Finished):
                    break
        assert event.event.result.value == 11
        await until(lambda: other.rooms.sessions == 1)
        await document.close()


async def test_an_owner_that_is_gone_is_forgotten(flavour: str, nodes: Nodes, first: Node, other: Node) -> None:
    nodes.table.give("nb", "b")
    async with flavours.session(flavour, "nb", endpoint=first.socket) as session:
        assert (await session.run("value 1")).value == 1
        await other.vanish()
        nodes.table.settling.add(ref("nb"))
        running = asyncio.ensure_future(session.run("value 2"))
        await until(lambda: first.owns.asked.count(("own", "nb")) >= 3)
        nodes.table.give("nb", "a")
        nodes.table.settling.clear()
        assert (await asyncio.wait_for(running, WITHIN)).value == 2
        assert await session.is_connected()


async def test_a_session_waits_for_an_owner_that_is_being_found_out(flavour: str, nodes: Nodes, first: Node) -> None:
    nodes.table.settling.add(ref("nb"))
    async with flavours.session(flavour, "nb", endpoint=first.socket) as session:
        running = asyncio.ensure_future(session.run("value 1"))
        await until(lambda: first.owns.asked.count(("own", "nb")) >= 2)
        nodes.table.settling.clear()
        assert (await asyncio.wait_for(running, WITHIN)).value == 1


async def test_controllers_that_disagree_are_not_asked_for_ever(
    flavour: str, first: Node, other: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_healing, "_FIRST_HOP_PAUSE_S", 0.001)
    first.owns.believes["nb"], other.owns.believes["nb"] = "b", "a"
    async with flavours.session(flavour, "nb", endpoint=first.socket) as session:
        with pytest.raises(cellyard.ControllerUnavailable, match="8 redirects in a row have not led") as refused:
            await session.run("value 1")
        assert refused.value.retryable
        assert (len(first.owns.asked), len(other.owns.asked)) == (5, 4)
        del other.owns.believes["nb"]
        other.owns.table.give("nb", "b")
        assert (await session.run("value 1")).value == 1


async def test_a_redirect_to_where_nobody_is(flavour: str, nodes: Nodes, first: Node) -> None:
    nodes.table.give("nb", "gone")
    nodes.table.endpoints["gone"] = f"unix:{nodes.folder}/gone.sock"
    async with flavours.session(flavour, "nb", endpoint=first.socket) as session:
        healing_for(session, 0.5)
        with pytest.raises(cellyard.ControllerUnavailable, match=r"gone\.sock.* within 0\.5 s"):
            await session.run("value 1")
        nodes.table.give("nb", "a")
        assert (await session.run("value 1")).value == 1


async def tenant(node: Node) -> str:
    """The token of a tenant that there was not before."""
    return str((await node.stubs.tenants.Create(te.CreateTenant(name="alice"))).token)


async def test_the_token_goes_along_and_one_that_is_refused_there_says_where(flavour: str, nodes: Nodes) -> None:
    first = await nodes.start("a", tcp=True)
    token = await tenant(first)
    other = await nodes.start("b", tcp=True)
    stranger = await nodes.start("c", tcp=True, shares=False)
    nodes.table.owners[ref("nb", "alice")] = "b"
    nodes.table.owners[ref("strange", "alice")] = "c"
    home = nodes.table.endpoints["a"]
    async with flavours.session(flavour, "nb", endpoint=home, token=token) as session:
        assert (await session.run("value 1")).value == 1
        assert other.rooms.sessions == 1
    async with flavours.session(flavour, "strange", endpoint=home, token=token) as session:
        with pytest.raises(cellyard.Unauthenticated, match=f"{nodes.table.endpoints['c']}, to which {home} redirects"):
            await session.run("value 1")
    assert not stranger.rooms.loaded


async def test_where_the_first_one_had_tls_nothing_goes_without(flavour: str, nodes: Nodes) -> None:
    authority = Authority(nodes.folder, "ours")
    pair = authority.sign("server", "127.0.0.1")
    tls = {"tls_cert": pair.cert, "tls_key": pair.key}
    first = await nodes.start("a", tcp=True, **tls)
    token = await tenant(first)
    other = await nodes.start("b", tcp=True, **tls)
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(65536))
        writer.close()

    plain = await asyncio.start_server(listen, "127.0.0.1", 0)
    nodes.table.endpoints["plain"] = "127.0.0.1:{1}".format(*plain.sockets[0].getsockname())
    nodes.table.owners[ref("nb", "alice")] = "b"
    nodes.table.owners[ref("bare", "alice")] = "plain"
    given: Any = {"endpoint": nodes.table.endpoints["a"], "token": token, "tls": cellyard.TLS(authority.ca)}
    async with plain:
        async with flavours.session(flavour, "nb", **given) as session:
            assert (await session.run("value 1")).value == 1
            assert other.rooms.sessions == 1
        async with flavours.session(flavour, "bare", **given) as session:
            healing_for(session, 0.5)
            with pytest.raises(cellyard.ControllerUnavailable):
                await session.run("value 1")
    assert heard[0] == 0x16  # a handshake
    assert token.encode() not in heard


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_moves_everything_runs_once(seed: int, nodes: Nodes) -> None:
    """Two sessions and a client work on while three nodes hand two notebooks about."""
    chance = random.Random(seed)
    several = [await nodes.start(name) for name in "abc"]
    by_name = {node.name: node for node in several}
    sent: dict[str, list[str]] = {"one": [], "two": []}
    begun, over = asyncio.Event(), False
    for notebook_id in sent:
        nodes.table.give(notebook_id, "a")
        await several[0].stubs.notebooks.SetMetadata(
            nb.SetMetadataRequest(notebook_id=notebook_id, request_id=notebook_id, key="made", value="{}")
        )

    async def work(notebook_id: str, home: Node) -> None:
        async with cellyard.AsyncSession(notebook_id, endpoint=home.socket) as session:
            for number in range(15):
                source = f"print {number}\nvalue {number}"
                sent[notebook_id].append(source)
                begun.set()
                result = await session.run(source)
                if result.end_reason != "node_lost":
                    assert (result.value, result.stdout) == (number, f"{number}\n")

    async def move() -> None:
        while not over:
            await begun.wait()  # moves come between and in the middle of runs, and no faster than these
            begun.clear()
            notebook_id, to = chance.choice(list(sent)), chance.choice(several)
            source = by_name[nodes.table.owners[ref(notebook_id)]]
            if to is not source:
                await nodes.move(notebook_id, source, to)
            async with cellyard.AsyncClient(chance.choice(several).socket) as client:
                await client.list_executions(notebook_id)

    moving = asyncio.ensure_future(move())
    async with asyncio.timeout(WITHIN):
        await asyncio.gather(work("one", several[0]), work("two", several[1]))
    over = True  # a move that has begun is finished: else nobody has the notebook
    begun.set()
    await moving
    for notebook_id, sources in sent.items():
        node = by_name[nodes.table.owners[ref(notebook_id)]]
        assert [each.source for each in reversed(await all_of(node, notebook_id))] == sources


async def test_the_command_line_follows(nodes: Nodes, first: Node, other: Node) -> None:
    nodes.table.give("nb", "b")
    (nodes.folder / "code.py").write_text("print from there\n")
    command = [sys.executable, "-m", "cellyard.cli", "run", "code.py", "--notebook", "nb", "--endpoint", first.socket]
    running = await asyncio.create_subprocess_exec(
        *command, cwd=nodes.folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(WITHIN):
        out, told = await running.communicate()
    assert (out, running.returncode) == (b"from there\n", 0), told
    assert len(await all_of(other, "nb")) == 1
