"""A task of the service: makes the node's controller, a container, and ends it when the task is to end.

A controller compares what sandboxes say of themselves with what the machine's /proc says of them, so it needs the
machine's numbers of processes (`pid: host`), which Swarm gives to no service. This program has the engine's socket and
makes a container that is set up as the task is (image, command, environment, mounts, capabilities), with these numbers.

Secrets are the task's alone; they go to the controller over a folder in the machine's memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, NotFound
from docker.types import LogConfig, Mount

SECRETS = Path("/run/secrets")
HANDED_OVER = Path("/run/cellyard/secrets")
"""In a folder that task and machine have under the same path."""
STOP_WITHIN_S = 75
"""Less than the stack's stop_grace_period, more than the controller takes."""


class TaskEnds(Exception):
    """Swarm wants the task to end."""


def main(command: list[str]) -> int:
    """Runs the controller as long as the task is there; returns its exit code."""
    signal.signal(signal.SIGTERM, _end)
    client = docker.from_env()
    task = client.containers.get(os.environ["TASK"])
    name = task.labels["com.docker.swarm.service.name"]
    _end_earlier(client, name)
    _hand_over_secrets()
    controller = client.containers.create(command=command, name=name, **_as_the_task(task))
    try:
        controller.start()
        said = threading.Thread(target=_pass_on, args=(controller,), daemon=True)
        said.start()
        try:
            code = controller.wait(timeout=None)["StatusCode"]
        except TaskEnds:
            controller.stop(timeout=STOP_WITHIN_S)
            code = controller.wait()["StatusCode"]
        said.join()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        controller.remove(force=True)
        shutil.rmtree(HANDED_OVER)
    return int(code)


def _end(*_: object) -> None:
    raise TaskEnds


def _end_earlier(client: docker.DockerClient, name: str) -> None:
    """Of a task that was killed, the controller is left. It keeps its sandboxes, as at every stop."""
    try:
        earlier = client.containers.get(name)
    except NotFound:
        return
    earlier.stop(timeout=STOP_WITHIN_S)
    earlier.remove(force=True)


def _hand_over_secrets() -> None:
    shutil.rmtree(HANDED_OVER, ignore_errors=True)
    HANDED_OVER.mkdir(mode=0o700)
    for secret in SECRETS.iterdir():
        with open(os.open(HANDED_OVER / secret.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
            file.write(secret.read_bytes())


def _as_the_task(task: Any) -> dict[str, Any]:
    """What containers are made with, in docker-py's words."""
    config, host = task.attrs["Config"], task.attrs["HostConfig"]
    mounts = [
        Mount(each["Target"], each["Source"], type=each["Type"], read_only=each.get("ReadOnly", False))
        for each in host["Mounts"]
        if each["Type"] == "bind"
    ]
    mounts += [Mount(each["Target"], None, type="tmpfs") for each in host["Mounts"] if each["Type"] == "tmpfs"]
    return {
        "image": task.attrs["Image"],
        "user": config["User"],
        "environment": [each for each in config["Env"] if not each.startswith("TASK=")],
        "mounts": [*mounts, Mount(str(SECRETS), str(HANDED_OVER), type="bind", read_only=True)],
        "read_only": host["ReadonlyRootfs"],
        "cap_add": host["CapAdd"],
        "cap_drop": host["CapDrop"],
        "security_opt": ["no-new-privileges:true"],
        "network_mode": "host",
        "pid_mode": "host",
        "log_config": LogConfig(type="local", config={"max-size": "16m", "max-file": "2"}),
    }


def _pass_on(controller: Any) -> None:
    """The service's log is the controller's."""
    try:
        for line in controller.logs(stream=True, follow=True):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    except APIError as failed:  # the controller goes on without its log being told
        print(f"the controller's log is not passed on: {failed}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except TaskEnds:  # before there was a controller
        sys.exit(0)
