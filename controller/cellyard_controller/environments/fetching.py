"""Fetches packages: a child process that resolves, downloads wheels and unpacks them, and runs no code of any.

Where the controller is root the child has a user of its own. It knows nothing of the controller's environment, its
files are in a folder of its own, and time, memory and disk are bounded. What it leaves is data that nobody trusts.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from uv import find_uv_bin

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments.definition import Definition, Interpreter
from cellyard_controller.errors import EnvironmentFailed
from cellyard_controller.runtimes import MIB
from cellyard_proto import amounts

FETCH_UID = 64_997
"""Where the controller is root: nobody's, beyond the users of distributions."""
_MEMORY = 8192 * MIB
"""Address space; what is used of it is a fraction."""
_LOOK_EVERY = 1.0
_LOG_BYTES = 64 * 1024
_SHOWN, _CAUSE_SHOWN, _LOG_SHOWN = 120, 700, 1400
"""Characters: what a client is told travels in a small place."""
_LAUNCH = Path(__file__).with_name("launch.py")
_CAUSE = re.compile(r"cause: (.*?)(?:\n\s*\n|\nhint:|\Z)", re.DOTALL)
_BECAUSE = re.compile(r"\bbecause (.*?), we can conclude", re.DOTALL | re.IGNORECASE)
_HINT = re.compile(r"hint: (.*)", re.DOTALL)
_SYSTEMS = tuple(f"{folder}/{name}" for folder in ("/usr/local/bin", "/usr/bin") for name in ("python3", "python"))
_LEFT_OUT = ("bin", ".lock")
"""Programs whose first line names an interpreter of this machine, and the fetcher's own."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched."""

    site: Path
    """A folder of modules. Symbolic links and the like may be in it, for all that anybody knows."""
    packages: tuple[str, ...]
    """Like tiny==1.0, sorted."""


@asynccontextmanager
async def fetched(
    definition: Definition, interpreter: Interpreter, config: EnvironmentsConfig
) -> AsyncIterator[Fetched]:
    """The packages in a folder that is gone afterwards. Raises EnvironmentFailed."""
    folder = Path(tempfile.mkdtemp(prefix="cellyard-environment-"))
    uid = FETCH_UID if os.geteuid() == 0 else None
    try:
        site = folder / "site"
        site.mkdir()
        if definition.requirements:
            (folder / "requirements.in").write_text("".join(f"{each}\n" for each in definition.requirements))
            if uid is not None:
                os.chown(folder, uid, uid)
                os.chown(site, uid, uid)
                (folder / "requirements.in").chmod(0o644)
            await _run(_command(interpreter, config), folder, uid, definition, config)
            if await asyncio.to_thread(size_of, site) > config.size:
                raise _failure(f"its packages take more than {amounts.size(config.size)}", 0, "", definition)
        for name in _LEFT_OUT:
            _discard(site / name)
        yield Fetched(site, _packages(site))
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _command(interpreter: Interpreter, config: EnvironmentsConfig) -> list[str]:
    command = [find_uv_bin(), "pip", "install", "--no-config", "--no-python-downloads", "--color", "never"]
    command += ["--python", _python(config), "--python-version", interpreter.markers["python_full_version"]]
    command += ["--python-platform", interpreter.platform, "--only-binary", ":all:", "--no-progress"]
    command += ["--cache-dir", "cache", "--target", "site", "--requirements", "requirements.in"]
    return command


def _python(config: EnvironmentsConfig) -> str:
    """An interpreter of this machine, which uv asks what it is. Packages are chosen for the image's all the same."""
    if config.python is not None:
        return str(config.python)
    for candidate in (sys.executable, *_SYSTEMS):
        path = Path(candidate).resolve()
        if path.is_file() and all(each.stat().st_mode & stat.S_IXOTH for each in (path, *path.parents)):
            return str(path)
    if os.geteuid() != 0:
        return os.path.realpath(sys.executable)
    raise EnvironmentFailed(
        "no Python of this machine can be started by others than root: the operator names one as environments.python"
    )


def _environment(config: EnvironmentsConfig, folder: Path) -> dict[str, str]:
    given = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
    if config.index:
        given["UV_DEFAULT_INDEX"] = config.index  # not an argument: those are for every user of the machine to see
    if config.proxy:
        given |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), config.proxy)
    if config.certificates is not None:
        given["SSL_CERT_FILE"] = str(config.certificates)
    return given


async def _run(
    argv: list[str], folder: Path, uid: int | None, definition: Definition, config: EnvironmentsConfig
) -> None:
    limits = {"CORE": 0, "FSIZE": config.size, "NOFILE": 4096, "AS": _MEMORY, "CPU": int(config.fetch_timeout) + 1}
    order = {"argv": argv, "env": _environment(config, folder), "uid": uid, "limits": limits, "parent": os.getpid()}
    log = folder / "log"
    with log.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", str(_LAUNCH), json.dumps(order)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=folder,
            env={},
            start_new_session=True,
        )
    cut = ""
    try:
        async with asyncio.timeout(config.fetch_timeout):
            cut = await _watch(process, folder, config.size)
    except TimeoutError:
        cut = f"fetching took longer than {amounts.duration(config.fetch_timeout)}"
    finally:
        # All that it may have started, and it itself, whatever became of it.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        code = await process.wait()
    if cut or code != 0:
        raise _failure(cut, code, _tail(log, config), definition)


async def _watch(process: asyncio.subprocess.Process, folder: Path, most: int) -> str:
    """Returns at its end, or with what it did too much of."""
    ending = asyncio.ensure_future(process.wait())
    try:
        while not (await asyncio.wait({ending}, timeout=_LOOK_EVERY))[0]:
            if await asyncio.to_thread(size_of, folder) > 2 * most:  # archives and what is in them
                return f"more was fetched than {amounts.size(most)}"
        return ""
    finally:
        ending.cancel()


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; links are not followed, and one file with several names counts once."""
    total, seen = 0, set()
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                about = os.lstat(os.path.join(parent, name))
            except OSError:
                continue  # gone meanwhile
            if (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                total += about.st_size
    return total


def _failure(cut: str, code: int, log: str, definition: Definition) -> EnvironmentFailed:
    """Which requirement failed, and why, in a sentence; the log goes along."""
    cause = cut or _cause(log) or f"the fetcher ended with {code}"
    requirement = _blamed(cause, definition.requirements)
    about = f"the requirement {requirement[:_SHOWN]!r}" if requirement else "the environment"
    message = f"{about} cannot be had: {cause[:_CAUSE_SHOWN]}"
    return EnvironmentFailed(message, requirement=requirement, log=log[-_LOG_SHOWN:])


def _cause(log: str) -> str:
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
        name = re.split(r"[^a-z0-9-]", requirement, maxsplit=1)[0]
        found = re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", cause)
        if found:
            places.append((found.start(), requirement))
    return min(places)[1] if places else (requirements[0] if len(requirements) == 1 else "")


def _tail(log: Path, config: EnvironmentsConfig) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
        text = file.read().decode(errors="replace")
    # Where the operator's index is, and how one gets in there, is nobody else's business.
    for secret in (config.index, config.proxy):
        if secret:
            text = text.replace(secret, "INDEX").replace(urlsplit(secret).netloc, "INDEX")
    return text


def _packages(site: Path) -> tuple[str, ...]:
    names = (each.name.removesuffix(".dist-info") for each in site.iterdir() if each.name.endswith(".dist-info"))
    return tuple(sorted("==".join(name.rsplit("-", 1)) for name in names))


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
