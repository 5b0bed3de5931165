"""The compose file: a controller in a container as the file says it, with the program mounted in place of its image."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

import cellyard

pytestmark = pytest.mark.docker

PACKAGING = Path(__file__).parents[2] / "packaging" / "compose"
PROJECT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("cellyard")
WITHIN = 60.0
KNOWN = {
    *("build", "image", "command", "user", "pid", "network_mode", "environment", "volumes", "read_only", "tmpfs"),
    *("cap_drop", "cap_add", "security_opt", "healthcheck", "stop_grace_period", "restart"),
}


@pytest.fixture
def service() -> dict[str, Any]:
    """What the file says of the controller."""
    (service,) = yaml.safe_load((PACKAGING / "compose.yaml").read_text())["services"].values()
    assert service.keys() <= KNOWN, "what is new here is to be tried here"
    return dict(service)


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=60)
    yield client
    client.close()


def test_a_controller_in_a_container_gives_proven_sandboxes_and_ends_when_it_is_stopped(
    built_image: str, folder: Path, service: dict[str, Any], client: docker.DockerClient
) -> None:
    (folder / "data").mkdir()
    (folder / "run").mkdir()

    def here(text: str) -> str:
        return text.replace("/var/lib/cellyard", f"{folder}/data").replace("/run/cellyard", f"{folder}/run")

    socket = f"unix:{folder}/run/controller.sock"
    environment = {name: here(str(value)) for name, value in service["environment"].items()}
    assert environment["CELLYARD_LISTEN"] == socket
    environment |= {"CELLYARD_HTTP__LISTEN": "127.0.0.1:0", "CELLYARD_POOL__SIZE": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    given = [here(each).replace("/var/run/docker.sock:", f"{engine}:") for each in service["volumes"]]
    program = {str(path) for path in (PROJECT, Path(sys.prefix), Path(sys.base_prefix))}
    name, *arguments = service["command"]
    assert name == "cellyard"
    container = client.containers.create(
        built_image,
        [str(PROGRAM), *[argument.replace("keep", "remove") for argument in arguments]],
        user=service["user"],
        pid_mode=service["pid"],
        network_mode=service["network_mode"],
        environment=environment,
        volumes=[*given, *(f"{path}:{path}:ro" for path in sorted(program))],
        read_only=service["read_only"],
        tmpfs={} if str(folder).startswith(tuple(service["tmpfs"])) else dict.fromkeys(service["tmpfs"], ""),
        cap_drop=service["cap_drop"],
        cap_add=service["cap_add"],
        security_opt=service["security_opt"],
    )
    try:
        container.start()
        healthy = [here(word) for word in service["healthcheck"]["test"][1:]]
        command = [str(PROGRAM) if word == "cellyard" else word for word in healthy]
        give_up = time.monotonic() + WITHIN
        while container.exec_run(command).exit_code != 0:
            assert time.monotonic() < give_up, container.logs().decode()
            time.sleep(0.2)
        with cellyard.Session(endpoint=socket, require={"container_isolation", "network_isolation"}) as session:
            assert session.run("6 * 7").value == 42
        container.stop(timeout=int(service["stop_grace_period"].removesuffix("s")))
        assert container.wait(timeout=WITHIN)["StatusCode"] == 0, container.logs().decode()
    finally:
        container.remove(force=True)
    assert not any((folder / "data" / "link").iterdir())
