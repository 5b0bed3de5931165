"""Somebody does something to containers by hand, while the controller is there or while none is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing

import docker
import pytest

from tests.chaos.cells import Running, until
from tests.controller_process import Process

pytestmark = pytest.mark.docker

SLEEPS = ["python3", "-c", "import time; time.sleep(600)"]
EARLIER = {"CELLYARD_SANDBOXES__PING_INTERVAL": "3"}
"""An agent that does not answer is given up after 12 s instead of 20."""


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    """The engine, spoken to directly."""
    with closing(docker.from_env(timeout=30)) as client:
        yield client


def update(option: str, value: str, running: Running, *more: str) -> None:
    """What docker-py cannot say."""
    subprocess.run(["docker", "update", option, value, *more, running.container.id], check=True, capture_output=True)


def there(container: docker.models.containers.Container) -> bool:
    try:
        container.reload()
    except docker.errors.NotFound:
        return False
    return bool(container.status == "running")


def test_containers_that_are_killed_paused_or_removed_end_their_notebooks_kernels_alone(process: Process) -> None:
    process.start(env=EARLIER)
    killed, paused, removed, left = (Running(process, name) for name in ("killed", "paused", "removed", "left"))
    killed.container.kill()
    paused.container.pause()
    removed.container.remove(force=True)

    end, why = killed.end()
    assert (end, "exit code 137" in why) == ("lost", True), why
    end, why = removed.end()
    assert end == "lost"
    assert "is gone" in why or "exit code 137" in why, why  # whichever the controller saw of it
    end, why = paused.end()
    assert (end, "does not answer" in why) == ("lost", True), why
    until(lambda: [each.id for each in process.containers()] == [left.container.id])
    for each in (killed, paused, removed):
        assert each.session.run("6 * 7").value == 42
    assert left.same_kernel()


def test_sandboxes_whose_settings_were_changed_while_no_controller_was_there_are_not_gone_on_with(
    process: Process,
) -> None:
    process.start()
    pids, memory, left = (Running(process, name) for name in ("pids", "memory", "left"))
    process.kill()
    update("--pids-limit", "4096", pids)
    update("--memory", "2g", memory, "--memory-swap", "2g")

    process.start()
    for changed, says in ((pids, "its pids.max is 4096, not 256"), (memory, "its memory.max is 2147483648, not ")):
        end, why = changed.end()
        assert end == "lost"
        assert says in why
    until(lambda: [each.id for each in process.containers()] == [left.container.id])
    assert left.same_kernel()
    assert pids.session.run("6 * 7").value == 42


def test_only_what_is_ours_and_unknown_is_removed(
    process: Process, engine: docker.DockerClient, built_image: str
) -> None:
    process.start()
    known = Running(process, "known")
    ours, sandbox = (known.container.labels[f"cellyard.{name}"] for name in ("controller", "sandbox"))
    process.kill()

    def made(**labels: str) -> docker.models.containers.Container:
        named = {f"cellyard.{name}": value for name, value in labels.items()}
        return engine.containers.run(built_image, SLEEPS, labels=named, network_mode="none", detach=True)

    unknown = [made(controller=ours, sandbox="sb-000000000000"), made(controller=ours, sandbox=sandbox)]
    others = [made(controller="0" * 32, sandbox=sandbox), made(sandbox=sandbox), made()]
    try:
        process.start()
        until(lambda: not any(there(each) for each in unknown))
        assert all(there(each) for each in others)
        assert known.same_kernel()
        assert process.stop() == 0
        assert not there(known.container)
        assert all(there(each) for each in others)
    finally:
        for each in (*unknown, *others):
            try:
                each.remove(force=True)
            except docker.errors.NotFound:
                pass  # as it should be, of the unknown ones
