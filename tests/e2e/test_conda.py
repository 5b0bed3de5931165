"""Environments of conda packages in real containers: solved and linked outside, and the kernel runs on their Python."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellyard
from tests.conda_channel import PLACEHOLDER, CondaChannel, File
from tests.conda_python import add_kernel, add_python
from tests.controller_process import Process

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]  # environments of an interpreter, made and compiled
WAIT_S = 100.0


@pytest.fixture(scope="module")
def channel(built_image: str) -> Iterator[CondaChannel]:
    channel = CondaChannel()
    add_python(channel, built_image)
    add_kernel(channel)
    channel.add("tiny", "1.0", {"site-packages/tiny.py": "ANSWER = 42\n"}, ["python", "tool"])
    program = f"#!{PLACEHOLDER}/bin/python\nimport tiny\nprint('hello', tiny.ANSWER)\n"
    tool = {
        "bin/hello": File(program.encode(), 0o755, "text"),
        "bin/.tool-post-link.sh": File(b"#!/bin/sh\nexit 1\n", 0o755),
    }
    channel.add("tool", "2.0", tool, noarch=False)
    yield channel
    channel.close()


@pytest.fixture(scope="module")
def env(channel: CondaChannel) -> Iterator[dict[str, str]]:
    """What a controller is told: two channels, and a warm kernel with what the operator has defined."""
    bad = CondaChannel("bad")
    bad.add("comm", "99.0", {"site-packages/comm.py": "raise ImportError('not this comm')\n"}, ["python"])
    yield {
        "CELLYARD_ENVIRONMENTS__CONDA__CHANNELS": json.dumps([channel.url, bad.url]),
        "CELLYARD_ENVIRONMENTS__CONDA__PREWARMED": json.dumps(["python", "tiny"]),
        "CELLYARD_TEMPLATES__DEFAULT__CONDA_POOL": "1",
    }
    bad.close()


@pytest.fixture(scope="module")
def controller(module_folder: Path, env: dict[str, str]) -> Iterator[Process]:
    process = Process(module_folder)
    process.start("--on-stop", "keep", env=env)
    yield process
    process.close()


def listed(session: cellyard.Session, *requirements: str, channels: tuple[str, ...] = ("local",)) -> None:
    metadata = {"runt": {"conda": {"dependencies": requirements, "channels": channels}}}
    session.set_metadata("notebook_metadata", json.dumps(metadata))


def test_a_kernel_runs_on_the_python_of_the_channel_with_its_packages(controller: Process) -> None:
    seen: list[cellyard.Progress] = []
    with cellyard.Session(endpoint=controller.endpoint, on_progress=seen.append) as session:
        listed(session, "tiny")
        session.start_kernel()
        assert session.env_source == "conda:inline"
        assert list(dict.fromkeys(each.stage for each in seen)) == ["environment", "create", "kernel"]
        assert "the post-link script of tool is not run" in [each.message for each in seen]
        assert session.run("import tiny\ntiny.ANSWER").value == 42
        assert session.run("import sys\nsys.executable, sys.prefix").value == (
            "/opt/environment/bin/python",
            "/opt/environment",
        )
        cached = session.run("tiny.__cached__").value
        assert cached.startswith("/opt/environment/lib/python3.")
        assert session.run(f"import os\nos.path.exists({cached!r})").value is True
        program = "import subprocess, sys\nsubprocess.check_output([sys.executable, '-c', %r]).decode()"
        assert session.run(program % "import tiny; print(tiny.ANSWER)").value == "42\n"
        assert session.run("subprocess.check_output(['hello']).decode()").value == "hello 42\n"
        failed = session.run("import numpy")
        assert failed.error is not None
        assert failed.error.ename == "ModuleNotFoundError"
        assert session.run("os.path.lexists('/opt/environment/lib/gone')").value is False
        assert session.run("import socket\n[name for _, name in socket.if_nameindex()]").value == ["lo"]
        assert session.run("open('/opt/environment/new', 'w')").error is not None
        with pytest.raises(cellyard.CapabilityUnavailable, match="its packages are conda's"):
            session.install("tiny")
        session.restart_kernel()
        assert session.run("import tiny\ntiny.ANSWER").value == 42


def test_warm_kernels_wait_with_what_the_operator_has_defined(controller: Process) -> None:
    with cellyard.Client(endpoint=controller.endpoint) as client:
        late = threading.Timer(WAIT_S, client.close)
        late.start()
        next(each for each in client.watch_sandboxes() if each.state == "warm")
        late.cancel()
        with cellyard.Session(endpoint=controller.endpoint) as session:
            session.start_kernel(env_source="conda:prewarmed")
            assert session.env_source == "conda:prewarmed"
            assert session.run("import sys, tiny\nsys.executable, tiny.ANSWER").value == (
                "/opt/environment/bin/python",
                42,
            )
            assert session.exec(["hello"]).stdout == b"hello 42\n"
        (pool,) = client.list_pools()
        assert pool.hits == 1


def test_an_environment_yml_beside_the_notebook_is_found(controller: Process, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    text = "name: mine\nchannels:\n  - local\ndependencies:\n  - tiny\n"
    (tmp_path / "environment.yml").write_text(text)
    with cellyard.Session(endpoint=controller.endpoint) as session:
        session.start_kernel(notebook_path=tmp_path / "a.ipynb")
        assert session.env_source == "conda:env_yml"
        assert session.run("import tiny\ntiny.ANSWER").value == 42


def test_a_pixi_toml_comes_to_the_same_environment_which_is_not_made_again(
    controller: Process, channel: CondaChannel, tmp_path: Path
) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, "tiny")
        session.start_kernel()
    asked = len(channel.asked)
    (tmp_path / ".git").mkdir()
    (tmp_path / "pixi.toml").write_text('[workspace]\nchannels = ["local"]\n[dependencies]\nTiny = "*"\n')
    with cellyard.Session(endpoint=controller.endpoint) as session:
        session.start_kernel(notebook_path=tmp_path / "a.ipynb")
        assert session.env_source == "pixi:toml"
        assert session.run("import tiny\ntiny.ANSWER").value == 42
    assert len(channel.asked) == asked


def test_a_kernel_that_is_to_take_packages_in_is_none_of_condas(controller: Process) -> None:
    session = cellyard.Session(endpoint=controller.endpoint, require={"deps_install"})
    with session, pytest.raises(cellyard.CapabilityUnavailable, match="packages of conda's"):
        session.start_kernel(env_source="conda:prewarmed")


def test_an_environment_in_which_no_kernel_starts_is_not_used(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, "tiny", channels=("bad", "local"))
        with pytest.raises(cellyard.EnvironmentFailed, match=r"no kernel starts.*not this comm"):
            session.start_kernel()


def test_what_cannot_be_had_is_named(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, "tiny", "no-such-thing >=3")
        with pytest.raises(cellyard.EnvironmentFailed, match="'no-such-thing >=3' cannot be had") as failed:
            session.start_kernel()
        assert failed.value.details["requirement"] == "no-such-thing >=3"
        listed(session, "tiny", channels=("elsewhere",))
        with pytest.raises(cellyard.InvalidRequest, match="the channel 'elsewhere' is not allowed"):
            session.start_kernel()


def test_a_kernel_of_a_conda_environment_outlives_its_controller(controller: Process, env: dict[str, str]) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, "tiny")
        session.run("import tiny\nx = tiny.ANSWER")
        controller.kill()
        controller.start("--on-stop", "keep", env={**env, "CELLYARD_ENVIRONMENTS__STORE": "1"})
        assert session.run("x").value == 42
        assert session.env_source == "conda:inline"
        session.restart_kernel()
        assert session.run("import tiny\ntiny.ANSWER").value == 42
