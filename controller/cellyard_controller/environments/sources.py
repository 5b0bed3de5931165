"""Wheels of packages that have none: their sources are fetched as files and built in a container without a network.

Nothing of a package runs on this machine: uv only chooses the archive (without its dependencies it need not know more
than its name), a process of few rights downloads it, and the image's Python, in a container, says what its build needs,
and builds it.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments import apart
from cellyard_controller.environments.definition import Definition, Interpreter, for_interpreter
from cellyard_controller.environments.fetching import SourcesAlone, cause_of, failure, fetched, name_in, uv
from cellyard_controller.environments.reading import Bounds, read_list
from cellyard_controller.environments.shelf import copy_file, copy_plain, open_plain
from cellyard_controller.environments.workshop import Workshop
from cellyard_controller.errors import EnvironmentFailed, InvalidRequest
from cellyard_controller.runtimes import Runtime, Template

_DOWNLOAD = Path(__file__).with_name("download.py")
_ENDINGS = (".tar.gz", ".zip")
_SOURCE = ".source"
"""The archive's name, beside what its build needs; nothing that is imported has it."""
_LOCK = 1024 * 1024


class Builder:
    """Builds wheels for one environment."""

    def __init__(
        self,
        workshop: Workshop,
        runtime: Runtime,
        template: Template,
        interpreter: Interpreter,
        config: EnvironmentsConfig,
    ) -> None:
        self._workshop, self._runtime, self._template = workshop, runtime, template
        self._interpreter, self._config = interpreter, config

    async def wheel(self, package: str, wanted: Sequence[str], folder: Path) -> Path:
        """Puts a wheel of this package there. `wanted`: what was asked for, among which it may be.

        Raises EnvironmentFailed.
        """
        asked = next((each for each in wanted if name_in(each) == package), package)
        if not self._runtime.own_python:
            raise failure("it has no wheel that fits, and sources are built in containers alone", "", [asked])
        try:
            return await self._wheel(asked, folder)
        except EnvironmentFailed as failed:
            if "requirement" in failed.details:
                raise
            raise failure(failed.message, failed.details.get("log", ""), [asked]) from None

    async def _wheel(self, asked: str, folder: Path) -> Path:
        with self._workshop.bench() as bench:
            archive = await self._fetch(asked, bench)
            needs = await self._needs(asked, bench, archive)
            try:
                async with fetched(needs, self._interpreter, self._config, {}) as tools:
                    await asyncio.to_thread(copy_plain, tools.site, bench)
            except SourcesAlone as alone:
                why = f"what its build needs has no wheel itself: {alone.packages[0]}"
                raise failure(why, "", [asked]) from None
            order = (self._runtime, self._template, bench, archive)
            name, content, said = await self._workshop.build(*order, within=self._config.build_timeout)
        if not _is_wheel_of(name, asked):
            lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it made no wheel"]
            raise failure(f"its build failed: {lines[-1]}", said, [asked])
        (folder / name).write_bytes(content)
        return folder / name

    async def _fetch(self, asked: str, bench: Path) -> str:
        """Puts the archive of its sources there, and returns the name that it has there."""
        async with apart.scratch() as folder:
            (folder / "requirements.in").write_text(f"{asked}\n")
            (folder / "requirements.in").chmod(0o644)
            command = [*uv("compile", self._interpreter, self._config), "--no-deps", "--format", "pylock.toml"]
            try:
                await apart.run([*command, "-o", "pylock.toml", "requirements.in"], folder, self._config)
                with open_plain(folder / "pylock.toml") as lock:
                    url, digest = _chosen(lock.read(_LOCK).decode(errors="replace"))
                ending = next((each for each in _ENDINGS if url.endswith(each)), "")
                if not ending:
                    raise failure("it has neither a wheel nor sources that can be read", "", [asked])
                download = ["-I", "-S", "-c", _DOWNLOAD.read_text(), url, digest, str(self._config.size), "source"]
                await apart.run([apart.python(self._config), *download], folder, self._config)
            except apart.Failed as failed:
                cause = failed.cut or cause_of(failed.log) or "its sources cannot be fetched"
                raise failure(cause, failed.log, [asked]) from None
            await asyncio.to_thread(copy_file, folder / "source", bench / f"{_SOURCE}{ending}", 0o644)
            return f"{_SOURCE}{ending}"

    async def _needs(self, asked: str, bench: Path, archive: str) -> Definition:
        """What has to be there for its build, read like anything that a client lists."""
        listed = await self._workshop.needs(self._runtime, self._template, bench, archive)
        try:
            return for_interpreter(read_list(listed, "", Bounds.of(self._config)), self._interpreter)
        except InvalidRequest as refused:
            raise failure(f"what its build needs is refused: {refused}", "", [asked]) from None


def _is_wheel_of(name: str, asked: str) -> bool:
    try:
        return "/" not in name and parse_wheel_filename(name)[0] == name_in(asked)
    except InvalidWheelFilename:
        return False


def _chosen(lock: str) -> tuple[str, str]:
    """The archive of sources in a lock as PEP 751 has it: its URL and digest; "" where there is none."""
    try:
        [package] = tomllib.loads(lock)["packages"]
        source = package["sdist"]
        return str(source["url"]).partition("#")[0], str(source["hashes"]["sha256"])
    except (tomllib.TOMLDecodeError, KeyError, ValueError, TypeError):
        return "", ""
