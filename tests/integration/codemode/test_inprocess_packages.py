"""Packages for code in this very process, from an index of the tests' own."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.package_index import PackageIndex, wheel

from cellyard.codemode.errors import DependencyError
from cellyard.codemode.executors import installing
from cellyard.codemode.executors.inprocess import InProcessExecutor
from cellyard.codemode.executors.packages import Packages
from cellyard.codemode.results import ExecutionResult
from cellyard.errors import CapabilityUnavailable, EnvironmentFailed

from .test_inprocess import Host, Names

PATIENCE_S = 60.0
OURS = ("cytiny", "cyneeded", "cyother", "cyheld")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PackageIndex]:
    """What installers are configured to use."""
    index = PackageIndex()
    index.add("cytiny", "1.0", requires=["cyneeded>=1"])
    index.add("cytiny", "2.0", requires=["cyneeded>=1"])
    index.add("cyneeded", "1.5", {"cyneeded/__init__.py": "", "cyneeded/data/one.txt": "1"})
    index.add("cyother", "1.0", requires=["pytest"])
    index.add("pytest", importlib.metadata.version("pytest"))
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    yield index
    index.close()
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]


@pytest.fixture(params=["uv", "pip"])
async def executor(
    request: pytest.FixtureRequest, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[InProcessExecutor]:
    if request.param == "pip":
        monkeypatch.setattr(Packages, "installer", staticmethod(lambda: [sys.executable, "-m", "pip"]))
    executor = InProcessExecutor(namespaces=Names)
    await executor.start(Host())
    yield executor
    await executor.close()


async def run(executor: InProcessExecutor, code: str) -> ExecutionResult:
    return await executor.run(code, PATIENCE_S)


async def value(executor: InProcessExecutor, code: str) -> Any:
    result = await run(executor, code)
    assert result.error is None, result.error
    return result.value


async def test_what_is_installed_can_be_imported_and_removed(executor: InProcessExecutor, index: PackageIndex) -> None:
    assert "deps_install" in executor.capabilities()
    assert "ModuleNotFoundError" in ((await run(executor, "import cytiny")).error or "")
    assert await executor.install(["CyTiny==1.0"]) == (["cytiny==1.0"], [])
    assert await value(executor, "import cytiny, cyneeded\ncytiny.VERSION") == "1.0"
    asked = len(index.asked)
    assert await executor.install(["cytiny", "cyneeded>=1,<2"]) == ([], ["cytiny", "cyneeded>=1,<2"])
    assert len(index.asked) == asked
    assert await executor.uninstall(["cytiny", "cyneeded", "pytest", "never"]) == (
        ["cytiny", "cyneeded"],
        ["pytest", "never"],
    )
    assert "ModuleNotFoundError" in ((await run(executor, "import cytiny")).error or "")
    assert "ModuleNotFoundError" in ((await run(executor, "import cyneeded")).error or "")


async def test_another_version_takes_the_place_of_the_first(executor: InProcessExecutor) -> None:
    await executor.install(["cytiny==1.0"])
    await value(executor, "import cytiny")
    assert await executor.install(["cytiny>=2"]) == (["cytiny>=2"], [])
    assert await value(executor, "import importlib.metadata as m, cytiny\n(m.version('cytiny'), cytiny.VERSION)") == (
        "2.0",
        "2.0",
    )


async def test_what_the_program_has_is_used_and_never_replaced(
    executor: InProcessExecutor, index: PackageIndex
) -> None:
    assert await executor.install(["pytest"]) == ([], ["pytest"])
    await executor.install(["cyother"])
    [folder] = [Path(place) for place in sys.path if "/packages-" in place]
    assert not list(folder.glob("*pytest*")), "it is there"
    assert await value(executor, "import pytest\npytest.__file__") == pytest.__file__
    with pytest.raises(EnvironmentFailed, match="there is pytest"):
        await executor.install(["pytest<1"])
    index.add("cyheld", "1.0", requires=["pytest<1"])
    index.add("pytest", "0.5")
    with pytest.raises(EnvironmentFailed) as failed:
        await executor.install(["cyheld"])
    assert "cyheld" in failed.value.details["log"]
    assert "ModuleNotFoundError" in ((await run(executor, "import cyheld")).error or "")


async def test_what_fails_changes_nothing_and_says_why(executor: InProcessExecutor, index: PackageIndex) -> None:
    before = list(sys.path)
    index.add_file("cyheld", "cyheld-1.0-py3-none-any.whl", b"no wheel")
    for missing in (["cynone"], ["cytiny", "cynone"], ["cytiny==9"], ["cyheld"]):
        with pytest.raises(EnvironmentFailed) as failed:
            await executor.install(missing)
        assert failed.value.details["log"]
        assert "\x1b" not in str(failed.value)
    assert sys.path == before
    assert importlib.util.find_spec("cytiny") is None


@pytest.mark.parametrize(
    "requirement",
    [
        "",
        "--index-url=x",
        "-r file",
        "git+https://example.org/x",
        "x @ file:///x",
        "x; python_version > '3'",
        "x\n--pre",
        "./folder",
        "x&&y",
        "x" * 300,
        5,
    ],
)
async def test_nothing_but_names_and_versions_reaches_an_installer(requirement: Any) -> None:
    executor = InProcessExecutor(namespaces=Names)
    await executor.start(Host())
    try:
        with pytest.raises(DependencyError, match="a package is"):
            await executor.install([requirement])
        with pytest.raises(DependencyError, match="a package is"):
            await executor.uninstall([requirement])
    finally:
        await executor.close()


async def test_whoever_gives_up_waiting_ends_the_installer(executor: InProcessExecutor, index: PackageIndex) -> None:
    index.open.clear()
    index.reached.clear()
    before = list(sys.path)
    task = asyncio.create_task(executor.install(["cytiny"]))
    assert await asyncio.to_thread(index.reached.wait, PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE_S)
    index.open.set()
    assert await executor.install(["cytiny==1.0"]) == (["cytiny==1.0"], [])
    assert len(sys.path) == len(before) + 1


async def test_an_installer_that_takes_too_long_is_ended(
    executor: InProcessExecutor, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.open.clear()
    monkeypatch.setattr(installing, "TIMEOUT_S", 0.5)
    with pytest.raises(EnvironmentFailed, match=r"within 0.5 s") as failed:
        await executor.install(["cytiny"])
    assert failed.value.retryable


async def test_code_that_runs_can_import_what_comes_meanwhile(executor: InProcessExecutor) -> None:
    host = executor._host
    assert isinstance(host, Host)
    running = asyncio.create_task(
        run(executor, "tools('tell', name='begun')\ntools('wait', name='go')\nimport cytiny\n1")
    )
    await host.reached("begun")
    await executor.install(["cytiny"])
    host.event("go").set()
    assert (await running).value == 1


async def test_close_ends_the_installer_and_leaves_nothing(executor: InProcessExecutor, index: PackageIndex) -> None:
    before = list(sys.path)
    await executor.install(["cytiny==1.0"])
    [folder] = [Path(place) for place in sys.path if place not in before]
    index.open.clear()
    index.reached.clear()
    task = asyncio.create_task(executor.install(["cytiny>=2"]))
    assert await asyncio.to_thread(index.reached.wait, PATIENCE_S)
    await executor.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sys.path == before
    assert not folder.parent.exists()


async def test_a_given_folder_stays_and_a_record_that_climbs_removes_nothing(
    index: PackageIndex, tmp_path: Path
) -> None:
    root, precious = tmp_path / "root", tmp_path / "precious"
    precious.write_text("kept")
    files = {"cyheld.py": ""}
    content = wheel("cyheld", "1.0", files, record={"cyheld.py": "", "../../precious": "kept", str(precious): "kept"})
    index.add_file("cyheld", "cyheld-1.0-py3-none-any.whl", content)
    executor = InProcessExecutor(namespaces=Names, install_root=root)
    await executor.start(Host())
    try:
        await executor.install(["cytiny"])
        [folder] = root.iterdir()
        [about] = folder.glob("cytiny-*.dist-info")
        listed = (about / "RECORD").read_text()
        (about / "RECORD").write_text(f"{listed}../../precious,,\n{precious},,\n")
        assert await executor.uninstall(["cytiny"]) == (["cytiny"], [])
    finally:
        await executor.close()
    assert precious.read_text() == "kept"
    assert root.exists()
    assert list(root.iterdir()) == []


async def test_without_an_installer_there_is_no_such_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packages, "installer", staticmethod(lambda: None))
    executor = InProcessExecutor(namespaces=Names)
    await executor.start(Host())
    try:
        assert executor.capabilities() == {"timeout", "reset"}
        with pytest.raises(CapabilityUnavailable, match="uv or pip"):
            await executor.install(["cynone"])
    finally:
        await executor.close()
