"""Real controllers as processes, real containers. Nothing here is a fake."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.controller_process import Process


@pytest.fixture
def controller(built_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A controller of this test's own, running."""
    process = Process(tmp_path_factory.mktemp("c"))
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def shared_controller(built_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A controller for all tests of a module."""
    process = Process(tmp_path_factory.mktemp("m"))
    process.start()
    yield process
    process.close()
