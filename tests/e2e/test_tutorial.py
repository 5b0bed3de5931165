"""The tutorial, worked through by a new user: with a state of their own, and no controller yet."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller_process import Process
from tests.doc_pages import Reader
from tests.package_index import PackageIndex

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

PACKAGE = "sortedcontainers"


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    """The package that the tutorial installs, as it is installed here."""
    index = PackageIndex()
    distribution = importlib.metadata.distribution(PACKAGE)
    sources = [file for file in distribution.files or () if file.suffix == ".py"]
    index.add(PACKAGE, distribution.version, {str(file): file.read_text() for file in sources})
    yield index
    index.close()


@pytest.fixture
def reader(built_image: str, folder: Path, index: PackageIndex) -> Iterator[Reader]:
    for name in ("state", "run", "work"):
        (folder / name).mkdir(mode=0o700)
    environment = {
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "CELLYARD_ENVIRONMENTS__INDEX": index.url,
        "CELLYARD_POOL__SIZE": "0",
    }
    reader = Reader(folder / "work", environment)
    yield reader
    reader.close()
    subprocess.run(["cellyard", "stop"], env=reader.environment, check=False, timeout=60)
    for container in Process(folder).containers():
        container.remove(force=True)


def test_every_block_of_the_tutorial_does_what_it_shows(reader: Reader) -> None:
    reader.read("tutorial.md")
