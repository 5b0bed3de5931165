"""What a session does about packages, over an executor and a store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cellyard.codemode import deps
from cellyard.codemode.errors import DependencyError, RuntimeDepsDisabledError
from cellyard.codemode.executors.protocol import ExecutorConfig
from cellyard.errors import EnvironmentFailed
from cellyard_proto.codemode import requirements


class Store:
    """Requirements by package."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def list(self) -> list[str]:
        return sorted(self.kept.values())

    def put(self, requirement: str) -> None:
        self.kept[requirements.package(requirement)] = requirement

    def remove(self, package: str) -> bool:
        return self.kept.pop(package, None) is not None


class Installs:
    """Has everything but what is called `nowhere`."""

    def __init__(self) -> None:
        self.there: dict[str, str] = {}
        self.asked: list[list[str]] = []

    async def install(self, wanted: Sequence[str]) -> tuple[list[str], list[str]]:
        self.asked.append(list(wanted))
        if any("nowhere" in each for each in wanted):
            raise EnvironmentFailed("nobody has it")
        present = [each for each in wanted if self.there.get(requirements.package(each)) == each]
        self.there |= {requirements.package(each): each for each in wanted}
        return [each for each in wanted if each not in present], present

    async def uninstall(self, packages: Sequence[str]) -> tuple[list[str], list[str]]:
        removed = [name for name in packages if self.there.pop(name, None)]
        return removed, [name for name in packages if name not in removed]


def made(*given: str, allowed: bool = True) -> tuple[deps.Deps, Store, Installs]:
    store, installs = Store(), Installs()
    executor: Any = installs
    return deps.Deps(given, store, executor, allowed=allowed), store, installs


async def test_what_was_installed_is_kept_and_what_failed_is_not() -> None:
    packages, store, _ = made("given>=1")
    assert await packages.add("New_One>=2") == {"installed": ["new-one>=2"], "already_present": [], "failed": []}
    assert await packages.add("new-one>=2") == {"installed": [], "already_present": ["new-one>=2"], "failed": []}
    assert await packages.add("nowhere") == {"installed": [], "already_present": [], "failed": ["nowhere"]}
    assert store.list() == ["new-one>=2"]
    assert await packages.list() == ["given>=1", "new-one>=2"]


async def test_a_newer_wish_takes_the_place_of_an_older_one() -> None:
    packages, store, _ = made("pandas>=1", "six")
    await packages.add("Pandas==2")
    assert await packages.list() == ["pandas==2", "six"]
    assert store.list() == ["pandas==2"]


async def test_one_that_cannot_be_had_keeps_no_other_away() -> None:
    packages, _, installs = made("a", "nowhere", "b")
    assert await packages.sync() == {"installed": ["a", "b"], "already_present": [], "failed": ["nowhere"]}
    assert installs.asked == [["a", "b", "nowhere"], ["a"], ["b"], ["nowhere"]]


async def test_only_what_was_added_is_restored() -> None:
    packages, store, installs = made("given")
    await packages.restore()
    assert installs.asked == []
    store.put("kept")
    await packages.restore()
    assert installs.asked == [["kept"]]


async def test_what_is_removed_is_configured_no_more() -> None:
    packages, store, _ = made("given>=1")
    await packages.add("kept")
    await packages.sync()
    gone = {"not_found": [], "failed": [], "removed_from_config": True}
    assert await packages.remove("GIVEN") == {"removed": ["given"], **gone}
    assert await packages.remove("kept==1") == {"removed": ["kept"], **gone}
    nothing = {"removed": [], "not_found": ["kept"], "failed": [], "removed_from_config": False}
    assert await packages.remove("kept") == nothing
    assert (await packages.list(), store.list()) == ([], [])


async def test_an_owner_forbids_changes_and_not_looking() -> None:
    packages, _, _ = made("a", allowed=False)
    for call in (packages.add, packages.remove):
        with pytest.raises(RuntimeDepsDisabledError, match="disabled"):
            await call("b")
    assert await packages.list() == ["a"]
    assert (await packages.sync())["installed"] == ["a"]


async def test_what_is_no_package_is_refused_before_anything_is_done() -> None:
    packages, _, installs = made()
    with pytest.raises(DependencyError):
        await packages.add("x @ file:///y")
    assert installs.asked == []


def test_files_and_settings_are_configured_together(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("Pandas>=1\nsix\n")
    config = ExecutorConfig(deps=("pandas>=2",), deps_file=file)
    assert deps.configured(config, (), ("numpy",)) == ("pandas>=2", "six", "numpy")
    file.write_text("six\n--pre\n")
    with pytest.raises(DependencyError, match="line 2"):
        deps.configured(config, (), ())
