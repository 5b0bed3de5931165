"""The stack file, deployed to a real Swarm: a controller on each node, the program mounted in place of its image."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import cellyard
from tests.cluster.controllers import PORT, PROGRAM, until_proven
from tests.cluster.deployment import (
    SERVICE,
    STARTED_WITHIN_S,
    deploy,
    healthy,
    make_ready,
    operate,
    stack,
    take_down,
    task,
)
from tests.cluster.machines import Machine
from tests.cluster.swarm import Swarm

# Half a minute until the Swarm is there, as long until its controllers have started, and again after they were ended.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

NODES = ("node1", "node2")
STORE = {"CELLYARD_STORE__URL": "", "CELLYARD_STORE__BLOBS": "folder"}
"""The one thing that is otherwise than the file says: each controller has SQLite's file."""


def run_from_outside(node: Machine, ca: Path, token: str) -> str:
    """What a cell prints in the notebook that another session has, too."""
    command = [PROGRAM, "run", "-", "--endpoint", f"{node.address}:{PORT}", "--notebook", "kept"]
    ran = subprocess.run(
        command,
        input="print(kept)",
        env={**os.environ, "CELLYARD_TOKEN": token, "CELLYARD_CA": str(ca)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_each_node_has_a_controller_that_proves_its_sandboxes_and_keeps_them_when_the_task_ends(
    swarm: Swarm, folder: Path, built_image: str
) -> None:
    first, second = swarm.nodes
    ours = make_ready(swarm, folder, built_image)
    deploy(first, stack(folder, CELLYARD_POOL__SIZE="0"), **STORE)
    swarm.until(lambda: set(swarm.running(SERVICE)) == set(NODES), STARTED_WITHIN_S)
    assert all(map(healthy, swarm.nodes)), "a task runs, to a Swarm, once its health check has succeeded"
    before = swarm.running(SERVICE)
    for node in swarm.nodes:
        settings = json.loads(node.docker("inspect", SERVICE))[0]
        assert settings["HostConfig"]["PidMode"] == "host"
        assert f"CELLYARD_NODE__NAME={node.name}" in settings["Config"]["Env"]
        assert f"CELLYARD_NODE__ENDPOINT={node.name}:{PORT}" in settings["Config"]["Env"]
        assert "not asked for" not in json.dumps(settings)

    def come_in(node: Machine) -> cellyard.Session:
        token = operate(node, "tenants", "create", "alice").split()[-1]
        endpoint, tls = f"{node.address}:{PORT}", cellyard.TLS(ours.ca)
        with cellyard.Client(endpoint, token, tls=tls) as client:
            until_proven(client)
        session = cellyard.Session("kept", endpoint=endpoint, token=token, tls=tls)
        session.run("kept = 42")
        assert run_from_outside(node, ours.ca, token) == "42\n"
        return session

    sessions = [come_in(node) for node in swarm.nodes]
    first.docker("stop", "--time", "90", task(first))
    second.docker("kill", task(second))  # its controller is left, and the next task finds it
    swarm.until(lambda: {**before, **swarm.running(SERVICE)}.items().isdisjoint(before.items()), STARTED_WITHIN_S)
    for session in sessions:
        assert session.run("kept").value == 42
        session.close()

    take_down(swarm)
    assert not any(node.path("/run/cellyard/secrets").exists() for node in swarm.nodes)
