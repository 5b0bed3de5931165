"""What is done in a container of the image that an environment is for, without a network: asked, finished, checked."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.markers import default_environment

from cellyard_controller.environments.definition import Interpreter
from cellyard_controller.environments.shelf import CONDA_META
from cellyard_controller.errors import CapabilityUnavailable, EnvironmentFailed
from cellyard_controller.runtimes import ENVIRONMENT, Runtime, RuntimeFailed, SandboxSpec, Template
from cellyard_proto import amounts

BUILDER_UID = 64_996
"""Beyond the users of distributions, within the 65,536 ids that an engine with user namespaces has."""
_TELL_WITHIN = 90.0
_LARGEST = 64 * 1024 * 1024
_SOCKET = "agent.sock"
_IMAGES = "python3"


class Workshop:
    """Containers that live as long as one piece of work."""

    def __init__(self, scratch: Path, controller_id: str) -> None:
        """`scratch`: a private folder on a file system that engines see; made when needed."""
        self._scratch, self._controller_id = scratch, controller_id
        self._interpreters: dict[tuple[str, str], Interpreter] = {}

    async def interpreter(self, runtime: Runtime, template: Template) -> Interpreter:
        """The Python of a template's image. Raises EnvironmentFailed, CapabilityUnavailable."""
        try:
            key = (runtime.name, await runtime.makings(template))
        except RuntimeFailed as failed:
            raise CapabilityUnavailable(f"no kernel could be started: {failed}") from failed
        if not runtime.own_python:
            self._interpreters[key] = _mine()
        if key not in self._interpreters:
            async with self._work(runtime, template, {"do": "tell"}, None, _TELL_WITHIN) as said:
                async for about, _ in said:
                    self._interpreters[key] = _interpreter(about)
        if key not in self._interpreters:
            raise EnvironmentFailed(f"the image of the template {template.name!r} does not tell what its Python is")
        return self._interpreters[key]

    async def finish(self, runtime: Runtime, template: Template, site: Path, *, within: float, size: int) -> None:
        """Checks that a kernel starts with an environment, and adds bytecode to it.

        One of conda's does so with its own interpreter. `within` seconds; `size`: bytes of bytecode at most. Where
        sandboxes have no image, nothing is done: kernels add their bytecode themselves. Raises EnvironmentFailed.
        """
        if not runtime.own_python:
            return
        python = f"{ENVIRONMENT}/bin/python" if (site / CONDA_META).is_dir() else _IMAGES
        order = {"do": "finish", "environment": ENVIRONMENT}
        total, verdict = 0, "the check did not come to an end"
        async with self._work(runtime, template, order, site, within, python) as said:
            async for about, content in said:
                if about.get("done") is True:
                    verdict = str(about.get("error", ""))[:500]
                    break
                total += len(content)
                if total > size:
                    raise EnvironmentFailed(f"its bytecode takes more than {amounts.size(size)}")
                await asyncio.to_thread(_put, site, str(about.get("file", "")), content)
        if verdict:
            raise EnvironmentFailed(f"no kernel starts with this environment: {verdict}", log=verdict)

    @contextmanager
    def bench(self) -> Iterator[Path]:
        """A folder that containers can be given; gone afterwards."""
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = self._scratch / uuid.uuid4().hex[:12]
        folder.mkdir()
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def needs(self, runtime: Runtime, template: Template, mounted: Path, archive: str) -> list[str]:
        """What the build of the sources in this folder's archive needs, as it says itself. Raises EnvironmentFailed."""
        order = {"do": "needs", "archive": f"{ENVIRONMENT}/{archive}"}
        async with self._work(runtime, template, order, mounted, _TELL_WITHIN) as said:
            async for about, _ in said:
                listed = about.get("requires")
                if isinstance(listed, list):
                    return [str(each) for each in listed]
                raise EnvironmentFailed(f"its sources cannot be read: {str(about.get('error', ''))[:500]}")
        raise EnvironmentFailed("its sources cannot be read")

    async def build(
        self, runtime: Runtime, template: Template, mounted: Path, archive: str, *, within: float
    ) -> tuple[str, bytes, str]:
        """A wheel's name and content, from the archive in this folder of what its build needs; else why there is none.

        `within` seconds. Raises EnvironmentFailed where it takes longer, or the container fails.
        """
        order = {"do": "build", "archive": f"{ENVIRONMENT}/{archive}"}
        async with self._work(runtime, template, order, mounted, within) as said:
            async for about, content in said:
                return str(about.get("file", ""))[:200], content, str(about.get("error", ""))[:8000]
        return "", b"", "the build did not come to an end"

    @asynccontextmanager
    async def _work(
        self,
        runtime: Runtime,
        template: Template,
        order: dict[str, Any],
        environment: Path | None,
        within: float,
        python: str = _IMAGES,
    ) -> AsyncIterator[AsyncIterator[tuple[dict[str, Any], bytes]]]:
        """Starts a container for this; what it says. It is ended afterwards."""
        name = uuid.uuid4().hex[:12]
        folder = self._scratch / name
        heard: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o711)
        spec = SandboxSpec(
            name, self._controller_id, replace(template, network="none"), folder, BUILDER_UID, environment
        )
        program = files("cellyard_controller.environments").joinpath("in_container.py").read_text()
        server = await asyncio.start_unix_server(lambda *ends: heard.put_nowait(ends), folder / _SOCKET)
        instance_id = ""
        try:
            (folder / _SOCKET).chmod(0o666)  # a stranger here; the folder above keeps others out
            async with asyncio.timeout(within):
                instance_id = await runtime.start_aside(spec, [python, "-I", "-S", "-c", program, json.dumps(order)])
                reader, writer = await _first(heard, runtime, instance_id)
                try:
                    yield _said(reader)
                finally:
                    writer.close()
        except TimeoutError:
            raise EnvironmentFailed(f"it was not finished within {amounts.duration(within)}") from None
        except RuntimeFailed as failed:
            raise EnvironmentFailed(f"no container for it could be started: {failed}") from failed
        finally:
            server.close()
            if instance_id:
                await asyncio.shield(_stop(runtime, instance_id))
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _first(
    heard: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]], runtime: Runtime, instance_id: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Who dials; where nobody ever will, says why."""
    while True:
        try:
            return await asyncio.wait_for(heard.get(), 2.0)
        except TimeoutError:
            instance = await runtime.inspect(instance_id)
            if instance is None or not instance.running:
                said = await runtime.log_tail(instance_id) if instance is not None else ""
                raise EnvironmentFailed("the container for it ended at once", log=said) from None


async def _said(reader: asyncio.StreamReader) -> AsyncIterator[tuple[dict[str, Any], bytes]]:
    """Line by line, until it hangs up. Untrusted. Raises EnvironmentFailed for what is none."""
    try:
        while line := await reader.readline():
            about = json.loads(line)
            size = about.get("size", 0)
            if not isinstance(size, int) or not 0 <= size <= _LARGEST:
                raise ValueError("a size that is none")
            yield about, await reader.readexactly(size)
    except (ValueError, AttributeError, RecursionError, asyncio.IncompleteReadError, OSError) as bad:
        raise EnvironmentFailed(f"the container for it says what it should not: {bad}") from None


async def _stop(runtime: Runtime, instance_id: str) -> None:
    try:
        await runtime.stop(instance_id)
    except RuntimeFailed:
        pass  # the next start finds it among what is ours and unknown, and removes it


def _mine() -> Interpreter:
    """The controller's own Python."""
    markers = {name: str(value) for name, value in default_environment().items()}
    name, version = platform.libc_ver()
    major, _, minor = version.partition(".")
    return Interpreter(markers, (name, int(major or 0), int(minor or 0)))


def _interpreter(about: dict[str, Any]) -> Interpreter:
    try:
        markers = {str(name): str(value)[:100] for name, value in about["markers"].items()}
        name, major, minor = about["libc"]
        found = Interpreter(markers, (str(name)[:20], int(major), int(minor)))
        _ = found.version, found.markers["python_full_version"], found.markers["implementation_name"]
    except (KeyError, ValueError, TypeError, AttributeError) as bad:
        raise EnvironmentFailed(f"the image does not tell what its Python is: {bad!r}") from None
    return found


def _put(site: Path, name: str, content: bytes) -> None:
    """Bytecode beside its source, and nothing anywhere else."""
    parts = PurePosixPath(name).parts
    if len(parts) < 2 or parts[-2] != "__pycache__" or not name.endswith(".pyc") or ".." in parts or name[:1] == "/":
        raise EnvironmentFailed("the container for it says what it should not: a file that is no bytecode")
    folder = site.joinpath(*parts[:-1])
    if not folder.parent.is_dir() or folder.resolve() != site.resolve().joinpath(*parts[:-1]):
        raise EnvironmentFailed("the container for it says what it should not: a place that is none")
    folder.mkdir(exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(folder / parts[-1], flags, 0o644), "wb") as file:
        file.write(content)
