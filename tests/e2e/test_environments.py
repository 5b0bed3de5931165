"""Environments in real containers, which have no network: fetched outside, mounted read-only, there at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellyard
from tests.controller_process import Process
from tests.package_index import PackageIndex

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def index() -> Iterator[PackageIndex]:
    index = PackageIndex()
    index.add("tiny", "1.0", {"tiny.py": "ANSWER = 42\n", "tiny_more.pth": "import tiny\n"}, requires=["needed"])
    index.add("needed", "1.0")
    index.add("traitlets", "0.0.1", {"traitlets/__init__.py": "raise ImportError('not these traitlets')\n"})
    index.add("cycler", "9.9", {"cycler.py": "MINE = True\n"})
    yield index
    index.close()


@pytest.fixture(scope="module")
def controller(built_image: str, module_folder: Path, index: PackageIndex) -> Iterator[Process]:
    process = Process(module_folder)
    process.start("--on-stop", "keep", env={"CELLYARD_ENVIRONMENTS__INDEX": index.url})
    yield process
    process.close()


def listed(session: cellyard.Session, *requirements: str) -> None:
    metadata = {"runt": {"uv": {"dependencies": requirements}}}
    session.set_metadata("notebook_metadata", json.dumps(metadata))


def test_what_a_notebook_lists_is_there_in_a_container_without_a_network(controller: Process) -> None:
    seen: list[str] = []
    told = lambda progress: seen.append(progress.stage)  # noqa: E731
    with cellyard.Session(endpoint=controller.endpoint, on_progress=told) as session:
        listed(session, "tiny")
        session.start_kernel()
        assert session.env_source == "uv:inline"
        assert list(dict.fromkeys(seen)) == ["environment", "create", "kernel"]
        assert session.run("import tiny, needed\ntiny.ANSWER").value == 42
        assert session.run("tiny.__cached__").value == "/opt/environment/__pycache__/tiny.cpython-311.pyc"
        program = "import subprocess, sys\nsubprocess.check_output([sys.executable, '-c', %r]).decode()"
        assert session.run(program % "import tiny; print(tiny.ANSWER)").value == "42\n"
        assert session.run("import numpy\nnumpy.arange(3).sum()").success
        assert session.run("import socket\n[name for _, name in socket.if_nameindex()]").value == ["lo"]


def test_nothing_in_it_can_be_changed_from_inside(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, "tiny")
        for code in (
            "open('/opt/environment/tiny.py', 'w')",
            "open('/opt/environment/new.py', 'w')",
            "import os; os.chmod('/opt/environment/tiny.py', 0o777)",
            "import os; os.unlink('/opt/environment/tiny.py')",
        ):
            failed = session.run(code)
            assert failed.error is not None
            assert failed.error.ename in ("OSError", "PermissionError"), code


def test_a_second_session_finds_it_and_nothing_is_fetched(controller: Process, index: PackageIndex) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, "tiny")
        session.start_kernel()
    asked = len(index.asked)
    messages: list[str] = []
    with cellyard.Session(
        endpoint=controller.endpoint, on_progress=lambda progress: messages.append(progress.message)
    ) as session:
        listed(session, "TINY", "tiny ; python_version > '3'")
        assert session.run("import tiny\ntiny.ANSWER").value == 42
        assert session.env_source == "uv:inline"
    assert len(index.asked) == asked
    assert "compiling and checking" not in messages


def test_a_requirement_that_does_not_exist_is_named(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, "tiny", "no-such-thing>=3")
        with pytest.raises(cellyard.EnvironmentFailed, match="'no-such-thing>=3' cannot be had") as failed:
            session.start_kernel()
        assert failed.value.details["requirement"] == "no-such-thing>=3"
        assert "no-such-thing was not found" in failed.value.details["log"]
        assert not session.kernel_started
        with pytest.raises(cellyard.EnvironmentFailed, match="'no-such-thing>=3' cannot be had"):
            session.run("1")


def test_an_environment_in_which_no_kernel_starts_is_not_used(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, "traitlets")
        with pytest.raises(cellyard.EnvironmentFailed, match=r"no kernel starts.*not these traitlets"):
            session.start_kernel()


def test_a_project_beside_the_notebook_is_found_and_its_packages_come_before_the_images(
    controller: Process, tmp_path: Path
) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\ndependencies = ['cycler', 'tiny<2']\n")
    with cellyard.Session(endpoint=controller.endpoint) as session:
        session.start_kernel(notebook_path=tmp_path / "notebooks" / "a.ipynb")
        assert session.env_source == "uv:pyproject"
        assert session.run("import cycler\ncycler.MINE").value is True
        session.restart_kernel()
        assert session.run("import tiny\ntiny.ANSWER").value == 42


def test_a_hostile_project_file_is_refused(controller: Process, tmp_path: Path) -> None:
    text = "[project]\ndependencies = [\n  'tiny @ file:///etc/passwd',\n]\n"
    (tmp_path / "pyproject.toml").write_text(text)
    session = cellyard.Session(endpoint=controller.endpoint)
    with session, pytest.raises(cellyard.InvalidRequest, match=r"pyproject.toml, line 3: .*names a place"):
        session.start_kernel(notebook_path=tmp_path / "a.ipynb")


def test_a_kernel_with_an_environment_outlives_its_controller(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, "tiny")
        session.run("import tiny\nx = tiny.ANSWER")
        controller.kill()
        controller.start("--on-stop", "keep", env={"CELLYARD_ENVIRONMENTS__STORE": "1"})
        assert session.run("x").value == 42
        assert session.env_source == "uv:inline"
        assert session.run("import needed\nneeded.VERSION").value == "1.0"
