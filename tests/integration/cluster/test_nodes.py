"""Several controllers on one PostgreSQL: where notebooks go, and what becomes of them when a node goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from cryptography.fernet import Fernet
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.cluster.nodes import LEASE_S, Nodes
from tests.integration.cluster.slow_way import slow_way
from tests.postgres_server import PostgresServer

import cellyard
from cellyard_proto.v1 import executions_pb2, executions_pb2_grpc, notebooks_pb2, notebooks_pb2_grpc

pytestmark = pytest.mark.timeout(240)

PROGRAM = str(Path(sys.executable).with_name("cellyard"))
ANSWERS_WITHIN_S = 60.0
"""Generous: the machine may be busy with other tests."""


@pytest.fixture
def nodes(folder: Path, database: str) -> Iterator[Nodes]:
    nodes = Nodes(folder, database)
    yield nodes
    nodes.close()


@pytest.fixture
def two(nodes: Nodes) -> Nodes:
    nodes.start("a")
    nodes.start("b")
    return nodes


@contextmanager
def database_apart(folder: Path, **env: str) -> Iterator[tuple[PostgresServer, Nodes]]:
    """Nodes on a server of their own, that can be paused and stopped."""
    server = PostgresServer()
    try:
        nodes = Nodes(folder, server.create(), **env)
        try:
            yield server, nodes
        finally:
            nodes.close()
    finally:
        server.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _queue(session: cellyard.Session, source: str) -> str:
    return session.queue_cell(session.create_cell(source))


def _until(what: str, seen: object) -> None:
    """Nothing tells of it: it is looked for until it is so."""
    assert callable(seen)
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    while not seen():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _leave(endpoint: str, notebook: str, sources: list[str]) -> list[str]:
    """Has cells run, and is gone: no session is there that would ask what becomes of them."""
    with grpc.insecure_channel(endpoint) as channel:
        stub = executions_pb2_grpc.ExecutionsStub(channel)
        return [
            stub.Enqueue(
                executions_pb2.Start(
                    notebook_id=notebook,
                    request_id=source,
                    source=executions_pb2.NewCell(cell_id=source, source=source),
                )
            ).execution_id
            for source in sources
        ]


def test_notebooks_go_to_several_nodes_and_any_controller_leads_there(two: Nodes) -> None:
    seen = set()
    for number in range(12):
        with two.session(f"notebook-{number}", "a") as session:
            assert session.run(f"mine = {number}; mine").value == number
            seen.add(two.where(f"notebook-{number}", "b"))
            with two.session(f"notebook-{number}", "b") as other:
                assert other.run("mine").value == number, "the same kernel, whichever node was asked"
        if seen == {"a", "b"}:
            break
    assert seen == {"a", "b"}
    with two.client("a") as client:
        here = {node.name: node for node in client.list_nodes()}
        assert client.server().node == "a"
        assert sorted(here) == ["a", "b"]
        assert [here[name].this_one for name in ("a", "b")] == [True, False]
        assert {node.state for node in here.values()} == {"serving"}
        assert here["b"].endpoint == two.process("b").endpoint
        assert {notebook.notebook_id for notebook in client.list_notebooks()} >= {"notebook-0"}


def test_a_node_that_dies_loses_what_ran_there_and_nothing_else(two: Nodes, folder: Path) -> None:
    name, session = two.on("b", at="a")
    traces = folder / "traces"
    running = _queue(session, f"open({str(traces)!r}, 'a').write('x'); import time; time.sleep(600)")
    _until("the cell does not run", traces.exists)
    waiting = _queue(session, "'never'")
    kernel = int((folder / "b" / "data" / "controller.pid").read_text())
    two.process("b").kill()
    assert not _alive(kernel)

    with two.session(name, "a") as again:
        assert again.run("'session' in globals()").value is False, "a new kernel, elsewhere"
        assert two.where(name, "a") == "a"
        with two.client("a") as client:
            lost = client.get_execution(name, running)
            cancelled = client.get_execution(name, waiting)
            assert (lost.end, lost.end_reason) == ("lost", "node_lost")
            assert (cancelled.end, cancelled.end_reason) == ("cancelled", "node_lost")
            states = {node.name: node.state for node in client.list_nodes()}
            assert states == {"a": "serving", "b": "lost"}
    assert traces.read_text() == "x", "what ran is never sent again"

    two.start("b")  # what it had is others' now: it begins with nothing
    two.on("b", at="a")


def test_a_paused_controller_writes_nothing_once_its_lease_is_over_and_its_kernels_are_gone(
    two: Nodes, folder: Path
) -> None:
    name, session = two.on("b", at="a")
    pid = session.run("import os; os.getpid()").value
    ticks = folder / "ticks"
    _queue(
        session,
        f"import time\nwhile True:\n    open({str(ticks)!r}, 'a').write('x')\n    print('tick')\n    time.sleep(0.05)",
    )
    _until("the cell does not run", ticks.exists)
    two.pause("b")
    with two.session(name, "a") as again:
        assert again.run("'elsewhere'").value == "elsewhere"
        assert not _alive(pid), "another kernel runs only when this one is gone"
        ticked = ticks.stat().st_size
        shown = len(again.get_cells())
        two.resume("b")
        process = two.process("b").process
        assert process is not None
        assert process.wait(60) == 3
        assert "this node has lost its lease" in two.process("b").log.read_text()
        assert again.run("'still'").value == "still"
        assert len(again.get_cells()) == shown + 1
    assert ticks.stat().st_size == ticked
    two.start("b")


def test_a_drained_node_keeps_what_runs_and_gets_nothing_new(two: Nodes) -> None:
    busy, session = two.on("b", at="a")
    idle, other = two.on("b", at="a")
    other.shutdown_kernel()  # its kernel, not the notebook
    other.close()
    with two.client("a") as client, pytest.raises(cellyard.errors.CellyardError, match="no node 'nobody'"):
        client.drain_node("nobody")
    with two.client("a") as client:
        client.drain_node("b")
        _until("b does not drain", lambda: {n.name: n.state for n in client.list_nodes()}["b"] == "draining")
        for number in range(8):
            with two.session(f"new-{number}", "b") as new:
                new.run("1")
                assert two.where(f"new-{number}", "a") == "a"
        assert session.run("'it goes on'").value == "it goes on"
        assert two.where(busy, "a") == "b"
        with two.session(idle, "b") as moved:
            moved.run("1")
            assert two.where(idle, "a") == "a"
        session.close()
        _until("what it has is not given up", lambda: {n.name: n.notebooks for n in client.list_nodes()}["b"] == 0)
        client.resume_node("b")
        _until("b does not serve", lambda: {n.name: n.state for n in client.list_nodes()}["b"] == "serving")
    two.on("b", at="a")


def test_the_commands_show_nodes_and_empty_them(two: Nodes) -> None:
    at = ["--endpoint", two.process("a").endpoint]

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([PROGRAM, *words, *at], capture_output=True, text=True, timeout=60)

    name, session = two.on("b", at="a")
    told = [line.split() for line in command("nodes", "list").stdout.splitlines()]
    assert [(line[0], line[-6]) for line in told] == [("a", "serving"), ("b", "serving")]
    assert told[0][1:3] == ["(this", "one)"]
    there = [line.split() for line in command("sandboxes", "list").stdout.splitlines()]
    assert [(line[3], line[-1]) for line in there if name in line] == [(name, "b")]
    assert json.loads(command("nodes", "list", "--json").stdout)[1]["failing"] is False
    refused = command("nodes", "drain", "nobody")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no node 'nobody'" in refused.stderr
    assert command("nodes", "drain", "b").returncode == 0
    _until("b does not drain", lambda: "draining" in command("nodes", "list").stdout)
    assert command("nodes", "resume", "b").returncode == 0
    _until("b does not serve", lambda: "draining" not in command("nodes", "list").stdout)
    session.close()


def test_metrics_tell_of_the_lease_and_of_all_nodes(nodes: Nodes) -> None:
    nodes.start("a", env={"CELLYARD_HTTP__LISTEN": "127.0.0.1:0"})
    nodes.start("b")
    data = nodes.process("a").folder / "data"
    console = (data / "http.address").read_text().strip()
    asked = urllib.request.Request(
        console.replace("/console/", "/metrics"),
        headers={"Authorization": f"Bearer {(data / 'http.token').read_text().strip()}"},
    )

    def told(name: str, **labels: str) -> float | None:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = (sample for family in families for sample in family.samples)
        return next((each.value for each in samples if (each.name, each.labels) == (name, labels)), None)

    _until("both serve", lambda: told("cellyard_nodes", state="serving") == 2)
    assert 0 < (told("cellyard_lease_left_seconds") or 0) <= LEASE_S
    nodes.process("b").stop()
    _until("b is gone", lambda: told("cellyard_nodes", state="serving") == 1)


def test_two_controllers_of_one_name_and_one_with_another_key_are_refused(nodes: Nodes, folder: Path) -> None:
    first = nodes.start("a")
    code, said = nodes.refused("a", "copy")
    assert code == 3
    assert f"another controller is node 'a', at {first.endpoint}" in said
    other_key = folder / "other-key"
    other_key.write_bytes(Fernet.generate_key())
    code, said = nodes.refused("b", "stranger", env={"CELLYARD_STORE__KEY_FILE": str(other_key)})
    assert code == 3
    assert "sealed with another key" in said
    no_key = folder / "no-key"
    no_key.write_text("nonsense")
    code, said = nodes.refused("b", "stranger", env={"CELLYARD_STORE__KEY_FILE": str(no_key)})
    assert code == 2
    assert "store.key_file" in said
    assert first.process is not None
    assert first.process.poll() is None


def test_tenants_and_tokens_that_one_controller_changes_hold_on_all(two: Nodes) -> None:
    with two.client("a") as at_a, two.client("b") as at_b:
        issued = at_a.create_tenant("acme", {"notebooks": 7})
        _until("b does not hear of it", lambda: [t.name for t in at_b.list_tenants()] == ["acme"])

        def known(name: str) -> bool:
            with cellyard.Client(two.process(name).endpoint, issued.token) as client:
                try:
                    return bool(client.tenant().name == "acme")
                except cellyard.errors.CellyardError:
                    return False

        _until("b does not know the token", lambda: known("b"))
        at_a.revoke("acme")
        _until("b still knows the token", lambda: not known("b"))


def test_a_lease_that_cannot_be_renewed_ends_kernels_and_what_was_accepted_is_kept(folder: Path) -> None:
    with database_apart(folder) as (server, nodes):
        nodes.start("a")
        with nodes.session("kept", "a") as session:
            pid = session.run("import os; os.getpid()").value
            running = _queue(session, "import time; time.sleep(600)")
            waiting = _queue(session, "2")
            server.pause()
            process = nodes.process("a").process
            assert process is not None
            assert process.wait(90) == 3, "it waits for no answer that does not come"
            assert not _alive(pid)
            server.resume()
            nodes.start("a")
            ends = [session.get_execution(each) for each in (running, waiting)]
            assert [end.end for end in ends] == ["lost", "cancelled"]
            assert session.run("1").value == 1


def test_who_waits_for_a_database_that_hangs_is_free_as_soon_as_the_lease_is_lost(folder: Path) -> None:
    with database_apart(folder) as (server, nodes):
        nodes.start("a")
        process = nodes.process("a").process
        assert process is not None
        with nodes.session("kept", "a") as session, grpc.insecure_channel(nodes.process("a").endpoint) as channel:
            session.run("1")
            _queue(session, "import time; time.sleep(600)")
            notebooks = notebooks_pb2_grpc.NotebooksStub(channel)
            server.pause()
            listed = notebooks.List.future(notebooks_pb2.ListNotebooks(), timeout=60)
            cells = notebooks.ListCells.future(notebooks_pb2.ListCellsRequest(notebook_id="new"), timeout=60)
            assert {listed.code(), cells.code()} == {grpc.StatusCode.UNAVAILABLE}
            assert process.poll() is None, "its end is not what told them"
            assert process.wait(30) == 3


def test_a_node_whose_database_hangs_ends_though_it_has_nothing_to_do(folder: Path) -> None:
    with database_apart(folder) as (server, nodes):
        nodes.start("a")
        process = nodes.process("a").process
        assert process is not None
        server.pause()
        assert process.wait(30) == 3


def test_a_short_break_of_the_database_costs_nothing(folder: Path) -> None:
    with database_apart(folder, CELLYARD_NODE__LEASE="10") as (server, nodes):
        nodes.start("a")
        with nodes.session("kept", "a") as session:
            session.run("kept = 1")
            running = _queue(session, "import time; time.sleep(1); 'ended meanwhile'")
            server.stop()
            with ThreadPoolExecutor() as pool:
                pending = pool.submit(session.run, "kept")  # while the database is away
                server.start()
                assert pending.result(ANSWERS_WITHIN_S).value == 1
            assert session.wait(running).value == "ended meanwhile"


def test_who_asks_while_the_database_is_away_may_ask_again(folder: Path) -> None:
    """Each time: the first edit finds it gone, and those after it the document unread since."""
    with database_apart(folder, CELLYARD_NODE__LEASE="10") as (server, nodes):
        nodes.start("a")
        with nodes.session("kept", "a") as session:
            session.create_cell("'before'")
            session._transport.reconnect_s = 0.0
            server.stop()
            for _ in range(3):
                with pytest.raises(cellyard.ControllerUnavailable) as refused:
                    session.create_cell("'while it is away'")
                assert refused.value.retryable, refused.value
                with pytest.raises(cellyard.ControllerUnavailable) as refused:
                    session.get_cells()
                assert refused.value.retryable, refused.value
            server.start()
            assert [each.source for each in session.get_cells()] == ["'before'"]
            session.create_cell("'after'")
            assert [each.source for each in session.get_cells()] == ["'before'", "'after'"]


def test_a_slow_way_to_the_database_costs_time_and_nothing_else(folder: Path, database: str) -> None:
    with slow_way(database, 0.05) as (way, url):
        nodes = Nodes(folder, url)
        try:
            nodes.start("a")
            with nodes.session("slow", "a") as session:
                pid = session.run("import os; os.getpid()").value
                began, before = time.monotonic(), way.messages
                while time.monotonic() < began + 2 * LEASE_S:
                    assert session.run("os.getpid()").value == pid
                assert way.messages > before
            with nodes.client("a") as client:
                (node,) = client.list_nodes()
                assert (node.state, node.fence) == ("serving", 1), "it has had one lease all the time"
        finally:
            nodes.close()


def test_what_waits_for_room_goes_where_there_is_some(folder: Path, database: str) -> None:
    """A node is added to a cluster that is full: what waits for that runs there, whether its client is still there."""
    nodes = Nodes(folder, database, CELLYARD_CAPACITY__SANDBOXES="1")
    try:
        nodes.start("a")
        with nodes.session("full", "a") as first:
            pid = first.run("import os; os.getpid()").value
            left = _leave(nodes.process("a").endpoint, "left", ["'ran'", "'ran too'"])
            with nodes.session("followed", "a") as session, ThreadPoolExecutor() as pool:
                followed = pool.submit(session.run, "'ran'")
                with nodes.client("a") as client:
                    _until("it does not wait", lambda: client.list_nodes()[0].waiting == 2)
                    nodes.start("b")
                    _until("nobody runs it", lambda: client.get_execution("left", left[1]).end)
                    assert [client.get_execution("left", each).value for each in left] == ["ran", "ran too"]
                    assert nodes.where("left", "a") == "b"
                    nodes.start("c")
                    assert followed.result(ANSWERS_WITHIN_S).value == "ran"
                    assert nodes.where("followed", "a") == "c"
            assert first.run("os.getpid()").value == pid, "who has a kernel keeps it"
    finally:
        nodes.close()


def test_an_end_by_signal_leaves_no_notebook_behind(two: Nodes) -> None:
    name, session = two.on("b", at="a")
    process = two.process("b").process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    with two.session(name, "a") as again:
        assert again.run("1").value == 1
        assert two.where(name, "a") == "a"
    session.close()
