"""Machines of the tests' own: a real Swarm, with nodes that are cut off and engines that are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

import cellyard
from tests.cluster.controllers import PROGRAM, NodeController, until_proven
from tests.cluster.machines import Machine, Machines
from tests.cluster.swarm import Swarm
from tests.postgres_server import PostgresServer

# Images are copied and three engines started: half a minute. The rest is waiting for a Swarm to notice.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]

NODES = ("node1", "node2", "node3")


@pytest.fixture
def controllers(machines: Machines) -> Iterator[list[NodeController]]:
    """One on each machine, not started."""
    controllers = [NodeController(machine) for machine in machines.machines]
    yield controllers
    for controller in controllers:
        controller.close()


def test_a_controller_on_each_machine_runs_code_for_who_comes_from_outside(controllers: list[NodeController]) -> None:
    def run(controller: NodeController) -> str:
        controller.start()
        token = controller.token("alice")
        with cellyard.Client(controller.endpoint, token) as client:
            until_proven(client)
        ran = subprocess.run(
            [PROGRAM, "run", "-", "--endpoint", controller.endpoint],
            input="print(6 * 7)",
            env={**os.environ, "CELLYARD_TOKEN": token},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr + controller.log.read_text()
        assert controller.stop() == 0
        assert not controller.machine.docker("ps", "--quiet")
        return ran.stdout

    # One after the other: three at once would take longer on a machine with two processors.
    assert [run(controller) for controller in controllers] == ["42\n"] * len(NODES)
    ids = {controller.machine.docker("info", "--format", "{{.ID}}") for controller in controllers}
    assert len(ids) == len(NODES)


def test_a_database_on_this_machine_is_reached_until_the_cable_is_cut(machines: Machines) -> None:
    server = PostgresServer(host=machines.address)
    try:
        (_, node, other) = machines.machines

        def ask(machine: Machine, within_s: int) -> None:
            connect = f"psycopg.connect({server.url()!r}, connect_timeout={within_s}).execute('SELECT 1')"
            machine.run(sys.executable, "-c", f"import psycopg; {connect}")

        ask(node, 60)
        machines.cut(node)
        with pytest.raises(AssertionError, match="connection"):
            ask(node, 2)
        ask(other, 60)
        machines.join(node)
        ask(node, 60)
        with psycopg.connect(server.url()) as connection:
            connection.execute("SELECT 1")
    finally:
        server.close()


def test_a_swarm_notices_a_node_that_is_cut_off_and_an_engine_that_is_killed(
    machines: Machines, swarm: Swarm, built_image: str
) -> None:
    first, second, third = swarm.nodes
    first.docker("service", "create", "--detach", "--quiet", "--name", "everywhere", "--mode", "global",
                 "--no-resolve-image", "--network", "host", built_image, "sleep", "inf")  # fmt: skip
    swarm.until(lambda: set(swarm.running("everywhere")) == set(NODES))

    machines.cut(third)
    swarm.until(lambda: swarm.states() == {"node1": "Ready", "node2": "Ready", "node3": "Down"})
    machines.join(third)
    swarm.until(lambda: set(swarm.states().values()) == {"Ready"})

    container = json.loads(second.docker("ps", "--format", "{{json .}}"))["ID"]
    second.kill_engine()
    swarm.until(lambda: swarm.states()["node2"] == "Down")
    second.start_engine()
    swarm.until(lambda: set(swarm.states().values()) == {"Ready"})
    swarm.until(lambda: set(swarm.running("everywhere")) == set(NODES))
    assert container not in second.docker("ps", "--quiet"), "an engine that was killed ends its containers at its start"
    first.docker("service", "rm", "everywhere")
