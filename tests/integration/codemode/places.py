"""The storages that the conformance suite runs over: one line in PLACES adds one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.controller_process import Process
from tests.redis_server import RedisServer

import cellyard
from cellyard.codemode.storage.controller import ControllerStorage
from cellyard.codemode.storage.file import FileStorage
from cellyard.codemode.storage.protocols import StorageBackend
from cellyard.codemode.storage.redis import RedisStorage


@dataclass(frozen=True)
class Kind:
    """A kind of storage."""

    start: Callable[[Path], AbstractContextManager[Callable[[], str]]]
    """Starts what is needed, in a folder with a short path. Calling what comes gives addresses of new, empty places."""
    open: Callable[[str, str | None], StorageBackend]
    """A storage at an address, with a workspace; also from another process."""
    keeps_all: bool = True
    """Tools and requirements too."""


@contextmanager
def _folders(folder: Path) -> Iterator[Callable[[], str]]:
    numbers = itertools.count()
    yield lambda: str(folder / f"place{next(numbers)}")


@contextmanager
def _redis(folder: Path) -> Iterator[Callable[[], str]]:
    server, numbers = RedisServer(folder), itertools.count()
    try:
        yield lambda: f"{server.url}#place{next(numbers)}"
    finally:
        server.close()


def _open_redis(address: str, workspace_id: str | None) -> RedisStorage:
    url, _, prefix = address.partition("#")
    return RedisStorage(url, prefix=prefix, workspace_id=workspace_id)


@contextmanager
def _controller(folder: Path) -> Iterator[Callable[[], str]]:
    """Each place is a tenant's own."""
    process, numbers = Process(folder), itertools.count()
    process.start("--runtime", "process")
    try:
        with cellyard.Client(process.endpoint) as operator:
            yield lambda: f"{process.endpoint}#{operator.create_tenant(f'tenant{next(numbers)}').token}"
    finally:
        process.close()


def _open_controller(address: str, workspace_id: str | None) -> ControllerStorage:
    endpoint, _, token = address.partition("#")
    return ControllerStorage(endpoint, token, workspace_id=workspace_id)


PLACES = {
    "file": Kind(_folders, FileStorage),
    "redis": Kind(_redis, _open_redis),
    "controller": Kind(_controller, _open_controller, keeps_all=False),
}
