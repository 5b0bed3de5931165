"""How-to guides: every block of theirs is tried, and what they show comes."""

from __future__ import annotations

import importlib.metadata
import random
import shutil
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellyard_controller.config import Config
from tests import doc_pages
from tests.authority import Authority
from tests.controller_process import Process
from tests.doc_pages import Reader
from tests.package_index import PackageIndex

pytestmark = [pytest.mark.docker, pytest.mark.timeout(480)]

FOR_USERS = (
    "untrusted-code",
    "async-and-threads",
    "results-later",
    "collaborate",
    "environments",
    "notebooks-in-ci",
)
FOR_OPERATORS = ("tls", "tenants", "allow-hosts", "pool")
"""Of one controller: the first one starts it, with the configuration of them all."""
BY_AN_EXAMPLE = "custom-images"
"""What it shows is done by examples/custom_image.py."""


@pytest.fixture(scope="module")
def controller(built_image: str, module_folder: Path) -> Iterator[Process]:
    """One that fetches packages from an index here: `sortedcontainers`, as it is installed here."""
    name, index, process = "sortedcontainers", PackageIndex(), Process(module_folder)
    distribution = importlib.metadata.distribution(name)
    sources = [file for file in distribution.files or () if file.suffix == ".py"]
    index.add(name, distribution.version, {str(file): file.read_text() for file in sources})
    process.start(env={"CELLYARD_ENVIRONMENTS__INDEX": index.url})
    yield process
    process.close()
    index.close()


@pytest.mark.parametrize("page", ["../README", *(f"how-to/{guide}" for guide in FOR_USERS)])
def test_a_page_for_users_does_what_it_shows(page: str, controller: Process, folder: Path) -> None:
    reader = Reader(folder, {"CELLYARD_ENDPOINT": controller.endpoint})
    try:
        reader.read(f"{page}.md")
    finally:
        reader.close()


def test_guides_for_operators_do_what_they_show(built_image: str, folder: Path) -> None:
    for block in (block for guide in FOR_OPERATORS for block in doc_pages.blocks(f"how-to/{guide}.md")):
        if block.title == "cellyard.toml":
            with (folder / block.title).open("a") as configuration:
                configuration.write(block.text)
    authority = Authority(folder)
    server = authority.sign("localhost", "localhost")
    shutil.copy(server.cert, folder / "server.pem")
    shutil.copy(server.key, folder / "server.key")
    port = _free_port()
    reader = Reader(folder, {})
    try:
        for guide in FOR_OPERATORS:
            reader.read(f"how-to/{guide}.md", replace={"7070": port}, served=guide != FOR_OPERATORS[0])
    finally:
        reader.close()
        for container in Process(folder).containers():
            container.remove(force=True)


def _free_port() -> str:
    """A port that nobody has, and that nobody is given who asks for any."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return str(port)
            except OSError:
                pass  # taken: another one


def test_what_the_others_configure_is_a_configuration() -> None:
    blocks = list(doc_pages.blocks(f"how-to/{BY_AN_EXAMPLE}.md"))
    (text,) = (block.text for block in blocks if block.title == "cellyard.toml")
    assert Config(**tomllib.loads(text)).templates["words"].pool == 1
    for block in blocks:
        if block.language == "python":
            compile(block.text, block.language, "exec")


def test_no_guide_is_left_out() -> None:
    guides = {path.stem for path in (doc_pages.ROOT / "docs" / "how-to").glob("*.md")}
    assert guides == {*FOR_USERS, *FOR_OPERATORS, BY_AN_EXAMPLE}
