"""Packages for code in this very process: in folders of a session's own, behind everything that the process has."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from cellyard.codemode.errors import made_public
from cellyard.codemode.executors import installing
from cellyard.errors import CapabilityUnavailable, InvalidRequest
from cellyard_proto.codemode import requirements

_Done: TypeAlias = tuple[list[str], list[str]]


class Packages:
    """What one session has brought into this process."""

    def __init__(self, root: Path | None = None) -> None:
        """`root`: where folders are made; by default a temporary folder, removed by `close`."""
        self._root = root
        self._remove_root: Callable[[], object] | None = None
        self._folders: list[Path] = []
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @staticmethod
    def installer() -> list[str] | None:
        """The command of uv, else of pip; None where there is neither."""
        return installing.installer()

    async def install(self, wanted: Sequence[str]) -> _Done:
        """See Executor. What the process has, stays and is used: what cannot do with it, is refused."""
        checked = [_checked(requirement) for requirement in wanted]
        return await self._alone(lambda: self._install(checked))

    async def uninstall(self, packages: Sequence[str]) -> _Done:
        """See Executor. The process' own packages stay, and count as not found."""
        names = [_checked(package) for package in packages]
        return await self._alone(lambda: self._uninstall(names))

    async def close(self) -> None:
        """Ends what is under way, and takes everything out of sys.path; the folder goes where it is not a given one."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for folder in self._folders:
            _leave_path(folder)
            _forget(partial(_is_below, folder))
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._folders.clear()
        if self._remove_root is not None:
            await asyncio.to_thread(self._remove_root)
        importlib.invalidate_caches()

    async def _alone(self, work: Callable[[], Awaitable[_Done]]) -> _Done:
        if self._closed:
            raise InvalidRequest("the session is closed: no packages come into it")

        async def in_turn() -> _Done:
            async with self._turn:
                return await work()

        task = asyncio.create_task(in_turn())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await task

    async def _install(self, wanted: Sequence[str]) -> _Done:
        present = await asyncio.to_thread(_present)
        there = [each for each in wanted if installing.satisfied(each, present)]
        missing = [each for each in wanted if each not in there]
        if not missing:
            return [], there
        command = self.installer()
        if command is None:
            raise CapabilityUnavailable("packages need uv or pip in this Python environment, and it has neither")
        folder = await asyncio.to_thread(self._new_folder)
        try:
            ours = await asyncio.to_thread(self._ours)
            fixed = {name: version for name, version in present.items() if name not in ours}
            came = await installing.install(command, sys.executable, missing, fixed, folder)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        # Those of ours that come in another version now: the first on sys.path would count.
        await asyncio.to_thread(self._remove, came)
        self._folders.append(folder)
        sys.path.append(str(folder))
        importlib.invalidate_caches()
        return missing, there

    def _new_folder(self) -> Path:
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="cellyard-packages-"))
            # Also where nobody closes: when this is dropped, or at the interpreter's end.
            self._remove_root = weakref.finalize(self, shutil.rmtree, str(self._root), ignore_errors=True)
        self._root.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self._root, prefix="packages-"))

    def _ours(self) -> dict[str, importlib.metadata.Distribution]:
        return {
            requirements.package(each.name): each
            for each in importlib.metadata.distributions(path=list(map(str, self._folders)))
        }

    async def _uninstall(self, packages: Sequence[str]) -> _Done:
        gone = await asyncio.to_thread(self._remove, {requirements.package(package) for package in packages})
        importlib.invalidate_caches()
        removed = [package for package in packages if requirements.package(package) in gone]
        return removed, [package for package in packages if package not in removed]

    def _remove(self, names: set[str]) -> set[str]:
        """Removes the files of those of ours that have these names, and what was imported from them."""
        found = {name: each for name, each in self._ours().items() if name in names}
        for distribution in found.values():
            folder = Path(str(distribution.locate_file("")))
            files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
            # A RECORD is what a package says of itself: it may name anything.
            files = [file for file in files if Path(os.path.normpath(file)).is_relative_to(folder)]
            _forget({str(file) for file in files}.__contains__)
            for file in files:
                file.unlink(missing_ok=True)
                for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
                    compiled.unlink(missing_ok=True)
            for empty in sorted({parent for file in files for parent in _below(folder, file)}, reverse=True):
                try:
                    (empty / "__pycache__").rmdir()
                except OSError:
                    pass  # there is none, or more in it
                try:
                    empty.rmdir()
                except OSError:
                    pass  # another package's too
        return set(found)


def _checked(requirement: object) -> str:
    """A name with versions; nothing else may reach an installer's command line. Raises DependencyError."""
    with made_public():
        return requirements.normalise(requirement)


def _present() -> dict[str, str]:
    """Versions by name of what this process can import. The first on sys.path counts."""
    found: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        name, version = each.metadata["Name"], each.metadata["Version"]
        if name and version:  # what is damaged may have neither
            found.setdefault(requirements.package(name), version)
    return found


def _forget(is_gone: Callable[[str], bool]) -> None:
    """Lets the next import look anew for modules whose files are gone."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and is_gone(file):
            del sys.modules[name]


def _below(folder: Path, file: Path) -> list[Path]:
    """The folders that a file is in, up to this one."""
    return [parent for parent in file.parents if parent != folder and parent.is_relative_to(folder)]


def _is_below(folder: Path, file: str) -> bool:
    return Path(file).is_relative_to(folder)


def _leave_path(folder: Path) -> None:
    try:
        sys.path.remove(str(folder))
    except ValueError:
        pass  # code has removed it
    sys.path_importer_cache.pop(str(folder), None)
