"""Kernels with another Python than the usual one, in real containers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import cellyard
from cellyard_controller.runtimes.docker import images
from tests.controller_process import Process
from tests.package_index import PackageIndex

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
VERSION = "import sys; '%d.%d' % sys.version_info[:2]"


@pytest.fixture(scope="module")
def built_python(built_image: str) -> str:
    """The image with Python 3.13, built where it is missing."""
    with closing(images.connect()) as client:
        return images.build(print, client=client, kernel_type="python3.13")


@pytest.fixture(scope="module")
def index() -> Iterator[PackageIndex]:
    index = PackageIndex()
    index.add("tiny", "1.0", {"tiny.py": "ANSWER = 42\n"})
    yield index
    index.close()


@pytest.fixture(scope="module")
def controller(built_python: str, module_folder: Path, index: PackageIndex) -> Iterator[Process]:
    process = Process(module_folder)
    process.start(env={"CELLYARD_ENVIRONMENTS__INDEX": index.url})
    yield process
    process.close()


def test_a_kernel_of_another_python_does_all_that_the_usual_one_does(controller: Process) -> None:
    with cellyard.Session(
        endpoint=controller.endpoint,
        python_version="3.13",
        require={"container_isolation", "network_isolation"},
    ) as session:
        assert session.run(VERSION).value == "3.13"
        assert session.env_source == "uv:prewarmed"
        assert (
            session.run("import numpy, pandas, scipy.linalg, matplotlib, ipywidgets\nint(numpy.eye(3).sum())").value
            == 3
        )
        plotted = session.run("import matplotlib.pyplot as p\np.plot([1, 2])\np.show()")
        assert any("image/png" in (output.data or {}) for output in plotted.display_data)
        failed = session.run("1/0")
        assert failed.error is not None
        assert failed.error.ename == "ZeroDivisionError"
        assert session.run("import asyncio\nawait asyncio.sleep(0, 5)").value == 5
        assert session.run("print(input('?'))", on_input=lambda prompt: "yes").stdout.endswith("yes\n")
        with pytest.raises(cellyard.ExecutionTimeout):
            session.run("import time\nwhile True: time.sleep(1)", timeout_secs=1.0)
        session.run("x = 1")
        session.restart_kernel()
        assert session.run("'x' in globals()").value is False
        assert session.run("1 + 1").execution_count == 2


def test_whoever_joins_and_names_another_python_is_refused(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint, python_version="3.13") as session:
        session.run("x = 3")
        notebook = session.notebook_id
        assert cellyard.Session(notebook, endpoint=controller.endpoint, python_version="3.13").run("x").value == 3
        assert cellyard.Session(notebook, endpoint=controller.endpoint, template="default").run("x").value == 3
        other = cellyard.Session(notebook, endpoint=controller.endpoint, python_version="3.11")
        with other, pytest.raises(cellyard.KernelMismatch, match=r"'default@3.13', not 'default@3.11'"):
            other.run("x")


def test_a_version_that_is_not_there_is_refused_with_those_that_are(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint, python_version="3.9") as session:
        with pytest.raises(cellyard.EnvironmentFailed, match=r"Python 3.9 cannot be had.*has 3.11, 3.13") as failed:
            session.run("1")
        assert failed.value.details["requirement"] == "python"


def test_the_usual_version_is_the_templates_own(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint, python_version="3.11") as session:
        assert session.run(VERSION).value == "3.11"


def listed(session: cellyard.Session, requires_python: str) -> None:
    metadata = {"runt": {"uv": {"dependencies": ["tiny"], "requires-python": requires_python}}}
    session.set_metadata("notebook_metadata", json.dumps(metadata))


@pytest.mark.parametrize(("allowed", "version"), [(">=3.11", "3.11"), (">=3.12", "3.13")])
def test_requires_python_takes_the_first_python_that_fits(controller: Process, allowed: str, version: str) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, allowed)
        suffix = version.replace(".", "")
        place = session.run("import tiny; tiny.__cached__").value
        assert place == f"/opt/environment/__pycache__/tiny.cpython-{suffix}.pyc"
        assert session.env_source == "uv:inline"


def test_requires_python_that_nothing_fits_says_what_there_is(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        listed(session, ">=3.14")
        with pytest.raises(
            cellyard.EnvironmentFailed, match=r"requires-python is >=3.14.*Python 3\.11\.\d+, 3\.13\.\d+"
        ):
            session.start_kernel()
