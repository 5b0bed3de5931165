"""Packages installed into kernels that run, in real containers without a network."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cellyard
from cellyard import Package
from tests.controller_process import Process
from tests.package_index import PackageIndex

pytestmark = pytest.mark.docker

PROGRAM = "import subprocess, sys\nsubprocess.check_output([sys.executable, '-c', {!r}]).decode()"
BACKEND = """
import os, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(folder, "built-1.0-py3-none-any.whl"), "w") as archive:
        archive.writestr("built.py", f"UID = {os.getuid()}")
        archive.writestr("built-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: built\\nVersion: 1.0\\n")
        wheel = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        archive.writestr("built-1.0.dist-info/WHEEL", wheel)
        archive.writestr("built-1.0.dist-info/RECORD", "")
    return "built-1.0-py3-none-any.whl"
"""
PYPROJECT = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
RAISES = "raise ImportError('not this one')\n"
SHADOW = {
    "os.py": RAISES,
    "json/__init__.py": RAISES,
    "numpy/__init__.py": RAISES,
    "cellyard_sandbox/__init__.py": RAISES,
    "google/protobuf/__init__.py": RAISES,
    "shadow.py": "HERE = True\n",
    "shadow.pth": "import os; os.environ['SHADOWED'] = str(os.getpid())\n",
}
"""A package that puts itself in everybody's way, and has code run at each start of a Python."""


@pytest.fixture(scope="module")
def index() -> Iterator[PackageIndex]:
    index = PackageIndex()
    index.add("tiny", "1.0", {"tiny/__init__.py": "ANSWER = 42\n"}, requires=["needed>=1", "numpy"])
    index.add("tiny", "2.0", {"tiny/__init__.py": "ANSWER = 43\n"})
    index.add("needed", "1.5")
    index.add("later", "1.0", requires=["needed>=2"])
    index.add("newer", "1.0", requires=["numpy>=1000"])
    index.add_sources("built", "1.0", {"pyproject.toml": PYPROJECT, "backend.py": BACKEND})
    index.add("shadow", "1.0", SHADOW)
    index.add_file("broken", "broken-1.0-py3-none-any.whl", b"no archive")
    yield index
    index.close()


@pytest.fixture(scope="module")
def controller(built_image: str, module_folder: Path, index: PackageIndex) -> Iterator[Process]:
    process = Process(module_folder)
    limits = {"CELLYARD_TEMPLATES__DEFAULT__HOME": str(64 * 1024 * 1024)}
    process.start(env={"CELLYARD_ENVIRONMENTS__INDEX": index.url} | limits)
    yield process
    process.close()


@pytest.fixture
def session(controller: Process) -> Iterator[cellyard.Session]:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        yield session


def test_what_is_installed_is_importable_at_once_and_by_programs(session: cellyard.Session) -> None:
    assert session.run("import tiny").error is not None
    done = session.install("tiny==1.0", "numpy")
    assert done.installed == (Package("needed", "1.5"), Package("tiny", "1.0"))
    assert done.already_present == ("numpy",)
    assert session.run("import tiny, needed\ntiny.ANSWER").value == 42
    assert session.run("tiny.__file__").value == "/home/sandbox/.cache/cellyard/packages/tiny/__init__.py"
    assert session.run(PROGRAM.format("import tiny; print(tiny.ANSWER)")).value == "42\n"
    assert session.run("import importlib.metadata as m\nm.version('tiny')").value == "1.0"
    assert session.run("import socket\n[name for _, name in socket.if_nameindex()]").value == ["lo"]
    assert session.installed() == list(done.installed)
    again = session.install("Tiny", "needed>=1.2")
    assert again == cellyard.InstallResult((), ("needed>=1.2", "tiny"))


def test_a_cell_that_runs_sees_it_too(session: cellyard.Session) -> None:
    waits = "import time\nfor _ in range(6000):\n    try:\n        import needed\n        break\n"
    waits += "    except ImportError:\n        time.sleep(0.02)\nneeded.VERSION"
    cell = session.create_cell(waits)
    execution = session.queue_cell(cell)
    session.install("needed")
    assert session.wait(execution, timeout=60).value == "1.5"


