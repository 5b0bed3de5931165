"""Fetches packages with uv: resolves, downloads wheels and unpacks them, and runs no code of any."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments import apart
from cellyard_controller.environments.definition import Definition, Interpreter, Present
from cellyard_controller.environments.shelf import CONDA_META
from cellyard_controller.errors import EnvironmentFailed
from cellyard_proto import amounts

_SHOWN, _CAUSE_SHOWN, _LOG_SHOWN = 120, 700, 1400
"""Characters: what a client is told travels in a small place."""
_CAUSE = re.compile(r"cause: (.*?)(?:\n\s*\n|\nhint:|\Z)", re.DOTALL)
_BECAUSE = re.compile(r"\bbecause (.*?), we can conclude", re.DOTALL | re.IGNORECASE)
_HINT = re.compile(r"hint: (.*)", re.DOTALL)
_NO_WHEEL = re.compile(r"Wheels are required for `([^`]+)` because building from source is disabled")
_LEFT_OUT = ("bin", ".lock", CONDA_META)
"""Programs whose first line names an interpreter of this machine, the fetcher's own, and the mark of conda's."""


class SourcesAlone(EnvironmentFailed):
    """Packages have no wheel that fits, and have to be built."""

    def __init__(self, failed: EnvironmentFailed, packages: Sequence[str]) -> None:
        super().__init__(failed.message, requirement=failed.details["requirement"], log=failed.details["log"])
        self.packages = tuple(packages)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched."""

    site: Path
    """A folder of modules. Symbolic links and the like may be in it, for all that anybody knows."""
    packages: tuple[str, ...]
    """Like tiny==1.0, sorted."""
    not_run: tuple[str, ...] = ()
    """Packages of conda's with scripts that would be run after linking."""


@asynccontextmanager
async def fetched(
    definition: Definition, interpreter: Interpreter, config: EnvironmentsConfig, wheels: Mapping[str, Path]
) -> AsyncIterator[Fetched]:
    """The packages in a folder that is gone afterwards. `wheels`: more of them, by file name, beside the index's.

    Raises EnvironmentFailed, SourcesAlone.
    """
    async with apart.scratch() as folder:
        site = folder / "site"
        site.mkdir()
        apart.give(site)
        if definition.requirements:
            _pretend(definition.present, site, folder)
            await _install(definition, interpreter, config, folder, wheels)
            for each in definition.present:
                _discard(site / _about(each))
            if await asyncio.to_thread(apart.size_of, site) > config.size:
                raise failure(f"its packages take more than {amounts.size(config.size)}", "", definition.requirements)
        for name in _LEFT_OUT:
            _discard(site / name)
        yield Fetched(site, _packages(site))


async def _install(
    definition: Definition,
    interpreter: Interpreter,
    config: EnvironmentsConfig,
    folder: Path,
    wheels: Mapping[str, Path],
) -> None:
    (folder / "requirements.in").write_text("".join(f"{each}\n" for each in definition.requirements))
    (folder / "requirements.in").chmod(0o644)
    command = [*uv("install", interpreter, config), "--only-binary", ":all:", "--target", "site"]
    if definition.present:
        command += ["--constraints", "present.txt"]
    if wheels:
        (folder / "wheels").mkdir(mode=0o755)
        for name, path in wheels.items():
            shutil.copyfile(path, folder / "wheels" / name)
            (folder / "wheels" / name).chmod(0o644)
        command += ["--find-links", "wheels"]
    try:
        await apart.run([*command, "--requirements", "requirements.in"], folder, config)
    except apart.Failed as failed:
        cause = failed.cut or cause_of(failed.log) or f"the fetcher ended with {failed.code}"
        told = failure(cause, failed.log, definition.requirements)
        lacking = _NO_WHEEL.findall(failed.log)
        raise SourcesAlone(told, lacking) if lacking and not failed.cut else told from None


def _pretend(present: Sequence[Present], site: Path, folder: Path) -> None:
    """Has uv believe that these are installed, so that it fetches neither them nor other versions of them."""
    for each in present:
        about = site / _about(each)
        about.mkdir()
        told = f"Metadata-Version: 2.1\nName: {each.name}\nVersion: {each.version}\n"
        told += "".join(f"Requires-Dist: {requirement}\n" for requirement in each.requires)
        told += "".join(f"Provides-Extra: {extra}\n" for extra in each.extras)
        for name, content in {"METADATA": told, "RECORD": "", "INSTALLER": "uv\n"}.items():
            (about / name).write_text(content)
            (about / name).chmod(0o644)
        apart.give(about)
    (folder / "present.txt").write_text("".join(f"{each.name}=={each.version}\n" for each in present))
    (folder / "present.txt").chmod(0o644)


def _about(package: Present) -> str:
    return f"{package.name.replace('-', '_')}-{package.version}.dist-info"


def uv(command: str, interpreter: Interpreter, config: EnvironmentsConfig) -> list[str]:
    """uv, asked for packages for the image's Python. An interpreter of this machine is what it asks what Python is."""
    words = [find_uv_bin(), "pip", command, "--no-config", "--no-python-downloads", "--color", "never"]
    words += ["--python", apart.python(config), "--python-version", interpreter.markers["python_full_version"]]
    return [*words, "--python-platform", interpreter.platform, "--no-progress", "--cache-dir", "cache"]


def failure(cause: str, log: str, requirements: Sequence[str]) -> EnvironmentFailed:
    """Which requirement failed, and why, in a sentence; the log goes along."""
    requirement = _blamed(cause, requirements)
    about = f"the requirement {requirement[:_SHOWN]!r}" if requirement else "the environment"
    message = f"{about} cannot be had: {cause[:_CAUSE_SHOWN]}"
    return EnvironmentFailed(message, requirement=requirement, log=log[-_LOG_SHOWN:])


def cause_of(log: str) -> str:
    """What uv says of why it failed, in short; "" where it says nothing."""
    found = _CAUSE.search(log)
    if found is None:
        lines = [line for line in log.splitlines() if line.startswith("error:")]
        return lines[0].removeprefix("error: ") if lines else ""
    text = " ".join(found[1].split())
    because = _BECAUSE.search(text)
    hint = _HINT.search(log)
    more = f" ({' '.join(hint[1].split())})" if hint else ""
    return (because[1] if because else text).rstrip(".") + more


def _blamed(cause: str, requirements: Sequence[str]) -> str:
    """Which of the requirements the cause speaks of first; "" where it speaks of none."""
    places = []
    for requirement in requirements:
        found = re.search(rf"(?<![\w-]){re.escape(name_in(requirement))}(?![\w-])", cause)
        if found:
            places.append((found.start(), requirement))
    return min(places)[1] if places else (requirements[0] if len(requirements) == 1 else "")


def name_in(requirement: str) -> str:
    """The package's name in a requirement that is spelled in the one way."""
    return re.split(r"[^a-z0-9._-]", requirement, maxsplit=1)[0]


def _packages(site: Path) -> tuple[str, ...]:
    names = (each.name.removesuffix(".dist-info") for each in site.iterdir() if each.name.endswith(".dist-info"))
    return tuple(sorted("==".join(name.rsplit("-", 1)) for name in names))


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
