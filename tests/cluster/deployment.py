"""The stack file, deployed to a real Swarm as an operator does it, with the program mounted in place of its image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from cryptography.fernet import Fernet

from tests.authority import Authority
from tests.cluster.machines import Machine
from tests.cluster.swarm import Swarm

PROJECT = Path(__file__).parents[2]
PACKAGING = PROJECT / "packaging" / "swarm"
STACK = "yard"
SERVICE = f"{STACK}_controller"
STARTED_WITHIN_S = 200.0


def stack(folder: Path, **settings: str) -> Path:
    """The file, with the program mounted and these settings of the controllers beside its own."""
    said: dict[str, Any] = yaml.safe_load((PACKAGING / "stack.yaml").read_text())
    service = said["services"]["controller"]
    program = [f"{sys.prefix}:/opt/controller:ro"]
    program += [f"{path}:{path}:ro" for path in sorted({str(PROJECT), sys.prefix, sys.base_prefix})]
    service["volumes"] = [*service["volumes"], *program]
    service["environment"] |= settings
    said["configs"]["launch"]["file"] = str(PACKAGING / "launch.py")
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump(said))
    return path


def deploy(machine: Machine, file: Path, **variables: str) -> None:
    """Deploys it. `variables`: those that the file asks for."""
    command = ["docker", "-H", machine.engine, "stack", "deploy", "--resolve-image", "never"]
    done = subprocess.run(
        [*command, "--compose-file", str(file), STACK], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def make_ready(swarm: Swarm, folder: Path, image: str) -> Authority:
    """Nodes and secrets as the README wants them; returns the authority behind the controllers' certificate."""
    ours = Authority(folder)
    pair = ours.sign("controllers", *(node.address for node in swarm.nodes))
    (folder / "password").write_text("not asked for")
    (folder / "key").write_bytes(Fernet.generate_key())
    files = {
        "postgres_password": folder / "password",
        "key": folder / "key",
        "tls_cert": pair.cert,
        "tls_key": pair.key,
    }
    for name, path in files.items():
        swarm.nodes[0].docker("secret", "create", f"cellyard_{name}", str(path))
    for node in swarm.nodes:
        _prepare(node, image)
    return ours


def task(node: Machine) -> str:
    """The container of the service's task. The controller's own has no more than the service's name."""
    return node.docker("ps", "--quiet", "--filter", f"name={SERVICE}[.]").strip()


def healthy(node: Machine) -> bool:
    """Whether the task's controller answers."""
    return bool(node.docker("ps", "--quiet", "--filter", f"name={SERVICE}[.]", "--filter", "health=healthy").strip())


def operate(node: Machine, *command: str) -> str:
    """What the operator's command says, on a node."""
    return node.docker("exec", task(node), "cellyard", *command)


def take_down(swarm: Swarm) -> None:
    """Removes the stack, and waits until nothing of it is there."""
    swarm.nodes[0].docker("stack", "rm", STACK)
    names = ("ps", "--all", "--filter", f"name={SERVICE}", "--quiet")
    swarm.until(lambda: not any(node.docker(*names) for node in swarm.nodes))


def _prepare(machine: Machine, image: str) -> None:
    """Folders, and an image whose program is where the mounted one will be."""
    for path in ("/var/lib/cellyard", "/run/cellyard"):
        machine.run("mkdir", "--mode=0700", path)
    made = machine.docker("create", image).strip()
    change = ["--change", "ENV PATH=/opt/controller/bin:/usr/bin:/bin", "--change", "USER 0"]
    machine.docker("commit", *change, made, "cellyard-controller:latest")
    machine.docker("rm", made)
