"""Packages of a session: what is configured, and bringing it to where the code runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cellyard.codemode.errors import RuntimeDepsDisabledError, made_public
from cellyard.codemode.executors.protocol import Executor, ExecutorConfig
from cellyard.codemode.storage.protocols import DepsStore
from cellyard.errors import CapabilityUnavailable, EnvironmentFailed, InvalidRequest, QuotaExceeded
from cellyard_proto.codemode import requirements

_log = logging.getLogger("cellyard.codemode")


def configured(config: ExecutorConfig, files: Iterable[Path], extra: Iterable[str]) -> tuple[str, ...]:
    """What files and settings list, normalised. Raises DependencyError, which names the line, and OSError."""
    found: list[str] = []
    with made_public():
        for file in (*files, *([Path(config.deps_file)] if config.deps_file is not None else [])):
            found += requirements.from_file(file.read_text(encoding="utf-8"), str(file))
        found += [requirements.normalise(each) for each in (*(config.deps or ()), *extra)]
    return tuple(_latest(found))


class Deps:
    """The packages of one session."""

    def __init__(self, given: Sequence[str], store: DepsStore, executor: Executor, *, allowed: bool) -> None:
        """`given`: configured for this session. `store`: keeps what is added. `allowed`: whether that can be."""
        self._given, self._store, self._executor, self._allowed = list(given), store, executor, allowed
        self._one_at_a_time = asyncio.Lock()

    async def list(self) -> list[str]:
        """What is configured, sorted; at most one requirement for a package."""
        kept = await asyncio.to_thread(self._store.list)
        return sorted(_latest([*self._given, *kept]))

    async def add(self, package: str) -> dict[str, Any]:
        """Installs a package, then keeps it configured.

        Returns installed, already_present and failed. Raises RuntimeDepsDisabledError, DependencyError.
        """
        self._need_permission()
        with made_public():
            requirement = requirements.normalise(package)
        async with self._one_at_a_time:
            done = await self._install([requirement])
            if not done["failed"]:
                await asyncio.to_thread(self._store.put, requirement)
        return done

    async def remove(self, package: str) -> dict[str, Any]:
        """Uninstalls a package and configures it no more.

        Returns removed, not_found, failed and removed_from_config. Raises RuntimeDepsDisabledError, DependencyError.
        """
        self._need_permission()
        with made_public():
            name = requirements.package(requirements.normalise(package))
        async with self._one_at_a_time:
            given = [each for each in self._given if requirements.package(each) != name]
            was_given, self._given = len(given) < len(self._given), given
            was_kept = await asyncio.to_thread(self._store.remove, name)
            try:
                removed, not_found = await self._executor.uninstall([name])
            except (CapabilityUnavailable, EnvironmentFailed) as failed:
                _log.warning("%s was not uninstalled: %s", name, failed)
                return _removal(failed=[name], removed_from_config=was_given or was_kept)
        return _removal(removed=removed, not_found=not_found, removed_from_config=was_given or was_kept)

    async def sync(self) -> dict[str, Any]:
        """Installs all that is configured: installed, already_present, failed."""
        async with self._one_at_a_time:
            return await self._install(await self.list())

    async def restore(self) -> None:
        """Installs what earlier sessions have added."""
        kept = await asyncio.to_thread(self._store.list)
        if kept:
            async with self._one_at_a_time:
                await self._install(kept)

    def _need_permission(self) -> None:
        if not self._allowed:
            raise RuntimeDepsDisabledError(
                "Runtime dependency modification is disabled: the session was made with allow_runtime_deps=False"
            )

    async def _install(self, wanted: Sequence[str]) -> dict[str, Any]:
        """All at once; where that fails, one by one, so that one that cannot be had does not keep the others away."""
        done: dict[str, Any] = {"installed": [], "already_present": [], "failed": []}
        groups = [list(wanted)] if wanted else []
        while groups:
            group = groups.pop(0)
            try:
                installed, present = await self._executor.install(group)
            except (EnvironmentFailed, InvalidRequest, QuotaExceeded) as failed:
                if len(group) > 1:
                    groups += [[each] for each in group]
                    continue
                _log.warning("%s was not installed: %s", group[0], failed)
                done["failed"] += group
            else:
                done["installed"] += installed
                done["already_present"] += present
        return done


def _removal(
    removed: Sequence[str] = (),
    not_found: Sequence[str] = (),
    failed: Sequence[str] = (),
    *,
    removed_from_config: bool,
) -> dict[str, Any]:
    return {
        "removed": list(removed),
        "not_found": list(not_found),
        "failed": list(failed),
        "removed_from_config": removed_from_config,
    }


def _latest(wanted: Iterable[str]) -> list[str]:
    """The last requirement for each package."""
    return list({requirements.package(each): each for each in wanted}.values())
