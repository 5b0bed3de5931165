"""Packages for code in this very process: in folders of a session's own, behind everything that the process has."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from cellyard.errors import CapabilityUnavailable, EnvironmentFailed, InvalidRequest

_Done: TypeAlias = tuple[list[str], list[str]]

TIMEOUT_S = 600.0
"""Seconds for one call of the installer."""

_LOG = 64 * 1024  # bytes of what an installer says that an error carries
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?P<extras>\[[A-Za-z0-9._,\s-]*\])?"
    r"\s*(?P<versions>(?:[<>=!~]=?=?\s*[A-Za-z0-9.*+!_-]+\s*,?\s*)*)"
)
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!_-]+)")


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
        if importlib.util.find_spec("uv") is not None:
            import uv

            try:
                return [os.fsdecode(uv.find_uv_bin())]
            except FileNotFoundError:
                pass  # the module without its program
        found = shutil.which("uv")
        if found is not None:
            return [found]
        return [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") is not None else None

    async def install(self, requirements: Sequence[str]) -> _Done:
        """See Executor. What the process has, stays and is used: what cannot do with it, is refused."""
        wanted = [_checked(requirement) for requirement in requirements]
        return await self._alone(lambda: self._install(wanted))

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
        there = [each for each in wanted if _satisfied(each, present)]
        missing = [each for each in wanted if each not in there]
        if not missing:
            return [], there
        command = self.installer()
        if command is None:
            raise CapabilityUnavailable("packages need uv or pip in this Python environment, and it has neither")
        folder = await asyncio.to_thread(self._new_folder)
        try:
            pins = await self._resolved(command, missing, present, folder)
            target = ["--no-deps", "--target", str(folder)]
            if pins:
                await _run([*command, *_INSTALL[command[-1] == "pip"], *target, *pins], missing)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        # Those of ours that come in another version now: the first on sys.path would count.
        await asyncio.to_thread(self._remove, {_normal(pin.partition("==")[0]) for pin in pins})
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

    async def _resolved(
        self, command: Sequence[str], wanted: Sequence[str], present: dict[str, str], folder: Path
    ) -> list[str]:
        """What has to come so that these work beside what is there, as NAME==VERSION."""
        ours = await asyncio.to_thread(self._ours)
        fixed = {name: version for name, version in present.items() if name not in ours}
        for each in wanted:
            name = _normal(_name(each))
            if name in fixed and not _satisfied(each, fixed) and not each.partition("[")[2]:
                raise EnvironmentFailed(
                    f"{each}: this process has {name} {fixed[name]}, which no session inside it can replace",
                    details={"log": ""},
                )
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".txt") as constraints:
            # A local version, 2.1+cpu, is of no index: the same without it is.
            constraints.writelines(f"{name}=={version.partition('+')[0]}\n" for name, version in sorted(fixed.items()))
            constraints.flush()
            if command[-1] == "pip":
                # Looks at what there is by itself.
                report = folder / "report.json"
                options = ["--dry-run", "--report", str(report), "--constraint"]
                await _run([*command, *_INSTALL[True], *options, constraints.name, *wanted], wanted)
                found = _reported(await asyncio.to_thread(report.read_text))
                await asyncio.to_thread(report.unlink)
            else:
                listed = folder / "wanted.txt"
                await asyncio.to_thread(listed.write_text, "".join(f"{each}\n" for each in wanted))
                options = ["--quiet", "--no-header", "--no-annotate", "--python", sys.executable, "--constraint"]
                said = await _run([*command, "pip", "compile", *options, constraints.name, str(listed)], wanted)
                found = {match[1]: match[2] for match in map(_PIN.match, said.splitlines()) if match is not None}
                await asyncio.to_thread(listed.unlink)
        return [f"{name}=={version}" for name, version in found.items() if _normal(name) not in fixed]

    def _ours(self) -> dict[str, importlib.metadata.Distribution]:
        return {
            _normal(each.name): each for each in importlib.metadata.distributions(path=list(map(str, self._folders)))
        }

    async def _uninstall(self, packages: Sequence[str]) -> _Done:
        gone = await asyncio.to_thread(self._remove, {_normal(_name(package)) for package in packages})
        importlib.invalidate_caches()
        removed = [package for package in packages if _normal(_name(package)) in gone]
        return removed, [package for package in packages if package not in removed]

    def _remove(self, names: set[str]) -> set[str]:
        """Removes the files of those of ours that have these names, and what was imported from them."""
        found = {name: each for name, each in self._ours().items() if name in names}
        for distribution in found.values():
            folder = Path(str(distribution.locate_file("")))
            files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
            # A RECORD is what a package says of itself: it may name anything.
            files = [file for file in files if Path(os.path.normpath(file)).is_relative_to(folder)]
            _forget({str(file) for file in files})
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


_INSTALL: dict[bool, list[str]] = {
    False: ["pip", "install", "--quiet", "--python", sys.executable],
    True: ["install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"],
}
"""By whether it is pip."""


def _checked(requirement: object) -> str:
    """A name with versions; nothing else may reach an installer's command line. Raises InvalidRequest."""
    if not isinstance(requirement, str) or len(requirement) > 256 or not _REQUIREMENT.fullmatch(requirement.strip()):
        raise InvalidRequest(f"{requirement!r:.100} is no package: a name, and versions if need be")
    return requirement.strip()


