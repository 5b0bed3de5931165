"""What all tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellyard_controller.runtimes import RuntimeFailed
from cellyard_controller.runtimes.docker import images


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Benchmarks and soaks run only when they are asked for by marker; what may take long begins first."""
    chosen = config.getoption("-m") or ""
    for name in ("bench", "soak"):
        if name not in chosen:
            for item in [item for item in items if item.get_closest_marker(name)]:
                items.remove(item)
    items.sort(key=_time_limit, reverse=True)
    if os.environ.get("CI"):
        config.option.reportchars = config.option.reportchars or "fE"


def _time_limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None and marker.args else 0.0


@pytest.fixture(scope="session")
def built_image() -> str:
    """The default image, built where it is missing. Without an engine: skipped, but failed in CI."""
    try:
        client = images.connect()
    except RuntimeFailed as failure:
        if os.environ.get("CI"):
            pytest.fail(str(failure))
        pytest.skip(str(failure))
    try:
        return images.build(print, client=client)
    finally:
        client.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder with a short path, because a unix socket's has at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="cy"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def module_folder() -> Iterator[Path]:
    """Such a folder for all tests of a module."""
    path = Path(tempfile.mkdtemp(prefix="cy"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
