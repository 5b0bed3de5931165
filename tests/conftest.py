"""What all tests share."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellyard_controller.runtimes import RuntimeFailed
from cellyard_controller.runtimes.docker import images
from tests.postgres_server import PostgresServer
from tests.stores import KINDS, Ground
from tests.tried_again import pytest_runtest_teardown as pytest_runtest_teardown

# Where an environment forbids it (that of a container image often does), each of a thousand processes would compile
# all that it imports anew: three seconds instead of one for a controller.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_LONGEST_FIRST = ("chaos", "e2e", "browser", "integration")
"""Folders in the order in which they begin; all others come last."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Benchmarks and soaks run only when they are asked for by marker; files that may take long begin first.

    A file stays together: what its tests share is started once, and each file is done by one process
    (`--dist loadfile`). What begins last is short, so that no process goes on for long after the others.
    """
    chosen = config.getoption("-m") or ""
    for name in ("bench", "soak"):
        if name not in chosen:
            for item in [item for item in items if item.get_closest_marker(name)]:
                items.remove(item)
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    items[:] = [item for file in sorted(files, key=lambda file: _order(file, files[file])) for item in files[file]]
    if os.environ.get("CI"):
        config.option.reportchars = config.option.reportchars or "fE"


def pytest_collection_finish() -> None:
    """Thousands of tests are there for good: nothing looks through them for garbage again and again."""
    gc.collect()
    gc.freeze()


def _order(file: Path, items: list[pytest.Item]) -> tuple[float, int, int]:
    kind = file.relative_to(Path(__file__).parent).parts[0]
    rank = _LONGEST_FIRST.index(kind) if kind in _LONGEST_FIRST else len(_LONGEST_FIRST)
    return -max(_time_limit(item) for item in items), rank, -len(items)


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that tests share, each with its own database. Whoever stops one starts its own."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture(params=KINDS[:2])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """Where a store can be opened: on either database, one after the other."""
    kind: str = request.param
    ground = Ground(kind, None if kind == "sqlite" else request.getfixturevalue("postgres"))
    yield ground
    ground.close()
