"""Several controllers on one PostgreSQL, with containers that outlive them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellyard
from tests.integration.cluster.nodes import LEASE_S, Nodes

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@pytest.fixture
def two(folder: Path, database: str, built_image: str) -> Iterator[Nodes]:
    nodes = Nodes(folder, database, runtime="docker", CELLYARD_ON_STOP="keep")
    nodes.start("a")
    nodes.start("b")
    yield nodes
    nodes.close()


def _node(client: cellyard.Client, name: str) -> cellyard.NodeInfo:
    return next(each for each in client.list_nodes() if each.name == name)


def _until_renewed(client: cellyard.Client, name: str) -> None:
    left = _node(client, name).lease_left_s
    while (now := _node(client, name).lease_left_s) <= left:
        left = now
        time.sleep(0.05)


def _queue(session: cellyard.Session, source: str) -> str:
    return session.queue_cell(session.create_cell(source))


def test_a_controller_that_was_stopped_to_come_back_is_waited_for(two: Nodes) -> None:
    name, session = two.on("b", at="a")
    session.run("kept = 42")
    running = _queue(session, "import time; time.sleep(3); 'done'")
    two.process("b").stop()
    with two.client("a") as client:
        assert {node.name: node.state for node in client.list_nodes()}["b"] == "away"
    time.sleep(LEASE_S)  # longer than a lease, which a stopped controller is waited for beyond
    two.start("b")
    with two.session(name, "a") as again:
        assert again.run("kept").value == 42, "the kernel went on"
        with two.client("a") as client:
            done = client.get_execution(name, running)
            assert (done.end, done.value) == ("succeeded", "done")


def test_a_node_whose_engine_is_away_is_given_no_notebook(folder: Path, database: str, built_image: str) -> None:
    nodes = Nodes(folder, database, runtime="docker")
    try:
        nodes.start("a")
        nodes.start("broken", env={"DOCKER_HOST": f"unix://{folder}/nobody", "CELLYARD_POOL__SIZE": "1"})
        with nodes.client("a") as client:
            while not _node(client, "broken").failing:
                time.sleep(0.1)  # nothing tells of it
            for _ in range(2):  # and with the next renewal of its lease it has read so itself
                _until_renewed(client, "broken")
        for number in range(12):
            with nodes.session(f"nb-{number}", at="broken") as session:
                assert session.run("1").value == 1
                session.shutdown_kernel()
    finally:
        nodes.close()


def test_containers_of_a_controller_that_is_gone_end_with_its_lease(two: Nodes) -> None:
    name, session = two.on("b", at="a")
    process = two.process("b")
    assert [container.status for container in process.containers() if container.status == "running"]
    process.kill()
    with two.session(name, "a") as again:
        assert again.run("1").value == 1
        assert not [container for container in process.containers() if container.status == "running"]
    session.close()
    two.start("b")
    assert not [container for container in process.containers() if container.status == "exited"]