def _name(requirement: str) -> str:
    match = _REQUIREMENT.fullmatch(requirement)
    assert match is not None, "requirements are checked first"
    return match["name"]


def _normal(name: str) -> str:
    """A name as packaging compares them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _present() -> dict[str, str]:
    """Versions by name of what this process can import. The first on sys.path counts."""
    found: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        name, version = each.metadata["Name"], each.metadata["Version"]
        if name and version:  # what is damaged may have neither
            found.setdefault(_normal(name), version)
    return found


def _satisfied(requirement: str, present: dict[str, str]) -> bool:
    match = _REQUIREMENT.fullmatch(requirement)
    assert match is not None, "requirements are checked first"
    version = present.get(_normal(match["name"]))
    if version is None or match["extras"]:
        return False  # what an extra needs may be missing
    if not match["versions"].strip():
        return True
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
        from packaging.version import InvalidVersion
    except ImportError:
        raise CapabilityUnavailable(
            "comparing versions needs packaging, which is not installed: `pip install cellyard[codemode]`"
        ) from None
    try:
        return SpecifierSet(match["versions"]).contains(version, prereleases=True)
    except InvalidSpecifier:
        raise InvalidRequest(f"{requirement!r} has versions that are none") from None
    except InvalidVersion:
        return False


def _reported(text: str) -> dict[str, str]:
    """Versions by name in pip's report."""
    return {each["metadata"]["name"]: each["metadata"]["version"] for each in json.loads(text)["install"]}


def _forget(files: set[str]) -> None:
    """Lets the next import look for these anew."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) in files:
            del sys.modules[name]


def _below(folder: Path, file: Path) -> list[Path]:
    """The folders that a file is in, up to this one."""
    return [parent for parent in file.parents if parent != folder and parent.is_relative_to(folder)]


def _leave_path(folder: Path) -> None:
    try:
        sys.path.remove(str(folder))
    except ValueError:
        pass  # code has removed it
    sys.path_importer_cache.pop(str(folder), None)


async def _run(command: Sequence[str], wanted: Sequence[str]) -> str:
    """What an installer prints. Raises EnvironmentFailed; an end of the waiting is its end, and of its children."""
    with tempfile.TemporaryFile() as log:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "NO_COLOR": "1", "UV_NO_PROGRESS": "1", "PYTHONPATH": ""},
            )
        except OSError as failed:
            raise EnvironmentFailed(f"{command[0]} cannot be started: {failed}", details={"log": ""}) from None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                said, _ = await process.communicate()
        except TimeoutError:
            raise EnvironmentFailed(
                f"{', '.join(wanted)}: not installed within {TIMEOUT_S:g} s",
                retryable=True,
                details={"log": _tail(log)},
            ) from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            text = _public(said.decode("utf-8", "replace")[-_LOG:] + _tail(log))
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            why = next((line for line in lines if line.startswith("ERROR:")), " ".join(lines))[:1000]
            why = why or f"the installer ended with {process.returncode}"
            raise EnvironmentFailed(f"{', '.join(wanted)}: {why}", details={"log": text})
        return said.decode("utf-8", "replace")


def _tail(log: Any) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _LOG))
    return str(log.read().decode("utf-8", "replace"))


def _public(text: str) -> str:
    """Without the passwords of package indexes."""
    return re.sub(r"://[^/\s@]*@", "://", text)
