"""Real controllers as processes, real containers. Nothing here is a fake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller_process import Process


@pytest.fixture
def controller(built_image: str, folder: Path) -> Iterator[Process]:
    """A controller of this test's own, running."""
    process = Process(folder)
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def shared_controller(built_image: str, module_folder: Path) -> Iterator[Process]:
    """A controller for all tests of a module."""
    process = Process(module_folder)
    process.start()
    yield process
    process.close()
