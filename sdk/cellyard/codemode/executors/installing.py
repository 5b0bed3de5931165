"""Installs packages into a folder: uv does it, else pip, for whichever Python is to find them there."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cellyard.errors import CapabilityUnavailable, EnvironmentFailed, InvalidRequest
from cellyard_proto.codemode import requirements

TIMEOUT_S = 600.0
"""Seconds for one call of the installer."""

_LOG = 64 * 1024  # bytes of what an installer says that an error carries
_VERSIONS = re.compile(r"[A-Za-z0-9._-]+(\[[^\]]*\])?(.*)")
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!_-]+)")
_INSTALL: dict[bool, list[str]] = {
    False: ["pip", "install", "--quiet", "--compile-bytecode"],
    True: ["install", "--disable-pip-version-check", "--no-input", "--quiet"],
}
"""By whether it is pip."""


def installer() -> list[str] | None:
    """The command of uv, else of this Python's pip; None where there is neither."""
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


def satisfied(requirement: str, present: Mapping[str, str]) -> bool:
    """Whether one of these packages (versions by name) is what is asked for."""
    match = _VERSIONS.fullmatch(requirement)
    version = present.get(requirements.package(requirement))
    if match is None or version is None or match[1]:
        return False  # what an extra needs may be missing
    if not match[2].strip():
        return True
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
        from packaging.version import InvalidVersion
    except ImportError:
        raise CapabilityUnavailable(
            "comparing versions needs packaging, which is not installed: `pip install cellyard[codemode]`"
        ) from None
    try:
        return SpecifierSet(match[2]).contains(version, prereleases=True)
    except InvalidSpecifier:
        raise InvalidRequest(f"{requirement!r} has versions that are none") from None
    except InvalidVersion:
        return False


async def install(
    command: Sequence[str], python: str, wanted: Sequence[str], fixed: Mapping[str, str], folder: Path
) -> set[str]:
    """Installs what these need into a folder, where this Python looks after it has looked at what it has: `fixed`,
    versions by name, none of which comes again. Returns the names of what came.

    Raises EnvironmentFailed where they cannot be had beside that.
    """
    pins = await _resolved(command, python, wanted, fixed, folder)
    if pins:
        is_pip = command[-1] == "pip"
        target = [*([] if is_pip else ["--python", python]), "--no-deps", "--target", str(folder)]
        await _run([*command, *_INSTALL[is_pip], *target, *pins], wanted)
    return {requirements.package(pin) for pin in pins}


async def _resolved(
    command: Sequence[str], python: str, wanted: Sequence[str], fixed: Mapping[str, str], folder: Path
) -> list[str]:
    """What has to come, as NAME==VERSION."""
    for each in wanted:
        name = requirements.package(each)
        if name in fixed and not satisfied(each, fixed) and "[" not in each:
            raise EnvironmentFailed(
                f"{each}: where the code runs there is {name} {fixed[name]}, which no session can replace",
                details={"log": ""},
            )
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".txt") as constraints:
        # A local version, 2.1+cpu, is of no index: the same without it is.
        constraints.writelines(f"{name}=={version.partition('+')[0]}\n" for name, version in sorted(fixed.items()))
        constraints.flush()
        if command[-1] == "pip":
            # Looks at what there is by itself.
            options = ["--dry-run", "--report", "-", "--constraint"]
            said = await _run([*command, *_INSTALL[True], *options, constraints.name, *wanted], wanted)
            found = _reported(said)
        else:
            listed = folder / "wanted.txt"
            await asyncio.to_thread(listed.write_text, "".join(f"{each}\n" for each in wanted))
            options = ["--quiet", "--no-header", "--no-annotate", "--python", python, "--constraint"]
            said = await _run([*command, "pip", "compile", *options, constraints.name, str(listed)], wanted)
            found = {match[1]: match[2] for match in map(_PIN.match, said.splitlines()) if match is not None}
            await asyncio.to_thread(listed.unlink)
    return [f"{name}=={version}" for name, version in found.items() if requirements.package(name) not in fixed]


def _reported(text: str) -> dict[str, str]:
    """Versions by name in pip's report."""
    return {each["metadata"]["name"]: each["metadata"]["version"] for each in json.loads(text)["install"]}


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
