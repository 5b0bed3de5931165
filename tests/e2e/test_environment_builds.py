"""Packages without a wheel: built in a container that has no network, and cut where they ask for too much."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellyard
from tests.controller_process import Process
from tests.package_index import PackageIndex

pytestmark = pytest.mark.docker

BACKEND = """
import os, runpy, socket, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = os.path.basename(os.getcwd()).rsplit("-", 1)[0]
    if os.path.exists("before.py"):
        runpy.run_path("before.py")
    wheel = f"{name}-1.0-py3-none-any.whl"
    interfaces = [found for _, found in socket.if_nameindex()]
    with zipfile.ZipFile(os.path.join(folder, wheel), "w") as archive:
        archive.writestr(f"{name}.py", f"UID, INTERFACES = {os.getuid()}, {interfaces}\\n")
        about = f"{name}-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel
"""
PYPROJECT = "[build-system]\nrequires = ['backend']\nbuild-backend = 'backend'\n"
FILL = """
with open("full", "wb") as file:
    while True:
        file.write(bytes(1 << 20))
"""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What any code of a package would leave that ran on this machine."""
    return tmp_path_factory.mktemp("trace") / "ran"


@pytest.fixture(scope="module")
def index(trace: Path) -> Iterator[PackageIndex]:
    index = PackageIndex()
    index.add("backend", "1.0", {"backend.py": BACKEND})
    leave = f"try:\n    open({str(trace)!r}, 'w')\nexcept OSError:\n    pass\n"
    index.add_sources("plain", "1.0", {"pyproject.toml": PYPROJECT, "setup.py": leave, "before.py": leave})
    index.add("needs_plain", "1.0", requires=["plain"])
    index.add_sources("broken", "1.0", {"pyproject.toml": PYPROJECT, "before.py": "raise ValueError('never mind')"})
    index.add_sources("hangs", "1.0", {"pyproject.toml": PYPROJECT, "before.py": "import time\ntime.sleep(3600)"})
    index.add_sources("fills", "1.0", {"pyproject.toml": PYPROJECT, "before.py": FILL})
    index.add_sources("evil", "1.0", {"pyproject.toml": PYPROJECT.replace("'backend']", "'x @ file:///etc/passwd']")})
    index.add_sources("odd", "1.0", {"pyproject.toml": PYPROJECT.replace("requires = ['backend']", "requires = 3")})
    index.add_file("torn", "torn-1.0.tar.gz", b"no archive")
    yield index
    index.close()


@pytest.fixture(scope="module")
def controller(built_image: str, module_folder: Path, index: PackageIndex) -> Iterator[Process]:
    process = Process(module_folder)
    settings = {"INDEX": index.url, "BUILD_TIMEOUT": "40"}
    limits = {"CELLYARD_TEMPLATES__DEFAULT__HOME": str(64 * 1024 * 1024)}
    process.start(env={f"CELLYARD_ENVIRONMENTS__{name}": value for name, value in settings.items()} | limits)
    yield process
    process.close()


def start(controller: Process, *requirements: str) -> cellyard.Session:
    session = cellyard.Session(endpoint=controller.endpoint)
    metadata = {"runt": {"uv": {"dependencies": requirements}}}
    session.set_metadata("notebook_metadata", json.dumps(metadata))
    session.start_kernel()
    return session


def test_what_has_no_wheel_is_built_where_it_can_do_no_harm(
    controller: Process, index: PackageIndex, trace: Path
) -> None:
    with start(controller, "needs-plain") as session:
        assert session.run("import plain\n(plain.UID, plain.INTERFACES)").value == (64_996, ["lo"])
    assert not trace.exists()
    assert index.fetched("plain-1.0.tar.gz") > 0


BAD = {
    "broken": r"'broken' cannot be had: its build failed: ValueError: never mind",
    "fills": r"'fills' cannot be had: its build failed: OSError: .*No space left",
    "evil": r"'evil' cannot be had: what its build needs is refused: dependency 1: .*names a place",
    "odd": r"'odd' cannot be had: its sources cannot be read",
    "torn": r"'torn' cannot be had",
}


@pytest.mark.parametrize("package", BAD)
def test_a_build_that_goes_wrong_is_told(controller: Process, package: str) -> None:
    with pytest.raises(cellyard.EnvironmentFailed, match=BAD[package]):
        start(controller, package)


def test_a_build_that_hangs_is_cut(module_folder: Path, built_image: str, index: PackageIndex) -> None:
    (module_folder / "hang").mkdir()
    process = Process(module_folder / "hang")
    process.start(env={"CELLYARD_ENVIRONMENTS__INDEX": index.url, "CELLYARD_ENVIRONMENTS__BUILD_TIMEOUT": "3"})
    try:
        with pytest.raises(cellyard.EnvironmentFailed, match="'hangs' cannot be had: it was not finished within 3 s"):
            start(process, "hangs")
        process.stop()
        assert process.containers() == []
    finally:
        process.close()
