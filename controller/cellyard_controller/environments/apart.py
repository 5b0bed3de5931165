"""Programs that are run apart from the controller: as somebody else, in a folder of their own, for so long.

Where the controller is root they have a user of their own. They know nothing of the controller's environment, and time,
memory and disk are bounded. What they leave is data that nobody trusts.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.errors import EnvironmentFailed
from cellyard_controller.runtimes import MIB
from cellyard_proto import amounts

FETCH_UID = 64_997
"""Where the controller is root: nobody's, beyond the users of distributions."""
_MEMORY = 8192 * MIB
"""Address space; what is used of it is a fraction."""
_LOOK_EVERY = 1.0
_ENTRY = 4096
"""Bytes that a file counts for besides its content."""
_LOG_BYTES = 64 * 1024
_LAUNCH = Path(__file__).with_name("launch.py")
_SYSTEMS = tuple(f"{folder}/{name}" for folder in ("/usr/local/bin", "/usr/bin") for name in ("python3", "python"))


class Failed(Exception):
    """A program did not do its work. The message says why it was cut; "" where it ended by itself."""

    def __init__(self, cut: str, code: int, log: str) -> None:
        super().__init__(cut)
        self.cut, self.code, self.log = cut, code, log


@asynccontextmanager
async def scratch() -> AsyncIterator[Path]:
    """A folder for programs, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cellyard-environment-"))
    try:
        give(folder)
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def give(path: Path) -> None:
    """What the controller put there is theirs."""
    if os.geteuid() == 0:
        os.chown(path, FETCH_UID, FETCH_UID)


def python(config: EnvironmentsConfig) -> str:
    """An interpreter of this machine that they may start. Raises EnvironmentFailed."""
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


async def run(argv: Sequence[str], folder: Path, config: EnvironmentsConfig) -> None:
    """Runs a program there to its end. Raises Failed."""
    limits = {"CORE": 0, "FSIZE": config.size, "NOFILE": 4096, "AS": _MEMORY, "CPU": int(config.fetch_timeout) + 1}
    order = {
        "argv": argv,
        "env": _environment(config, folder),
        "uid": FETCH_UID if os.geteuid() == 0 else None,
        "limits": limits,
        "parent": os.getpid(),
    }
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
        raise Failed(cut, code, _tail(log, config))


def size_of(folder: Path) -> int:
    """Bytes of what lies below a folder, where nothing costs nothing: empty files and folders take room on a disk too.

    Links are not followed, and one file with several names counts once.
    """
    total, seen = 0, set()
    for parent, folders, names in os.walk(folder):
        total += _ENTRY * len(folders)
        for name in names:
            try:
                about = os.lstat(os.path.join(parent, name))
            except OSError:
                continue  # gone meanwhile
            if (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                total += about.st_size + _ENTRY
    return total


def _environment(config: EnvironmentsConfig, folder: Path) -> dict[str, str]:
    given = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
    if config.index:
        given["UV_DEFAULT_INDEX"] = config.index  # not an argument: those are for every user of the machine to see
    if config.proxy:
        given |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), config.proxy)
    if config.certificates is not None:
        given["SSL_CERT_FILE"] = str(config.certificates)
    return given


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


def _tail(log: Path, config: EnvironmentsConfig) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
        text = file.read().decode(errors="replace")
    # Where the operator's index is, and how one gets in there, is nobody else's business.
    for url, name in [(config.index, "INDEX"), (config.proxy, "INDEX"), *_channels(config)]:
        for part in _telling(url):
            text = text.replace(part, name)
    return text


def _channels(config: EnvironmentsConfig) -> list[tuple[str, str]]:
    return [(url.rstrip("/"), name) for name, url in config.conda.by_name.items()]


def _telling(secret: str) -> list[str]:
    """What of a URL tells where it leads, or how one gets in: also where programs leave some of it out."""
    if not secret:
        return []
    url = urlsplit(secret)
    place = url.netloc.rpartition("@")[2]
    bare = url._replace(netloc=place).geturl()
    return [part for part in (secret, bare, url.netloc, place, url.hostname, url.password) if part]