def test_it_stays_when_the_kernel_is_restarted_and_goes_with_the_sandbox(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        session.install("needed")
        session.restart_kernel()
        assert session.run("import needed\nneeded.VERSION").value == "1.5"
        session.shutdown_kernel()
        assert session.run("import needed").error is not None
        assert session.installed() == []


def test_other_sandboxes_have_none_of_it(controller: Process, session: cellyard.Session) -> None:
    session.install("needed")
    with cellyard.Session(endpoint=controller.endpoint) as other:
        assert other.run("import needed").error is not None
        assert other.installed() == []


def test_what_stands_against_what_is_there_is_refused_and_named(session: cellyard.Session) -> None:
    session.install("tiny==1.0")
    held = session.run("import numpy, tiny\nnumpy.__version__").value
    refused = {
        "numpy>=1000": rf"'numpy>=1000' cannot be had: the kernel has numpy {held}, .* it came with the kernel's",
        "tiny==2.0": r"'tiny==2.0' cannot be had: the kernel has tiny 1.0, .* uninstall that first",
        "newer": r"'newer' cannot be had: .*numpy>=1000",
        "later": r"'later' cannot be had: .*needed",
        "absent": r"'absent' cannot be had: absent was not",
        "broken": r"'broken' cannot be had: ",
    }
    for requirement, said in refused.items():
        with pytest.raises(cellyard.EnvironmentFailed, match=said) as failed:
            session.install("needed", requirement)
        assert failed.value.details["requirement"] == requirement
    assert session.run("import numpy\nnumpy.__version__").value == held
    assert session.installed() == [Package("needed", "1.5"), Package("tiny", "1.0")]


def test_what_is_removed_is_gone_and_another_version_can_come(session: cellyard.Session) -> None:
    session.install("tiny==1.0")
    session.run("import tiny")
    done = session.uninstall("Tiny", "numpy", "absent")
    assert done == cellyard.UninstallResult((Package("tiny", "1.0"),), ("numpy", "absent"))
    assert session.run("tiny.ANSWER").value == 42
    assert session.run("import numpy\nnumpy.arange(3).sum()").success
    assert session.run("import os\nsorted(os.listdir('.cache/cellyard/packages'))").value == [
        "__pycache__",
        "needed-1.5.dist-info",
        "needed.py",
    ]
    assert session.install("tiny>1").installed == (Package("tiny", "2.0"),)
    assert session.run(PROGRAM.format("import tiny; print(tiny.ANSWER)")).value == "43\n"
    session.restart_kernel()
    assert session.run("import tiny\ntiny.ANSWER").value == 43


def test_what_has_no_wheel_is_built_in_a_container_of_its_own(session: cellyard.Session) -> None:
    assert session.install("built").installed == (Package("built", "1.0"),)
    assert session.run("import built\nbuilt.UID").value == 64_996


def test_a_package_in_everybodys_way_stands_in_nobodys(session: cellyard.Session) -> None:
    assert session.install("shadow").installed == (Package("shadow", "1.0"),)
    works = "import os, json, numpy, shadow\n(numpy.arange(3).sum().item(), shadow.HERE, os.environ.get('SHADOWED'))"
    assert session.run(works).value == (3, True, None)
    session.restart_kernel()
    ours = session.run(works).value
    assert ours[:2] == (3, True)
    assert ours[2] == str(session.run("os.getpid()").value)  # in the kernel, as cells are, and not in the agent
    assert session.exec(["python3", "-c", "import numpy, json; print('fine')"]).stdout == b"fine\n"
    assert session.install("needed").installed == (Package("needed", "1.5"),)
    assert session.uninstall("shadow").removed == (Package("shadow", "1.0"),)
    assert session.exec(["python3", "-c", "import os; print(os.environ.get('SHADOWED'))"]).stdout == b"None\n"


@pytest.mark.parametrize(
    "requirement",
    [
        "tiny @ file:///etc/passwd",
        "https://host.example/tiny-1.0-py3-none-any.whl",
        "git+ssh://git@host.example/tiny",
        "./tiny",
        "--index-url=https://host.example/simple",
        "-r requirements.txt",
        "tiny; python_version > '3'",
        "tiny; rm -rf /",
        "tiny && true",
        "$(tiny)",
        "`tiny`",
        "tiny\n--pre",
        "",
    ],
)
def test_places_options_markers_and_shell_are_refused(session: cellyard.Session, requirement: str) -> None:
    with pytest.raises(cellyard.InvalidRequest):
        session.install(requirement)
    with pytest.raises(cellyard.InvalidRequest):
        session.uninstall(requirement)
    assert session.installed() == []


def test_what_does_not_fit_into_the_home_leaves_nothing(controller: Process, index: PackageIndex) -> None:
    index.add("wide", "1.0", {"wide.bin": "\0" * 100_000_000})
    with cellyard.Session(endpoint=controller.endpoint) as session:
        with pytest.raises(cellyard.QuotaExceeded, match=r"64.* free"):
            session.install("wide")
        left = session.run("import os\nos.listdir('.cache/cellyard/packages'), os.listdir('.cache/cellyard')")
        assert left.value == ([], ["packages"])
        assert session.install("needed").installed == (Package("needed", "1.5"),)


def test_code_that_breaks_the_folder_breaks_its_own_sandbox_alone(session: cellyard.Session) -> None:
    session.install("needed")
    session.run("import shutil, os\nshutil.rmtree('.cache/cellyard')\nos.symlink('/tmp', '.cache/cellyard')")
    with pytest.raises(cellyard.InvalidRequest, match="cannot be put into the sandbox"):
        session.install("tiny==1.0")
    session.run("os.unlink('.cache/cellyard')")
    session.uninstall("needed")
    assert session.install("tiny==1.0").installed == (Package("needed", "1.5"), Package("tiny", "1.0"))
    assert session.run("import tiny\ntiny.ANSWER").value == 42


def test_a_deno_kernel_takes_none(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as session:
        session.start_kernel("deno")
        assert not session.supports("deps_install")
        with pytest.raises(cellyard.CapabilityUnavailable, match="a Deno kernel takes no Python packages"):
            session.install("tiny")


def start_again(process: Process, environment: dict[str, str]) -> None:
    """Once it has died."""
    assert process.process is not None
    process.process.wait(120)
    process.start(env=environment)


def test_an_install_whose_answer_died_with_the_controller_gives_the_same(
    built_image: str, folder: Path, index: PackageIndex
) -> None:
    process = Process(folder)
    environment = {"CELLYARD_ENVIRONMENTS__INDEX": index.url}
    process.start("--on-stop", "keep", env={**environment, "CELLYARD_FAULT": "packages-brought"})
    try:
        with cellyard.Session(endpoint=process.endpoint) as session:
            session.start_kernel()
            with ThreadPoolExecutor(1) as aside:
                restarted = aside.submit(start_again, process, environment)
                done = session.install("tiny==1.0")
                restarted.result()
            assert done.installed == (Package("needed", "1.5"), Package("tiny", "1.0"))
            assert done.already_present == ()
            assert session.run("import tiny\ntiny.ANSWER").value == 42
            assert session.installed() == list(done.installed)
    finally:
        process.close()


def test_the_process_runtime_installs_for_its_own_kernel_alone(folder: Path, index: PackageIndex) -> None:
    process = Process(folder)
    process.start("--runtime", "process", env={"CELLYARD_ENVIRONMENTS__INDEX": index.url})
    try:
        with cellyard.Session(endpoint=process.endpoint) as session:
            assert session.supports("deps_install")
            done = session.install("tiny==1.0", "numpy")
            assert (done.installed, done.already_present) == (
                (Package("needed", "1.5"), Package("tiny", "1.0")),
                ("numpy",),
            )
            assert session.run("import tiny\ntiny.ANSWER").value == 42
            assert session.run(PROGRAM.format("import tiny; print(tiny.ANSWER)")).value == "42\n"
            session.restart_kernel()
            assert session.run("import tiny\ntiny.ANSWER").value == 42
            with cellyard.Session(endpoint=process.endpoint) as other:
                assert other.run("import tiny").error is not None
    finally:
        process.close()
