"""Code in a process of the controller's user, with packages that its sessions share."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellyard.codemode.executors import cached, installing
from cellyard.codemode.executors.protocol import NOTHING, ExecutorConfig, Host, Needs
from cellyard.codemode.executors.remote import RemoteExecutor
from cellyard.errors import EnvironmentFailed
from cellyard_proto.codemode import requirements

_SURVEY = """
import importlib.metadata, sys
own = [place for place in sys.path if place.endswith("/.cache/cellyard/packages")]
found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions() if each.metadata["Name"]}
{"own": own, "path": sys.executable, "version": sys.version, "packages": found}
"""
_LINK = "cached"
"""Beside the sandbox's own folder of packages: leads to the folder that it shares with others."""
_NAMED = "cellyard-cached.pth"
"""In its own folder, by which every Python that the sandbox starts looks into the other one."""


@dataclass(frozen=True)
class SubprocessConfig(ExecutorConfig):
    """Of a SubprocessExecutor."""

    timeout: float | None = 60.0
    python_version: str | None = None
    """Like "3.11"; None for that of the controller. One that is not installed is EnvironmentFailed at the start."""
    cache_venv: bool = True
    """Packages come from a folder in this user's cache, by interpreter and packages, which sessions share and nothing
    writes to after it was made. False: they are installed for this session, and gone with it."""


@dataclass
class _Shared:
    """The packages of one session that come from the cache."""

    interpreter: cached.Interpreter
    link: Path
    wanted: dict[str, str]
    folder: Path


class SubprocessExecutor(RemoteExecutor):
    """Code in a process of the controller's user: trusted code alone."""

    backend = "subprocess"
    runtime = "process"
    capability = "process_isolation"

    def __init__(self, config: SubprocessConfig | None = None) -> None:
        self._subprocess = config or SubprocessConfig()
        super().__init__(self._subprocess)
        self._shared: _Shared | None = None
        self._changing = asyncio.Lock()

    async def start(self, host: Host, needs: Needs = NOTHING) -> None:
        """See Executor."""
        await super().start(host, needs)
        if self._subprocess.cache_venv:
            try:
                self._shared = await self._prepared()
            except BaseException:
                await self.close()
                raise

    async def install(self, requirements_: Sequence[str]) -> tuple[list[str], list[str]]:
        """See Executor."""
        shared = self._shared
        if shared is None:
            return await super().install(requirements_)
        async with self._changing:
            known = await asyncio.to_thread(_known, shared)
            there = [each for each in requirements_ if installing.satisfied(each, known)]
            missing = [each for each in requirements_ if each not in there]
            if missing:
                await self._change(shared, shared.wanted | {requirements.package(each): each for each in missing})
            return missing, there

    async def uninstall(self, packages: Sequence[str]) -> tuple[list[str], list[str]]:
        """See Executor."""
        shared = self._shared
        if shared is None:
            return await super().uninstall(packages)
        async with self._changing:
            removed = [each for each in packages if requirements.package(each) in shared.wanted]
            gone = {requirements.package(each) for each in removed}
            if removed:
                await self._change(shared, {name: each for name, each in shared.wanted.items() if name not in gone})
            return removed, [each for each in packages if each not in removed]

    def _kernel(self, needs: Needs) -> dict[str, Any]:
        return {
            "template": needs.template,
            "network": needs.network,
            "python_version": self._subprocess.python_version,
        }

    async def _prepared(self) -> _Shared | None:
        """Has the kernel look for packages through a link, which is changed when others are wanted.

        None where the process is on another machine than this one: its packages are installed for it alone.
        """
        told = (await self._started().run(_SURVEY)).value
        if not isinstance(told, dict) or len(told["own"]) != 1:
            raise EnvironmentFailed("the process does not tell what its Python has")
        own = Path(told["own"][0])
        packages = {requirements.package(name): version for name, version in told["packages"].items()}
        interpreter = cached.Interpreter(told["path"], told["version"], packages)
        link = own.parent / _LINK
        if not await asyncio.to_thread(own.is_dir):
            return None
        empty = await cached.folder(interpreter, ())
        await asyncio.to_thread(_place, own, link, empty)
        await self._started().run(f"import sys\nsys.path.append({str(link)!r})")
        return _Shared(interpreter, link, {}, empty)

    async def _change(self, shared: _Shared, wanted: dict[str, str]) -> None:
        shared.folder = await cached.folder(shared.interpreter, list(wanted.values()))
        await asyncio.to_thread(_point, shared.link, shared.folder)
        shared.wanted = wanted


def _known(shared: _Shared) -> dict[str, str]:
    found = {
        requirements.package(each.metadata["Name"]): each.version
        for each in importlib.metadata.distributions(path=[str(shared.folder)])
    }
    return {**found, **shared.interpreter.packages}


def _place(own: Path, link: Path, folder: Path) -> None:
    (own / _NAMED).write_text(f"{link}\n")
    _point(link, folder)


def _point(link: Path, folder: Path) -> None:
    """Changes where a link leads to, in one step."""
    new = link.with_name(f"{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(folder)
    new.replace(link)
