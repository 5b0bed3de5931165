"""Controllers that are killed, with real containers that are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller_process import Process


@pytest.fixture
def process(built_image: str, folder: Path) -> Iterator[Process]:
    """A controller that is not started yet."""
    process = Process(folder)
    yield process
    process.close()
