"""Fetches conda packages with rattler: solves, downloads and links them, and runs no code of any."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments import apart
from cellyard_controller.environments.definition import Definition, Interpreter
from cellyard_controller.environments.fetching import Fetched, failure
from cellyard_controller.environments.shelf import open_plain
from cellyard_controller.errors import CapabilityUnavailable, EnvironmentFailed
from cellyard_controller.runtimes import ENVIRONMENT
from cellyard_proto import amounts

_CHILD = Path(__file__).with_name("conda_fetch.py")
_RESULT = 1024 * 1024
_SHOWN = 700
"""Characters: what a client is told travels in a small place."""
_KERNEL = ("python >=3.11", "ipython >=9", "comm")
"""What the kernel stands on, and what no definition need list."""
_POST_LINK = re.compile(r"\.(.+)-post-link\.sh")


@asynccontextmanager
async def fetched_conda(
    definition: Definition, interpreter: Interpreter, config: EnvironmentsConfig
) -> AsyncIterator[Fetched]:
    """The environment in a folder that is gone afterwards; in it, paths are as it will be seen in sandboxes.

    Raises EnvironmentFailed, CapabilityUnavailable where no channel can be reached.
    """
    async with apart.scratch() as folder:
        await asyncio.to_thread(_lend_rattler, folder / "modules")
        urls = config.conda.by_name
        if missing := [name for name in definition.channels if name not in urls]:
            raise CapabilityUnavailable(f"this controller has no conda channel {missing[0]!r} any more")
        order = {
            "modules": str(folder / "modules"),
            "channels": [urls[name] for name in definition.channels],
            "specs": [*definition.requirements, *_KERNEL],
            "subdir": interpreter.subdir,
            "glibc": "{}.{}".format(*interpreter.libc[1:]),
            "prefix": ENVIRONMENT,
            "certificates": config.certificates is not None,
            "timeout": config.fetch_timeout,
        }
        # Not as an argument: those are for every user of the machine to see, and URLs of channels may hold secrets.
        path = folder / "order.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(order))
        apart.give(path)
        try:
            await apart.run([apart.python(config), "-I", "-S", "-c", _CHILD.read_text(), str(path)], folder, config)
        except apart.Failed as failed:
            raise await asyncio.to_thread(_why, failed, folder, definition) from None
        if await asyncio.to_thread(apart.size_of, folder / "site") > config.size:
            raise failure(f"its packages take more than {amounts.size(config.size)}", "", definition.requirements)
        about = await asyncio.to_thread(_result, folder)
        packages = tuple(str(each) for each in about.get("packages", ()))
        yield Fetched(folder / "site", packages, await asyncio.to_thread(_not_run, folder / "site"))


def _lend_rattler(modules: Path) -> None:
    """A folder that the child can import rattler from, and nothing else of this controller's."""
    found = importlib.util.find_spec("rattler")
    if found is None or found.origin is None:
        raise CapabilityUnavailable("conda environments need the Python package py-rattler on the controller's machine")
    source = Path(found.origin).resolve().parent
    modules.mkdir(mode=0o755)
    modules.chmod(0o755)
    if os.geteuid() != 0 or all(each.stat().st_mode & stat.S_IXOTH for each in (source, *source.parents)):
        (modules / "rattler").symlink_to(source)
    else:
        shutil.copytree(source, modules / "rattler")


def _why(failed: apart.Failed, folder: Path, definition: Definition) -> EnvironmentFailed | CapabilityUnavailable:
    """What is said of it: the child's own word, where it had any."""
    try:
        about = {} if failed.cut else _result(folder)
    except EnvironmentFailed:
        about = {}
    package = str(about.get("package", ""))[:100]
    if about.get("failed") == "channel":
        names = ", ".join(definition.channels)
        return CapabilityUnavailable(f"no conda environment can be had: a channel ({names}) fails: {_short(failed)}")
    cause = failed.cut or _short(failed) or f"the fetcher ended with {failed.code}"
    if package and not failed.cut:
        cause = f"{package}: {cause}"
    return failure(cause, failed.log, definition.requirements)


def _short(failed: apart.Failed) -> str:
    """The end of the log in a sentence; the operator's places are not in it any more."""
    panicked = re.search(r"panicked at .*\n(.*)", failed.log)
    lines = failed.log.strip().splitlines() or [""]
    text = panicked[1] if panicked else lines[-1].removeprefix("error: ")
    return " ".join(re.sub(r"[│├└─]+", " ", text).split())[:_SHOWN]


def _result(folder: Path) -> dict[str, Any]:
    """What the child has left. Untrusted. Raises EnvironmentFailed."""
    try:
        with open_plain(folder / "result.json") as file:
            about = json.loads(file.read(_RESULT))
    except (OSError, ValueError, RecursionError):
        raise EnvironmentFailed("the fetcher has not said what it fetched") from None
    return about if isinstance(about, dict) else {}


def _not_run(site: Path) -> tuple[str, ...]:
    """Packages that have a script for the time after linking."""
    try:
        names: Sequence[str] = os.listdir(site / "bin")
    except OSError:
        return ()
    return tuple(sorted(found[1] for each in names if (found := _POST_LINK.fullmatch(each))))
