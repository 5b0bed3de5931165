"""Places for storages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.codemode.places import PLACES

from cellyard.codemode.storage.protocols import StorageBackend


class Place:
    """A kind of storage and where its places are."""

    def __init__(self, kind: str, fresh: Callable[[], str], stack: ExitStack) -> None:
        self.kind = kind
        self.keeps_all = PLACES[kind].keeps_all
        self.address = fresh()
        self._fresh = fresh
        self._stack = stack

    def open(self, workspace_id: str | None = None, address: str | None = None) -> StorageBackend:
        """Another storage at the test's own place, or at another address."""
        storage = PLACES[self.kind].open(address or self.address, workspace_id)
        self._stack.callback(storage.close)
        return storage

    def new_address(self) -> str:
        """The address of another, empty place."""
        return self._fresh()


@pytest.fixture(scope="module", params=PLACES)
def fresh(request: pytest.FixtureRequest, module_folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """A kind, and what makes addresses of it."""
    folder = module_folder / str(request.param)
    folder.mkdir()
    with PLACES[request.param].start(folder) as make:
        yield request.param, make


@pytest.fixture
def place(fresh: tuple[str, Callable[[], str]]) -> Iterator[Place]:
    """A new place, of each kind in turn."""
    with ExitStack() as stack:
        yield Place(*fresh, stack)


@pytest.fixture
def storage(place: Place) -> StorageBackend:
    """A storage at that place."""
    return place.open()
